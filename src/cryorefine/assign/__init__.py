"""Poses from images and a reference: exhaustive search, then refinement."""
