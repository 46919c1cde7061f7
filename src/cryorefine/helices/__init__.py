"""Helices of maps: how thick a filament is, twist and rise found, and imposed."""
