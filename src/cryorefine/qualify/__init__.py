"""How particles compare with their like: groups, percentiles within them, angular restlessness."""
