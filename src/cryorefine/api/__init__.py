"""What Python programs call: paths or objects in, result objects out."""
