"""Files: one module per format, nothing about refinement."""
