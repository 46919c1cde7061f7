"""What a run folder of cryorefine says, while the run is at work and after it; no Scipion here."""

import json
import os
from typing import Any, Dict, List, Tuple

from .star import read_blocks

__all__ = [
    "complaint",
    "fsc_curve",
    "is_begun",
    "methods",
    "n_segments",
    "path_in",
    "summary",
    "summary_lines",
]

FSC_COLUMN = "rlnFourierShellCorrelationCorrected"
"""The FSC that the resolution is taken from: within the mask, and corrected for it."""


def path_in(run: str, name: str) -> str:
    """Return the path of a file of the run."""
    return os.path.join(run, name)


def is_begun(run: str) -> bool:
    """Tell whether there is a run that ``cryorefine resume`` can go on with."""
    return os.path.exists(path_in(run, "manifest.json"))


def n_segments(run: str) -> int:
    """Return how many times the run was begun or continued; 0 before it was."""
    try:
        with open(path_in(run, "legs.json")) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return 0
    return len(found)


def summary(run: str) -> Dict[str, Any]:
    """Return ``summary.json``, which is renewed after every iteration; empty before the first."""
    try:
        with open(path_in(run, "summary.json")) as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def _share(count: int, total: int) -> str:
    return f"{count} of {total}"


def summary_lines(run: str) -> List[str]:
    """Return what a person wants to know of the run, in a few lines."""
    found = summary(run)
    if not found:
        return ["The run has not finished an iteration yet."]
    resolution = found.get("resolution_A")
    lines = [
        f"Iterations: {found['iterations']}"
        + ("" if found.get("finished") else ", and the run goes on"),
        "Resolution: "
        + (f"*{resolution:.2f} A*" if resolution else "none yet")
        + (
            f" (unmasked {found['resolution_unmasked_A']:.2f} A)"
            if found.get("resolution_unmasked_A")
            else ""
        ),
        f"Particles in the maps: {_share(found['n_used'], found['n_particles'])}"
        f" (half sets: {found['n_used_half1']} and {found['n_used_half2']})",
    ]
    if found.get("n_rejected"):
        reasons = ", ".join(f"{n} {reason}" for reason, n in found.get("set_aside", {}).items())
        lines.append(f"Particles set aside: {found['n_rejected']} ({reasons})")
    if found.get("n_fit_nothing"):
        lines.append(f"Particles that fit no pose as well as they should: {found['n_fit_nothing']}")
    if found.get("median_turn_deg") is not None:
        lines.append(f"Poses turned by {found['median_turn_deg']:.2f} degrees (median)")
    return lines


def methods(run: str) -> List[str]:
    """Return ``methods.txt``, the paragraph for a paper; empty before the first iteration."""
    try:
        with open(path_in(run, "methods.txt")) as file:
            return [line for line in file.read().splitlines() if line.strip()]
    except OSError:
        return []


def fsc_curve(run: str) -> Tuple[List[float], List[float]]:
    """Return frequencies (1/A) and the FSC that the resolution is taken from."""
    with open(path_in(run, "fsc.star")) as file:
        block = read_blocks(file)["fsc"]
    rows = list(block.records())
    return [float(r["rlnResolution"]) for r in rows], [float(r[FSC_COLUMN]) for r in rows]


def complaint(log: str) -> str:
    """Return the last line that cryorefine has written to a log about what went wrong."""
    try:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file if line.startswith("cryorefine: ")]
    except OSError:
        return ""
    return lines[-1] if lines else ""
