"""Viewers of the plugin."""

from .viewer_refine import CryorefineViewer, ReportView

__all__ = ["CryorefineViewer", "ReportView"]
