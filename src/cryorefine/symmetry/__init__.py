"""The axes of a map: found, scored, and turned to where a convention has them."""
