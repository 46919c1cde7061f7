"""A run in words: what was done, and a paragraph for a paper."""

import math
from importlib.metadata import version
from typing import Any

from cryorefine.evaluate.symmetry_agreement import is_contradicted
from cryorefine.records.settings_in_words import (
    REFINED,
    WEIGHTS,
    changed_settings,
    listed,
    requested,
    settings_sentences,
)
from cryorefine.refine.particle_weights import file_weights
from cryorefine.settings import RefineSettings
from cryorefine.state.earlier_values import earlier_values
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Inputs, State

__all__ = ["methods_text", "summary_text"]


def _angstrom(value: float | None) -> str:
    return "no resolution" if value is None else f"{value:.2f} Å"


def _deg(value: float) -> str:
    return "" if value != value else f", poses turned {value:.2f}° (median)"


def _line(record: IterationRecord) -> str:
    resolution = None if record.resolution_A == float("inf") else record.resolution_A
    counts = record.counts
    used = "" if counts is None else f", {counts.n_used} particles in the maps"
    if record.helix is not None:
        used += f", twist {record.helix.twist_deg:.3f}°, rise {record.helix.rise_A:.3f} Å"
    return (
        f"  {record.iteration:3d}  {record.mode:6s}  compared to {record.align_resolution_A:6.2f} Å"
        f"  resolution {_angstrom(resolution)}{_deg(record.median_turn_deg)}{used}"
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
        + "".join(f"; {n}: {why}" for why, n in statistics["set_aside"].items()),
        *(f"  left out    {n} for {why}" for why, n in statistics["left_out"].items()),
        f"  used        {statistics['n_used']} (worth {statistics['effective_particles']:.0f} of "
        "equal weight)",
    ]
    for name, what in (
        ("n_without_pose", "have no pose (cryorefineIsAssigned 0 in particles.star)"),
        ("n_pose_of_file", "were not drawn and keep the pose of the file"),
        ("n_at_tilt_limit", "have their pose on a tilt limit"),
        ("n_outside_tilts", "have a pose outside the tilt limits and are set aside"),
        ("n_not_drawn", "were not drawn, and are in no map"),
        ("n_fit_nothing", "fit no pose as well as they should (cryorefineFitsNothing 1)"),
        ("n_undecided", "fit several poses alike, all in undecided_poses.star"),
    ):
        if statistics[name]:
            lines.append(f"  {statistics[name]} {what}")
    lines += [
        f"half sets     {statistics['half_sets'][0]} and {statistics['half_sets'][1]}",
        f"symmetry      {inputs.group.name}",
        *_contradiction(state),
        *_helix(state.history),
        f"maps          {inputs.size_px} voxels of {inputs.voxel_A:.4g} Å, particle radius "
        f"{inputs.geometry.radius_A:.1f} Å",
        f"resolution    {_angstrom(summary['resolution_A'])} at FSC {settings.fsc_criterion:g} "
        f"(unmasked {_angstrom(summary['resolution_unmasked_A'])})",
        *_worst_direction(summary),
        f"weights       {_weights(inputs, state)}",
    ]
    refined = requested(settings, REFINED)
    if refined:
        lines.append(f"also refined  {listed(refined)}")
    lines += [
        f"computing     {summary['wall_s']:.0f} s, {summary['cpu_s']:.0f} s of CPU time, "
        f"{summary['peak_rss_bytes'] / 1e9:.2f} GB, on {summary['device']}",
        "",
        "settings that are no defaults",
        *(f"  {text}" for text in changed_settings(settings)),
        "",
        "iterations",
        *map(_line, state.history),
    ]
    return "\n".join(lines) + "\n"


def _helix(history: list[IterationRecord]) -> list[str]:
    """Return the last helix, how well it is known, and what each half showed."""
    helix = history[-1].helix if history else None
    if helix is None:
        return []
    if helix.twist_uncertainty_deg is None or helix.rise_uncertainty_A is None:
        why = f"not found anew: {helix.refused}" if helix.refused else "as given"
        return [f"helix         {helix.twist_deg:.3f}°, {helix.rise_A:.3f} Å ({why})"]
    halves = [f"{twist_deg:.3f}°, {rise_A:.3f} Å" for twist_deg, rise_A in helix.halves]
    return [
        f"helix         {helix.twist_deg:.3f} ± {helix.twist_uncertainty_deg:.3f}°, "
        f"{helix.rise_A:.3f} ± {helix.rise_uncertainty_A:.3f} Å (halves: {listed(halves)})"
    ]


def _weights(inputs: Inputs, state: State) -> str:
    """Return what particles are weighted by, for the summary."""
    given = file_weights(inputs, state.history)
    alike = "all particles alike" if given is None else "those of the particle file"
    return listed(requested(inputs.settings, WEIGHTS)) or alike


def _of_file(inputs: Inputs, state: State) -> list[str]:
    """Return what was used of an earlier run that the particle file comes from."""
    found = []
    if file_weights(inputs, state.history) is not None:
        found.append("Particles had the weights of an earlier run that are in the particle file.")
    if earlier_values(inputs.table) is not None:
        found.append(
            "Grey values and magnifications of single particles began as an earlier run left them "
            "in the particle file."
        )
    return found


