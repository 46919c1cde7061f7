"""How much each particle counts: ranks among its like, weights by single scores, products."""
