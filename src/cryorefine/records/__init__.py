"""The particles of a run: who takes part, in which half, and the tables of what was found."""
