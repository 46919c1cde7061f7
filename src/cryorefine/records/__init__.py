"""The life of a run on disk: its loop, its folder, what it can be resumed and continued from."""
