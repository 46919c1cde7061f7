"""Draw the form of the protocol as a picture, without a screen.

Usage: python picture_of_form.py FILE.png. Scipion's own window needs an X server; here Qt draws the
definition that Scipion shows (sections, labels, defaults and levels of the real protocol) off the
screen. What a condition hides when the form opens is drawn in grey, and says what shows it.
"""

import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("SCIPION_DOMAIN", "pwem")

from pwem import Domain
from PyQt5 import QtGui, QtWidgets
from pyworkflow.protocol import params

STYLE = """
QWidget { background: white; font-size: 11px; }
QGroupBox { border: 1px solid #a02020; margin-top: 9px; font-weight: bold; }
QGroupBox::title { subcontrol-origin: margin; left: 8px; color: #a02020; }
QLineEdit, QComboBox { border: 1px solid #b0b0b0; max-height: 16px; }
QLineEdit, QComboBox { max-width: 130px; min-width: 110px; }
QLabel:disabled, QLineEdit:disabled, QComboBox:disabled, QRadioButton:disabled { color: #9a9a9a; }
"""
COLUMNS = (("Input", "Next Reference"), ("Angular assignment",), ("Weights", "Post-processing"))
"""Sections in three columns of about the same height; those that are not named end the last."""


def field(param, default):
    """Return a widget that shows a parameter as the form opens."""
    if isinstance(param, params.BooleanParam):
        box = QtWidgets.QWidget()
        layout = QtWidgets.QHBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 0)
        for text, value in (("Yes", True), ("No", False)):
            button = QtWidgets.QRadioButton(text)
            button.setChecked((str(default) == "True") == value)
            layout.addWidget(button)
        return box
    if isinstance(param, params.EnumParam):
        box = QtWidgets.QComboBox()
        box.addItems(param.choices)
        box.setCurrentIndex(int(default))
        return box
    if isinstance(param, params.PointerParam):
        line = QtWidgets.QLineEdit(param.pointerClass.get().replace(", ", " or "))
        line.setCursorPosition(0)
        return line
    return QtWidgets.QLineEdit("" if default in (None, "None") else str(default))


def section_box(section, form):
    """Return a box with the parameters of a section."""
    box = QtWidgets.QGroupBox(section.getLabel())
    layout = QtWidgets.QFormLayout(box)
    layout.setVerticalSpacing(1)
    for name, param in section.iterParams():
        if name in ("useGpu", "gpuList"):
            continue
        label = QtWidgets.QLabel(param.getLabel() + (" (advanced)" if param.isExpert() else ""))
        widget = field(param, param.getDefault())
        for part in (label, widget):
            part.setEnabled(form.evalParamCondition(name))
        layout.addRow(label, widget)
    return box


def main():
    """Draw, and write the picture."""
    protocol_class = Domain.getProtocols()["ProtCryorefine"]
    form = protocol_class().getDefinition()
    application = QtWidgets.QApplication(sys.argv[:1])
    application.setStyleSheet(STYLE)
    window = QtWidgets.QWidget()
    columns = QtWidgets.QHBoxLayout(window)
    sections = {section.getLabel(): section for section in form.iterSections()}
    sections.pop("General", None)
    named = [title for column in COLUMNS for title in column]
    rest = tuple(title for title in sections if title not in named)
    for titles in (*COLUMNS[:-1], COLUMNS[-1] + rest):
        column = QtWidgets.QVBoxLayout()
        for title in titles:
            column.addWidget(section_box(sections[title], form))
        column.addStretch()
        columns.addLayout(column)
    window.adjustSize()
    window.show()
    # Few colours: a picture in a repository is small.
    image = window.grab().toImage().convertToFormat(QtGui.QImage.Format_Indexed8)
    image.save(sys.argv[1])


if __name__ == "__main__":
    main()
