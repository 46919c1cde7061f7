"""Photograph the protocol's form as Scipion shows it: its own window, one picture for each section.

Usage, where no screen is at hand (Xvfb is the virtual one):

    xvfb-run -s "-screen 0 1400x1000x24" python photograph_of_form.py FOLDER FILE.png

A Scipion project is made anew in FOLDER, the form of a new protocol is opened in it, and its
sections are photographed one after the other and put side by side in FILE.png.
"""

import os
import sys
from pathlib import Path

from run_tests import make_home

COLUMNS = 2
"""Sections side by side in the picture."""

_DRAWN_MS = 300
"""What the window is given to be drawn, in milliseconds: it takes a tenth of that."""


def photograph(window):
    """Return a picture of each section of a form, as Scipion draws it."""
    from PIL import ImageGrab

    root = window.root
    notebook = next(part for part in descendants(root) if part.winfo_class() == "TNotebook")
    pictures = []
    for tab in notebook.tabs():
        notebook.select(tab)
        root.update()
        root.after(_DRAWN_MS)
        root.update()
        left, top = root.winfo_rootx(), root.winfo_rooty()
        box = (left, top, left + root.winfo_width(), top + root.winfo_height())
        pictures.append(ImageGrab.grab(box, xdisplay=os.environ["DISPLAY"]))
    return pictures


def descendants(widget):
    """Return all widgets within one."""
    parts = widget.winfo_children()
    return parts + [part for child in parts for part in descendants(child)]


def main():
    """Open the form, photograph it, and write the picture."""
    make_home(Path(sys.argv[1]).resolve())
    import pyworkflow.gui.project  # noqa: F401  # before the form: they import each other
    from PIL import Image
    from pwem import Domain
    from pyworkflow.gui.form import FormWindow
    from pyworkflow.project import Manager
    from pyworkflow.protocol import LEVEL_ADVANCED

    project = Manager().createProject("form")
    protocol = project.newProtocol(Domain.getProtocols()["ProtCryorefine"])
    protocol.expertLevel.set(LEVEL_ADVANCED)  # all parameters are shown
    window = FormWindow("cryorefine", protocol, lambda *_: None)
    window.adjustSize()
    window.root.deiconify()
    pictures = photograph(window)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % COLUMNS * width, i // COLUMNS * height))
    # Few colours: a picture in a repository is small.
    sheet.quantize(64).save(sys.argv[2], optimize=True)


if __name__ == "__main__":
    main()
