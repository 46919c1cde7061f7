"""The run folder as files: names, lock, publication, what inputs were. No science, no settings."""
