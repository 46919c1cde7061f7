"""Filaments in a run: the helix of its half maps, and what poses of segments are alike."""
