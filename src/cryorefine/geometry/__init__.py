"""Rotations, point groups and grids of orientations: pure functions on tensors."""
