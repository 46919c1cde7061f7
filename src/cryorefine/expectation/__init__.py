"""What images say of a reference: their poses, first of all, and how sure these are."""
