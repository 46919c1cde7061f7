"""Restorations of two half maps, one by one or several in their order.

    import cryorefine as cr

    made = cr.restore.denoise("half1.mrc", "half2.mrc", "mask.mrc")
    made.map.write("denoised.mrc")              # .half_maps, .fsc, .fsc_processed, .steps
    made = cr.restore.apply("half1.mrc", "half2.mrc", post_deconvolve=True, post_denoise=True)

Raw half maps are not changed, and their FSC is the one that measures resolution. Results say
whether a restoration has mixed the halves (``mixes_halves``). ``docs/restorations.md`` shows what
each does.

Examples
--------
>>> import cryorefine as cr
>>> made = cr.restore.denoise("truth_map.mrc", "reference.mrc")
>>> made.map
<Volume: 32³ voxels of 5 Å>
>>> made.mixes_halves
False
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from cryorefine.api.boundary import library_call
from cryorefine.api.correlation import FscCurves, curves_as_arrays
from cryorefine.api.volume import Volume, as_tensor, as_volume, require_same_grid
from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import half_map_fsc
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.atomic import write_text
from cryorefine.masks.soft import solvent_mask
from cryorefine.refine.restoration import (
    Masks,
    check_restorations,
    record_of,
    requested_restorations,
)
from cryorefine.restore.command import check_command
from cryorefine.restore.protocol import Context, Halves
from cryorefine.restore.registry import RestoredHalves, restore_halves
from cryorefine.restore.sharpen import weight_map
from cryorefine.settings.restoration import RestorationSettings

__all__ = [
    "Restored",
    "align",
    "apply",
    "command",
    "deconvolve",
    "denoise",
    "difference",
    "filter_bank",
    "laplacian",
    "mask",
    "symmetrise",
    "undershoot",
]

_COMMAND_VARIABLES = ("volume", "sampling", "dim", "half", "iteration")


@dataclass(frozen=True, eq=False)
class Restored:
    """Half maps after restorations, and what was done.

    Attributes
    ----------
    half_maps
        Processed; ``raw_half_maps`` are those that were given.
    raw_half_maps
        As they were given.
    map
        Average of the processed half maps, weighted by the FSC of the raw ones.
    raw_map
        The same of the raw half maps.
    particle_mask
        Where the particle is: given, or found in the average.
    fsc
        Of the raw half maps, within that mask.
    fsc_processed
        Of the processed ones: no measure of resolution.
    maps
        Further maps by name: ``disagreement`` of difference evaluation.
    record
        What was done, with all that was found; as in ``restorations.json``.
    """

    half_maps: tuple[Volume, Volume]
    raw_half_maps: tuple[Volume, Volume]
    map: Volume
    raw_map: Volume
    particle_mask: Volume
    fsc: FscCurves
    fsc_processed: FscCurves
    maps: dict[str, Volume]
    record: dict[str, Any]

    @property
    def mixes_halves(self) -> bool:
        """Whether the processed half maps depend on each other."""
        return self.record["mixes_halves"]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Name, title and findings of each restoration, in the order in which they were done."""
        return self.record["steps"]

    @library_call
    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write all into a folder: maps, FSC tables and ``restorations.json``.

        Raises
        ------
        InputError
            If the folder does not exist.
        """
        path = Path(folder)
        self.map.write(path / "map_processed.mrc")
        for half, volume in enumerate(self.half_maps, 1):
            volume.write(path / f"half{half}_processed.mrc")
        for name, volume in self.maps.items():
            volume.write(path / f"{name}.mrc")
        self.particle_mask.write(path / "mask.mrc")
        self.fsc.write(path / "fsc.star")
        self.fsc_processed.write(path / "fsc_processed.star")
        write_text(path / "restorations.json", json.dumps(self.record, indent=2) + "\n")


@library_call
def apply(
    half1: Any,
    half2: Any,
    mask: Any = None,
    *,
    symmetry: str = "c1",
    voxel_A: float | None = None,
    progress: Callable[[str], None] | None = None,
    **restorations: Any,
) -> Restored:
    """Restore half maps as the settings of a run do, in the order of ``docs/restorations.md``.

    Parameters
    ----------
    half1, half2
        Raw half maps: Volumes, paths or arrays.
    mask
        Where the particle is, soft, 0 to 1; None finds it in their average.
    symmetry
        Of the whole map, which tells what of a movement is free (``post_align_halves``).
    voxel_A
        Size of the voxels, where the half maps are arrays.
    progress
        Called with the title of each restoration before it begins.
    **restorations
        ``post_denoise=True`` and the other settings of the group "Restoration" in
        ``docs/parameters.md``; masks may be Volumes. ``command_shell``.

    Raises
    ------
    InputError
        If maps do not fit together, or a setting cannot be used.
    """
    shell = bool(restorations.pop("command_shell", False))
    own_masks = {n: restorations.pop(n, None) for n in ("post_symmetry_mask", "post_mask")}
    names = {n: "mask" for n, value in own_masks.items() if value is not None}
    settings = _settings({**restorations, **names})
    check_restorations(settings)
    if settings.post_command is not None:
        check_command(settings.post_command, _COMMAND_VARIABLES, shell=shell)
    first = as_volume(half1, "half1", voxel_A)
    second = as_volume(half2, "half2", voxel_A or first.voxel_A)
    require_same_grid(second, "half2", first, "half1")
    masks = {n: _mask(value, n, first) for n, value in {**own_masks, "mask": mask}.items()}
    halves = as_tensor(first), as_tensor(second)
    context = _context(halves, first.voxel_A, masks.pop("mask"))
    wanted = requested_restorations(
        settings, Masks(**masks), parse_symmetry(symmetry), command_shell=shell
    )
    if not wanted:
        raise InputError("there is nothing to do", where="half1", do="ask for a restoration")
    made = restore_halves(halves, wanted, context, progress=progress)
    return _result((first, second), made, context)


def _settings(values: dict[str, Any]) -> RestorationSettings:
    try:
        settings = RestorationSettings(**values)
    except ValidationError as error:
        item = error.errors()[0]
        name = str(item["loc"][0]) if item["loc"] else ""
        what = "no such restoration" if item["type"] == "extra_forbidden" else item["msg"]
        raise InputError(
            f"--{name.replace('_', '-')} {what}", where="restorations", do="correct it"
        ) from None
    for problem in settings.problems_of_restorations():
        raise InputError(problem, where="restorations", do="correct it")
    return settings


def _mask(value: Any, name: str, like: Volume) -> Tensor | None:
    """Return a mask on the grid of a map; None where none is given."""
    if value is None:
        return None
    is_array = not isinstance(value, Volume | str | os.PathLike)
    found = as_volume(value, name, like.voxel_A if is_array else None)
    require_same_grid(found, name, like, "half1")
    low, high = float(found.data.min()), float(found.data.max())
    if low < -0.01 or high > 1.01:
        raise InputError(
            f"mask values run from {low:.3g} to {high:.3g}",
            where=name,
            do="give a mask with values from 0 to 1",
        )
    return as_tensor(found).clamp(0, 1)


def _context(halves: Halves, voxel_A: float, mask: Tensor | None) -> Context:
    if mask is None:
        average = (halves[0] + halves[1]).div_(2)
        mask = solvent_mask(average, voxel_A=voxel_A, radius_px=len(average) / 2)
        del average
    return Context(voxel_A, mask, half_map_fsc(*halves, voxel_A=voxel_A, mask=mask))


def _result(raw: tuple[Volume, Volume], made: RestoredHalves, context: Context) -> Restored:
    voxel_A, curves = context.voxel_A, context.curves
    after = half_map_fsc(*made.halves, voxel_A=voxel_A, mask=context.mask)

    def volume(data: Tensor) -> Volume:
        return Volume(data.numpy(), voxel_A)

    def weighted(first: Tensor, second: Tensor) -> Volume:
        return volume(weight_map((first + second).div_(2), curves))

    return Restored(
        half_maps=(volume(made.halves[0]), volume(made.halves[1])),
        raw_half_maps=raw,
        map=weighted(*made.halves),
        raw_map=weighted(as_tensor(raw[0]), as_tensor(raw[1])),
        particle_mask=volume(context.mask),
        fsc=curves_as_arrays(curves),
        fsc_processed=curves_as_arrays(after),
        maps={name: volume(data) for name, data in made.maps.items()},
        record=record_of(made, curves, after),
    )


def symmetrise(
    half1: Any, half2: Any, group: str, within: Any, *, angles_deg: Any = (), **how: Any
) -> Restored:
    """Average the symmetric copies of a point group where the mask ``within`` says so.

    Parameters
    ----------
    angles_deg
        "rot, tilt, psi" of the view in which the group's axes lie as usual.
    **how
        ``mask``, ``voxel_A`` of :func:`apply`.
    """
    wanted = {"post_symmetry": group, "post_symmetry_mask": within}
    return apply(half1, half2, post_symmetry_angles_deg=angles_deg, **wanted, **how)


def command(half1: Any, half2: Any, template: str, *, shell: bool = False, **how: Any) -> Restored:
    """Run a command on each half map; see "Commands" in ``docs/parameters.md``."""
    return apply(half1, half2, post_command=template, command_shell=shell, **how)


def align(half1: Any, half2: Any, mask: Any = None, **how: Any) -> Restored:
    """Move half 2 to where half 1 lies: three angles and three shifts."""
    return apply(half1, half2, mask, post_align_halves=True, **how)


def denoise(half1: Any, half2: Any, mask: Any = None, **how: Any) -> Restored:
    """Make voxels quieter that are no louder than noise, or than signal is."""
    return apply(half1, half2, mask, post_denoise=True, **how)


def filter_bank(half1: Any, half2: Any, mask: Any = None, **how: Any) -> Restored:
    """Make voxels of bands of frequencies quieter that are no louder than noise."""
    return apply(half1, half2, mask, post_filter_bank=True, **how)


def laplacian(half1: Any, half2: Any, mask: Any = None, **how: Any) -> Restored:
    """Take away edges that the solvent has, too."""
    return apply(half1, half2, mask, post_laplacian=True, **how)


def deconvolve(half1: Any, half2: Any, mask: Any = None, **how: Any) -> Restored:
    """Find the Gaussian that blurs the map, and undo it as far as the FSC allows."""
    return apply(half1, half2, mask, post_deconvolve=True, **how)


def undershoot(
    half1: Any, half2: Any, mask: Any = None, *, sigmas: float = 9.0, **how: Any
) -> Restored:
    """Compress values below the solvent's mean by more than so many standard deviations."""
    return apply(half1, half2, mask, post_undershoot_sigmas=sigmas, **how)


def difference(half1: Any, half2: Any, mask: Any = None, **how: Any) -> Restored:
    """Pull halves together where they differ more than elsewhere, and map where that is."""
    return apply(half1, half2, mask, post_difference=True, **how)


def mask(half1: Any, half2: Any, by: Any, **how: Any) -> Restored:
    """Multiply both half maps by a soft mask."""
    return apply(half1, half2, post_mask=by, **how)


restore = sys.modules[__name__]
"""This module, as the package shows it; ``cryorefine.restore`` would be the room below."""
