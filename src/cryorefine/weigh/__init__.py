"""How much each particle counts in a map: weights from single scores, and their product."""
