"""Fourier transforms, bands, shells and filters: pure functions on tensors."""
