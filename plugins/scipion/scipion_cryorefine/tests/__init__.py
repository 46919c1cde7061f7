"""Tests that run in Scipion's environment, without a screen and without a download."""
