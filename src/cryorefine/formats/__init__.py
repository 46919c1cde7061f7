"""Particle files of all programs: told by what they hold, read, written and converted."""
