"""What is wrong with a form, said before anything runs; nothing of Scipion is imported.

Ranges of numbers are cryorefine's to refuse, which it does in the first second of a run. Here is
what only the form knows, or what costs a place in a queue to find out.
"""

import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List

from .parameters import ALIGNMENTS

__all__ = ["Inputs", "problems"]

_MIRRORS = re.compile(r"ci|cs|s\d+|c\d+[hv]|d\d+[hv]|t[dh]|oh|i\d?h")
"""Point groups with a mirror or an inversion, in the names of Xmipp."""


@dataclass
class Inputs:
    """What the objects are that a form points at."""

    has_particles: bool = False
    has_poses: bool = False
    has_ctf: bool = False
    is_amplitude_corrected: bool = False
    n_volumes: int = 0
    has_run: bool = False
    run_is_begun: bool = False


def _numbers(text: str) -> List[float]:
    return [float(word) for word in text.replace(",", " ").split()]


def _particles_and_run(values: Dict[str, Any], inputs: Inputs) -> Iterator[str]:
    mode = ALIGNMENTS[values["alignmentMethod"]]
    if values["doContinue"]:
        if not inputs.has_run:
            yield "Choose the previous run that is to be continued."
        elif not inputs.run_is_begun:
            yield "The previous run has not begun to refine: there is nothing to continue."
        return
    if not inputs.has_particles:
        yield "Choose particles, or continue a previous run."
        return
    if values["useCTF"] and not inputs.has_ctf:
        yield (
            "The particles have no CTF. Assign one to them, or say that images have no contrast "
            "transfer."
        )
    if mode in ("local", "none") and not inputs.has_poses:
        yield f"Image alignment '{mode}' starts from poses, and the particles have none."
    elif not inputs.n_volumes and not inputs.has_poses:
        yield (
            "Choose an initial volume: without one the start is reconstructed from the poses of "
            "the particles, and they have none."
        )
    if inputs.n_volumes > 2:
        yield f"Initial volumes are one, or two for the half sets; the set has {inputs.n_volumes}."


def _form(values: Dict[str, Any]) -> Iterator[str]:
    group = str(values["symmetryGroup"] or "").strip().lower()
    if not group:
        yield "Symmetry group is empty: c1 is no symmetry."
    elif _MIRRORS.fullmatch(group):
        yield f"Symmetry group {group} has a mirror, which turns molecules into others."
    for low, high, what in (
        ("angularMinTilt", "angularMaxTilt", "tilt angle"),
        ("angularMinTiltReconstruct", "angularMaxTiltReconstruct", "tilt of reconstruction"),
    ):
        if (values[low] or 0.0) >= (values[high] or 0.0):
            yield f"The min. {what} is not below the max. {what}."
    for name, what in (
        ("maximumTargetResolution", "Max. target resolution"),
        ("postSymmetryAngles", "Axes of the symmetry"),
    ):
        try:
            _numbers(values[name] or "")
        except ValueError:
            yield f"{what} is a list of numbers, such as 15 8 4; it is '{values[name]}'."
    if values["postSymmetryWithinMask"] and not values["postSymmetryWithinMaskMask"]:
        yield "Symmetrizing the volume within a mask needs the symmetry mask."
    percentile = values.get("keepAbovePercentile")
    if values["doContinue"] and percentile is not None and not 0 <= percentile < 100:
        yield "The percentile of particles to leave out is 0 or more, and less than 100."


def problems(values: Dict[str, Any], inputs: Inputs) -> List[str]:
    """Return what is wrong, in sentences for the person who filled in the form."""
    return [*_particles_and_run(values, inputs), *_form(values)]
