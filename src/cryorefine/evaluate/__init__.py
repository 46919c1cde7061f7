"""How good a map is: correlation of half maps, resolution, coverage of orientations."""
