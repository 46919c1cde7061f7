"""Particles: one canonical table, their images, their half sets; ``formats`` reads and writes."""
