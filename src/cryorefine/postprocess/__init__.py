"""What is done to finished maps: filters, masks, commands. Raw half maps stay as they are."""
