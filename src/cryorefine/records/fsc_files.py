"""FSC curves as files: STAR of RELION's post-processing, XML that EMDB takes, and CSV.

All are written from one record of the curves, and hold the same numbers.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import FscCurves
from cryorefine.io.atomic import write_text
from cryorefine.io.star import write_star
from cryorefine.state.state import Evaluation

__all__ = ["FSC_FILES", "FscRecord", "write_fsc", "write_fsc_of_run"]

FSC_FILES = ("fsc.star", "fsc.xml", "fsc.csv")
"""Of an iteration."""

_NONE_A = 1e6
"""Stands for an infinite length in tables of plain numbers."""

_ZERO_SHELL_A = 999.0
"""Length that RELION writes of shell 0, whose frequency is 0."""

_DIGITS = 6  # after the point, as in the STAR file

_RANDOMISED = "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"


@dataclass(frozen=True, eq=False)
class FscRecord:
    """What a file of FSC curves holds.

    Attributes
    ----------
    curves
        Of two half maps.
    resolution_A
        Where the corrected curve crosses 0.143; infinite if it does at once.
    comparison
        Correlation of their average with a known map, if there is one.
    """

    curves: FscCurves
    resolution_A: float
    comparison: Float[Tensor, "s"] | None = None

    def general(self) -> dict[str, np.ndarray]:
        """Return the numbers that belong to no shell, by RELION's labels."""
        return {
            "rlnFinalResolution": np.array([min(self.resolution_A, _NONE_A)]),
            "rlnRandomiseFrom": np.array([min(self.curves.randomised_from_A, _NONE_A)]),
        }

    def columns(self) -> dict[str, np.ndarray]:
        """Return the curves, a row for each shell, by RELION's labels."""
        curves = self.curves
        frequency = curves.frequency_per_A.numpy()
        with np.errstate(divide="ignore"):
            angstrom = np.where(frequency > 0, 1 / frequency, _ZERO_SHELL_A)
        columns = {
            "rlnSpectralIndex": np.arange(len(frequency)),
            "rlnResolution": frequency,
            "rlnAngstromResolution": angstrom,
            "rlnFourierShellCorrelationCorrected": curves.corrected.numpy(),
            "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked.numpy(),
            "rlnFourierShellCorrelationMaskedMaps": curves.masked.numpy(),
            _RANDOMISED: curves.randomised.numpy(),
            "cryorefineFourierShellCorrelationOutsideMask": curves.outside.numpy(),
        }
        if self.comparison is not None:
            columns["cryorefineComparisonFSC"] = self.comparison.numpy()
        return columns


_CSV_NAMES = {
    "rlnSpectralIndex": "shell",
    "rlnResolution": "frequency_per_A",
    "rlnAngstromResolution": "resolution_A",
    "rlnFourierShellCorrelationCorrected": "corrected",
    "rlnFourierShellCorrelationUnmaskedMaps": "unmasked",
    "rlnFourierShellCorrelationMaskedMaps": "masked",
    _RANDOMISED: "phase_randomised",
    "cryorefineFourierShellCorrelationOutsideMask": "outside_mask",
    "cryorefineComparisonFSC": "comparison",
}


def write_fsc_of_run(folder: Path, evaluation: Evaluation) -> None:
    """Write an iteration's curves, with those against a known map if there is one, to all files."""
    record = FscRecord(evaluation.curves, evaluation.resolution_A, evaluation.comparison_fsc)
    for name in FSC_FILES:
        write_fsc(folder / name, record)


def write_fsc(path: Path, record: FscRecord) -> None:
    """Write curves as the suffix says: ``.xml`` for EMDB, ``.csv``, and STAR for any other."""
    match path.suffix.lower():
        case ".xml":
            write_text(path, _xml(record))
        case ".csv":
            write_text(path, _csv(record))
        case _:
            write_star(path, {"general": record.general(), "fsc": record.columns()})


def _xml(record: FscRecord) -> str:
    """Return the corrected curve as EMDB takes it.

    One element ``fsc`` with the titles of the axes, and in it a ``coordinate`` for each shell: x is
    the frequency in 1/Å, y the correlation.
    """
    corrected = np.isfinite(record.curves.randomised_from_A)
    how = "corrected for the mask by randomised phases" if corrected else "without mask"
    columns = record.columns()
    x_per_A, y = columns["rlnResolution"], columns["rlnFourierShellCorrelationCorrected"]
    lines = [
        f'<fsc title="cryorefine: half maps, {how}" xaxis="Resolution (A-1)" '
        'yaxis="Correlation Coefficient">'
    ]
    for point in zip(x_per_A, y, strict=True):
        x_text, y_text = (f"{value:.{_DIGITS}f}" for value in point)
        lines.append(f"  <coordinate><x>{x_text}</x><y>{y_text}</y></coordinate>")
    return "\n".join([*lines, "</fsc>", ""])


def _csv(record: FscRecord) -> str:
    """Return all curves with a line of names; shell 0 has no resolution."""
    columns = record.columns()
    lines = [",".join(_CSV_NAMES[label] for label in columns)]
    for row in zip(*columns.values(), strict=True):
        texts = [str(row[0]), *(f"{value:.{_DIGITS}f}" for value in row[1:])]
        if row[0] == 0:
            texts[2] = ""
        lines.append(",".join(texts))
    return "\n".join([*lines, ""])
