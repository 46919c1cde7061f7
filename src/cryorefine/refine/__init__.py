"""Refinement: settings, schedule, state, one iteration, the loop, and what it leaves behind."""
