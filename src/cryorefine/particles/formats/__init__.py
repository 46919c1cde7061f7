"""One module a metadata format: from its labels and units to the canonical table, and back."""
