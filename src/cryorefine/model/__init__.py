"""The forward model: particles' images as projections, contrast transfer and noise."""
