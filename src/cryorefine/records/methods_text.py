"""A run in words: what was done, and a paragraph for a paper."""

import math
from importlib.metadata import version
from typing import Any

from cryorefine.settings import RefineSettings
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Inputs, State

__all__ = ["methods_text", "summary_text"]

_WEIGHTS = {
    "weight_ssnr": "the signal-to-noise ratio of their images",
    "weight_cost": "their correlation in local iterations",
    "weight_stability": "the stability of their poses",
    "weight_cc": "the percentile of their correlation among particles of like defocus",
}
_REFINED = {
    "refine_grey": "grey scale and offset",
    "refine_scale": "magnification",
    "refine_magnification": "anisotropic magnification",
    "refine_defocus": "defocus and astigmatism",
}


def _listed(items: list[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def _angstrom(value: float | None) -> str:
    return "no resolution" if value is None else f"{value:.2f} Å"


def _deg(value: float) -> str:
    return "" if value != value else f", poses turned {value:.2f}° (median)"


def _refined(settings: RefineSettings) -> list[str]:
    """Return what was refined of single particles beside their poses."""
    if not settings.refines_values_at_end:
        return _requested(settings, _REFINED)
    at_end = {"refine_grey", "refine_scale"} | ({"refine_defocus"} if settings.ctf else set())
    return [text for name, text in _REFINED.items() if name in at_end or getattr(settings, name)]


def _requested(settings: RefineSettings, names: dict[str, str]) -> list[str]:
    return [text for name, text in names.items() if getattr(settings, name)]


def _line(record: IterationRecord) -> str:
    resolution = None if record.resolution_A == float("inf") else record.resolution_A
    return (
        f"  {record.iteration:3d}  {record.mode:6s}  compared to {record.align_resolution_A:6.2f} Å"
        f"  resolution {_angstrom(resolution)}{_deg(record.median_turn_deg)}"
    )


def summary_text(
    inputs: Inputs, state: State, summary: dict[str, Any], statistics: dict[str, Any]
) -> str:
    """Return what was done and what came of it, for a person, one line a fact."""
    settings = inputs.settings
    lines = [
        f"cryorefine {version('cryorefine')}: {settings.alignment} alignment, "
        f"{state.iteration} iterations{'' if summary['finished'] else ' so far'}",
        "",
        f"particles     {statistics['n_input']} in {settings.particles}",
        f"  rejected    {statistics['n_rejected']}"
        + "".join(f"; {n}: {why}" for why, n in statistics["rejected_because"].items()),
        f"  used        {statistics['n_used']} (worth {statistics['effective_particles']:.0f} of "
        "equal weight)",
    ]
    for name, what in (
        ("n_without_pose", "have no pose (cryorefineIsAssigned 0 in particles.star)"),
        ("n_pose_of_file", "were not drawn and keep the pose of the file"),
        ("n_at_tilt_limit", "have their pose on a tilt limit"),
        ("n_outside_tilts", "have a pose outside the tilt limits and are set aside"),
        ("n_without_weight", "have a pose, but no weight in the maps"),
        ("n_fit_nothing", "fit no pose as well as they should (cryorefineFitsNothing 1)"),
        ("n_undecided", "fit several poses alike, all in undecided_poses.star"),
    ):
        if statistics[name]:
            lines.append(f"  {statistics[name]} {what}")
    lines += [
        f"half sets     {statistics['half_sets'][0]} and {statistics['half_sets'][1]}",
        f"symmetry      {inputs.group.name}",
        f"maps          {inputs.size_px} voxels of {inputs.voxel_A:.4g} Å, particle radius "
        f"{inputs.geometry.radius_A:.1f} Å",
        f"resolution    {_angstrom(summary['resolution_A'])} at FSC {settings.fsc_criterion:g} "
        f"(unmasked {_angstrom(summary['resolution_unmasked_A'])})",
        *_worst_direction(summary),
        f"weights       {_listed(_requested(settings, _WEIGHTS)) or 'all particles alike'}",
    ]
    refined = _refined(settings)
    if refined:
        lines.append(f"also refined  {_listed(refined)}")
    lines += [
        f"computing     {summary['wall_s']:.0f} s, {summary['cpu_s']:.0f} s of CPU time, "
        f"{summary['peak_rss_bytes'] / 1e9:.2f} GB, on {summary['device']}",
        "",
        "iterations",
        *map(_line, state.history),
    ]
    return "\n".join(lines) + "\n"


def _worst_direction(summary: dict[str, Any]) -> list[str]:
    worst_A = summary["resolution_worst_A"]
    return [] if worst_A is None else [f"  worst       {worst_A:.2f} Å, by direction"]


def methods_text(
    inputs: Inputs, state: State, summary: dict[str, Any], statistics: dict[str, Any]
) -> str:
    """Return a paragraph for a paper's methods section, with settings and versions."""
    settings = inputs.settings
    n_global = sum(record.mode == "global" for record in state.history)
    n_local = sum(record.mode == "local" for record in state.history)
    parts = []
    if n_global:
        kind = "of random subsets " if settings.alignment == "stochastic" else ""
        parts.append(f"{n_global} {_times(n_global)} {kind}with searches of all orientations")
    if n_local:
        parts.append(f"{n_local} local {_times(n_local)}")
    text = [
        f"Particles ({statistics['n_input']} images, {statistics['n_rejected']} of them rejected) "
        f"were {'refined' if parts else 'reconstructed'} with cryorefine {version('cryorefine')} "
        f"(torch {version('torch')})",
        f"in {_listed(parts)}" if parts else "with the poses given",
        f"imposing {inputs.group.name.upper()} symmetry.",
    ]
    sentences = [" ".join(text)]
    if math.isfinite(state.start_A):
        sentences.append(
            f"The first references were the half maps of the given poses ({state.start_A:.2f} Å)."
        )
    elif settings.reference:
        maps = "map was" if len(settings.reference) == 1 else "maps were"
        sentences.append(
            f"The initial {maps} low-pass filtered to {settings.initial_lowpass_angstrom:g} Å."
        )
    found = "Poses were found by maximum likelihood" if parts else "Half maps were made"
    if settings.ctf:
        sentences.append(
            f"{found} with the full contrast transfer function of every particle and noise spectra "
            f"estimated for each half set{', which was refined on its own' if parts else ''}."
        )
    else:
        sentences.append(
            f"{found} with noise spectra estimated for each half set"
            f"{', which was refined on its own' if parts else ''}; no contrast transfer was "
            "corrected."
        )
    weights = _requested(settings, _WEIGHTS)
    if weights:
        sentences.append(f"In reconstructions particles were weighted by {_listed(weights)}.")
    refined = _refined(settings)
    if refined:
        sentences.append(f"For each particle {_listed(refined)} were refined.")
    if summary["resolution_A"] is not None:
        mask = "the given mask" if settings.mask else "a soft mask found in the map"
        sentences.append(
            f"The resolution is {summary['resolution_A']:.2f} Å by the Fourier shell correlation "
            f"of the half maps at {settings.fsc_criterion:g}, within {mask} and corrected for it "
            "by phase randomisation."
        )
    sentences.append(f"{statistics['n_used']} particles contributed to the final map.")
    return " ".join(sentences) + "\n"


def _times(n: int) -> str:
    return "iteration" if n == 1 else "iterations"