def _contradiction(state: State) -> list[str]:
    """Return how images contradict the symmetry, if they do."""
    e = state.evaluation
    if e is None or not is_contradicted(e.symmetry_gain, e.asymmetric_share):
        return []
    return [
        f"  without it one half's images explain the other's better by {e.symmetry_gain:.0f} nats, "
        f"and {e.asymmetric_share:.0%} of the coarse detail is not symmetric"
    ]


def _worst_direction(summary: dict[str, Any]) -> list[str]:
    worst_A = summary["resolution_worst_A"]
    return [] if worst_A is None else [f"  worst       {worst_A:.2f} Å, by direction"]


def methods_text(
    inputs: Inputs,
    state: State,
    summary: dict[str, Any],
    statistics: dict[str, Any],
    *,
    since: int = 1,
) -> str:
    """Return a paragraph for a paper's methods section, with settings and versions.

    Parameters
    ----------
    since
        Iteration that began with the settings: those before had others.
    """
    settings = inputs.settings
    parts = _iterations(state.history)
    sentences = [
        " ".join(
            [
                f"Particles ({_given(settings, statistics)}) were "
                f"{'refined' if parts else 'reconstructed'} with cryorefine "
                f"{version('cryorefine')} (torch {version('torch')})",
                f"in {listed(parts)}" if parts else "with the poses given",
                f"imposing {inputs.group.name.upper()} symmetry.",
            ]
        ),
        *_start(settings, state),
        _model(settings, is_refined=bool(parts)),
        *_of_file(inputs, state),
        *settings_sentences(settings),
        *_earlier(since),
        *_resolution(settings, summary),
        *(f"The images contradict the symmetry: {text.strip()}." for text in _contradiction(state)),
        _used(statistics),
    ]
    return " ".join(sentences) + "\n"


def _iterations(history: list[IterationRecord]) -> list[str]:
    """Return how many iterations of which kind there were, in the order of their first ones."""
    kinds: dict[str, int] = {}
    for record in history:
        if record.mode == "none":
            continue
        subsets = "" if record.subset is None else "of random subsets "
        kind = f"{subsets}with searches of all orientations"
        if record.mode == "local":
            kind = "local"
        kinds[kind] = kinds.get(kind, 0) + 1
    return [
        f"{n} local {_times(n)}" if kind == "local" else f"{n} {_times(n)} {kind}"
        for kind, n in kinds.items()
    ]


def _given(settings: RefineSettings, statistics: dict[str, Any]) -> str:
    """Return how many images there were, of which file, and why some were set aside."""
    because = listed([f"{n} {why}" for why, n in statistics["set_aside"].items()])
    return (
        f"{statistics['n_input']} images of {settings.particles.name}, "
        f"{statistics['n_rejected']} of them set aside{': ' if because else ''}{because}"
    )


def _start(settings: RefineSettings, state: State) -> list[str]:
    """Return what the first references were."""
    if math.isfinite(state.start_A):
        return [
            f"The first references were the half maps of the given poses ({state.start_A:.2f} Å)."
        ]
    if not settings.reference:
        return []
    is_one = len(settings.reference) == 1
    names = listed([path.name for path in settings.reference])
    return [
        f"The initial {'map was' if is_one else 'maps were'} low-pass filtered to "
        f"{settings.initial_lowpass_angstrom:g} Å ({names})."
    ]


def _model(settings: RefineSettings, *, is_refined: bool) -> str:
    """Return how poses were found, or half maps made, and with which model of the images."""
    found = "Poses were found by maximum likelihood" if is_refined else "Half maps were made"
    alone = ", which was refined on its own" if is_refined else ""
    if settings.ctf:
        return (
            f"{found} with the full contrast transfer function of every particle and noise spectra "
            f"estimated for each half set{alone}."
        )
    return (
        f"{found} with noise spectra estimated for each half set{alone}; no contrast transfer was "
        "corrected."
    )


def _earlier(since: int) -> list[str]:
    """Return where to read of the settings before, if there were some."""
    if since <= 1:
        return []
    return [
        f"All this holds from iteration {since} on; the settings before are described by the text "
        f"of iteration {since - 1}."
    ]


def _resolution(settings: RefineSettings, summary: dict[str, Any]) -> list[str]:
    mask = "a soft mask found in the map"
    if settings.mask is not None:
        mask = f"the given mask ({settings.mask.name})"
    if summary["resolution_A"] is None:
        return [f"The half maps share no signal within {mask}."]
    return [
        f"The resolution is {summary['resolution_A']:.2f} Å by the Fourier shell correlation "
        f"of the half maps at {settings.fsc_criterion:g}, within {mask} and corrected for it "
        "by phase randomisation."
    ]


def _used(statistics: dict[str, Any]) -> str:
    """Return how many particles are in the final map, and why others are not."""
    why = [f"{n} for {why}" for why, n in statistics["left_out"].items()]
    if statistics["n_not_drawn"]:
        why.append(f"{statistics['n_not_drawn']} because they were not drawn")
    said = f"{statistics['n_used']} particles contributed to the final map"
    return f"{said}; left out were {listed(why)}." if why else f"{said}."


def _times(n: int) -> str:
    return "iteration" if n == 1 else "iterations"
