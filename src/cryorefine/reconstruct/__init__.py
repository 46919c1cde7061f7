"""From slices to volumes: sums on a grid, symmetry, regularised division."""
