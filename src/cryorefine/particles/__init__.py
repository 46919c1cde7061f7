"""Particles: one canonical table, their images, and one module per metadata format."""
