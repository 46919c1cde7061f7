"""What is done to a finished map: weighting and sharpening. Raw half maps stay as they are."""
