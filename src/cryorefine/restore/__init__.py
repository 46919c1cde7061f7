"""Maps to maps: filters, shapes, sharpening, commands. Raw half maps stay as they are."""
