"""A refinement as a job of RELION: begun or continued in the job's folder, and handed on.

The run is a folder of its own within the job's, which holds files of RELION as well.
"""

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cryorefine.events import Listener
from cryorefine.interop.relion_job import Node, job_name, write_output_nodes
from cryorefine.io.star import read_star, write_star
from cryorefine.run.commands import COMMANDS, check_commands
from cryorefine.run.loop import refine, resume
from cryorefine.run.report_timing import Reporter
from cryorefine.settings import Changes, load_settings, make_settings
from cryorefine.storage.layout import committed_iterations
from cryorefine.storage.manifest import is_being_filled

__all__ = ["RUN", "Refinement", "hand_on", "refinement_of_job"]

RUN = "run"
"""Name of the run's folder within the job's."""

_POSTPROCESS = "postprocess.star"

_NODES = {
    f"{RUN}/particles.star": Node("ParticleGroupMetadata.star.relion", 3),
    f"{RUN}/map.mrc": Node("DensityMap.mrc", 6),
    f"{RUN}/half1.mrc": Node("DensityMap.mrc.halfmap", 10),
    f"{RUN}/half2.mrc": Node("DensityMap.mrc.halfmap", 10),
    f"{RUN}/map_sharpened.mrc": Node("DensityMap.mrc", 11),
    f"{RUN}/mask.mrc": Node("Mask3D.mrc", 7),
    _POSTPROCESS: Node("ProcessData.star.relion.postprocess", 14),
}
"""What of a job RELION's later jobs can use: labels as its own jobs ask for them."""

_OF_MACHINE = frozenset({"threads", "workers", "device"})
"""Settings that change no result: given anew, they alone do not make a run that has ended go on."""


class Refinement(Protocol):
    """Something that fills a run folder when it is called."""

    def __call__(
        self, *, listeners: tuple[Listener, ...], reporter: Reporter | None
    ) -> dict[str, Any]:
        """Fill it, and return the final summary."""
        ...


def refinement_of_job(
    job: Path, values: dict[str, Any], given: Collection[str], *, allows_commands: bool
) -> Refinement:
    """Return what a job has to do: begin its run, or go on with the one that is there.

    A run that is there goes on where it stopped, with what ``values`` change. One that has ended
    and is asked for nothing new is left as it is.

    Parameters
    ----------
    values
        Settings by name.
    given
        Names of those that the user gave in this call, and not by a file.
    allows_commands
        Whether commands may run that are in files.

    Raises
    ------
    InputError
        If a new run's settings cannot be used, or name commands that are not allowed.
    """
    run = job / RUN
    if committed_iterations(run) and not is_being_filled(run):
        before = load_settings(run / "settings.toml")
        allowed = allows_commands or _are_given(before | values, values, given)
        changes = Changes({}, of_file=values, allows_commands=allowed)
        if _has_ended(run) and changes.against(before).changed.keys() <= _OF_MACHINE:
            changes = Changes({}, allows_commands=allowed)
        return partial(resume, run, changes=changes)
    settings = make_settings(values, where=str(job))
    check_commands(settings, given, is_allowed=allows_commands, where=str(job))
    return partial(refine, settings, run, overwrite=True)


def _are_given(after: dict[str, Any], values: dict[str, Any], given: Collection[str]) -> bool:
    """Tell whether all commands that a run's settings name were given in this call, too."""
    named = [name for name in (*COMMANDS, "command_shell") if after.get(name)]
    return all(name in given and values[name] == after[name] for name in named)


def _has_ended(run: Path) -> bool:
    return bool(_summary(run).get("finished"))


def _summary(run: Path) -> dict[str, Any]:
    try:
        found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def hand_on(job: Path) -> None:
    """Write what RELION's later jobs need of a job whose run has ended.

    ``postprocess.star`` is what a job "Post-processing" writes: half maps and mask by their places
    in the project, and the FSC of the run. CtfRefine and Bayesian polishing begin with it.
    """
    run, name = job / RUN, job_name(job)
    fsc = read_star(run / "fsc.star")
    general = {
        **fsc["general"].columns,
        "rlnBfactorUsedForSharpening": np.array([-float(_summary(run).get("bfactor_A2") or 0.0)]),
        "rlnUnfilteredMapHalf1": np.array([f"{name}/{RUN}/half1.mrc"]),
        "rlnUnfilteredMapHalf2": np.array([f"{name}/{RUN}/half2.mrc"]),
        "rlnPostprocessedMap": np.array([f"{name}/{RUN}/map_sharpened.mrc"]),
        "rlnMaskName": np.array([f"{name}/{RUN}/mask.mrc"]),
    }
    write_star(job / _POSTPROCESS, {"general": general, "fsc": fsc["fsc"].columns})
    write_output_nodes(job, _NODES)
