"""What programs around this one expect: RELION's pipeline, and those that a refinement begins."""
