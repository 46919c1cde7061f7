"""Soft masks of images and volumes."""
