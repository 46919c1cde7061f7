"""What the page says first: how the run stands and what it reached."""

import math
import time
from dataclasses import dataclass
from itertools import pairwise

from cryorefine.events import WarningGiven
from cryorefine.report.number_formats import amount, angstrom, count, duration, memory
from cryorefine.report.run_folder import RunFolder

__all__ = ["Fact", "State", "headline", "messages", "run_state"]

_SILENT_S = 900.0
"""Seconds without a sign after which a run may have died: a quarter of an hour. Not measured."""

_SILENT_GAPS = 3.0
"""The same, in units of the longest gap so far, for slow runs."""


@dataclass(frozen=True)
class State:
    """How the run stands.

    Attributes
    ----------
    word
        ``running``, ``finished`` or ``stopped``.
    sentence
        The same for the reader.
    """

    word: str
    sentence: str


@dataclass(frozen=True)
class Fact:
    """A number with its name and, where it needs one, a remark."""

    name: str
    value: str
    remark: str = ""


def run_state(run: RunFolder, now: float) -> State:
    """Tell whether the run goes on.

    A run that the user or a full disk stopped says so; one that is killed leaves no word. One
    that has recorded nothing for a quarter of an hour and three times its longest silence so far
    is taken as stopped.

    Parameters
    ----------
    now
        Seconds since 1970.
    """
    done = run.summary.get("iterations", 0)
    times = f"{done} iteration" + ("" if done == 1 else "s")
    kinds = [e.kind for e in run.events]
    resumed = max((i for i, kind in enumerate(kinds) if kind in ("start", "resume")), default=0)
    last = {kind: i for i, kind in enumerate(kinds)}
    # The summary is still that of the segment before until the new one has made an iteration.
    is_new_segment = last.get("leg", -1) > last.get("iteration", -1)
    if (run.summary.get("finished") and not is_new_segment) or "end" in kinds[resumed:]:
        if run.summary.get("converged"):
            return State("finished", f"Finished: converged after {times}.")
        settings = run.settings
        is_fixed = settings.get("automatic_schedule") in ("fixed", "highres")
        if settings.get("alignment") == "automatic" and not is_fixed:
            return State(
                "finished",
                f"Finished after {times}, the most allowed, before it converged: more iterations "
                "may improve it.",
            )
        if settings.get("alignment") == "none":
            return State("finished", "Finished: reconstructed from the poses in the file.")
        return State("finished", f"Finished after {times}, as asked.")
    if "stopped" in kinds[resumed:]:
        return State("stopped", f"Stopped after {times}. 'cryorefine resume' goes on from there.")
    signs = [(e.time_s, e.kind) for e in run.events if math.isfinite(e.time_s)]
    last_s = signs[-1][0] if signs else now
    # The time between two parts of a resumed run is not a silence of the run.
    gaps_s = [b - a for (a, _), (b, kind) in pairwise(signs) if kind != "resume"]
    if now - last_s > max(_SILENT_S, _SILENT_GAPS * max(gaps_s, default=0.0)):
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(last_s))
        return State(
            "stopped",
            f"Stopped after {times}: no sign of it since {since}. "
            "'cryorefine resume' goes on from there.",
        )
    if done == 0:
        return State("running", "Running: the first iteration is under way.")
    return State("running", f"Running: {times} done. The results below are not final.")


def headline(run: RunFolder) -> list[Fact]:
    """Return the numbers of the page's head, the two resolutions first."""
    s = run.summary
    voxel_A, box_px = s.get("voxel_A"), s.get("box_px")
    size = "" if voxel_A is None or box_px is None else f"{amount(voxel_A * box_px)} Å wide"
    return [
        _resolution(run, "Resolution", "resolution_A", f"corrected FSC = {run.criterion:g}"),
        _resolution(run, "Unmasked", "resolution_unmasked_A", f"FSC = {run.criterion:g}"),
        Fact("Particles used", count(s.get("n_used")), _others(run)),
        Fact("Symmetry", str(s.get("symmetry", "–")).upper()),
        Fact("Box", "–" if box_px is None else f"{box_px} px", size),
        Fact("Voxel", "–" if voxel_A is None else f"{voxel_A:.4g} Å"),
        Fact("Iterations", count(s.get("iterations", 0))),
        Fact("Wall time", duration(s.get("wall_s"))),
        Fact("CPU time", duration(s.get("cpu_s"))),
        Fact("Peak memory", memory(s.get("peak_rss_bytes"))),
    ]


def _others(run: RunFolder) -> str:
    """Return how many particles are not used, by what became of them."""
    s = run.summary
    rejected = s.get("n_rejected")
    parts = [f"{'none' if rejected == 0 else count(rejected)} rejected"]
    for name, what in (("n_left_out", "left out"), ("n_not_drawn", "not drawn")):
        if s.get(name):
            parts.append(f"{count(s[name])} {what}")
    return ", ".join(parts)


def _resolution(run: RunFolder, name: str, key: str, remark: str) -> Fact:
    """Return a resolution; one at twice the voxel size is where the curve ends, not a crossing."""
    if key not in run.summary:
        return Fact(name, "–", "after the first iteration")
    value, voxel_A = run.summary[key], run.summary.get("voxel_A")
    if value is not None and voxel_A is not None and value < 2.001 * voxel_A:
        remark += " not reached: limited by the voxel size"
    return Fact(name, angstrom(value), remark)


def messages(run: RunFolder) -> list[str]:
    """Return every warning of the run once, in the order of their first appearance."""
    found = [str(e.message) for e in run.events if isinstance(e, WarningGiven)]
    return list(dict.fromkeys(found))
