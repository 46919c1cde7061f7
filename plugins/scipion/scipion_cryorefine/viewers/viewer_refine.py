"""The viewer: the report of a run, in a browser."""

import os
import webbrowser
from pathlib import Path

from pyworkflow.viewer import DESKTOP_TKINTER, MSG_INFO, MessageView, View, Viewer

from scipion_cryorefine.protocols import ProtCryorefine


class ReportView(View):
    """A page that is opened in the browser; it needs no network."""

    def __init__(self, path):
        super().__init__()
        self.address = Path(os.path.abspath(path)).as_uri()

    def show(self):
        """Open the page."""
        webbrowser.open(self.address)


class CryorefineViewer(Viewer):
    """Opens the report of a run, also while it runs."""

    _name = "report of cryorefine"
    _targets = (ProtCryorefine,)
    _environments = (DESKTOP_TKINTER,)

    def _visualize(self, obj, **kwargs):
        path = obj.getReportPath()
        if os.path.exists(path):
            return [ReportView(path)]
        text = "The report comes with the first iteration, which has not finished yet."
        return [MessageView(text, "cryorefine", MSG_INFO, self.getTkRoot())]
