"""Protocols of the plugin."""

from .protocol_refine import ProtCryorefine

__all__ = ["ProtCryorefine"]
