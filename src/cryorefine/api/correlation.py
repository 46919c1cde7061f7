"""Fourier shell correlation of two half maps, and the map that follows from it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cryorefine.api.boundary import library_call
from cryorefine.api.volume import Volume, as_tensor, as_volume, require_same_grid
from cryorefine.errors import InputError
from cryorefine.evaluate import fsc as evaluated
from cryorefine.io.output_path import check_output_file
from cryorefine.records.fsc_files import FscRecord, write_fsc
from cryorefine.restore import sharpen as sharpening

__all__ = ["FscCurves", "curves_as_arrays", "fsc", "sharpen"]

_CURVES = ("frequency_per_A", "unmasked", "masked", "randomised", "corrected", "outside")


@dataclass(frozen=True, eq=False)
class FscCurves(evaluated.Curves[Float[np.ndarray, "s"]]):
    """Correlation of two half maps per shell, from shell 0 to Nyquist, as arrays.

    Attributes
    ----------
    frequency_per_A
        Of each shell.
    unmasked, masked, randomised, corrected
        Without mask; with the mask; with the mask and phases randomised beyond
        ``randomised_from_A``; and corrected for what the mask alone contributes. Without a mask
        all but ``randomised`` (zeros) equal ``unmasked``.
    outside
        With one minus the mask. Zeros without a mask.
    randomised_from_A
        Resolution beyond which phases were randomised; infinite without a mask.
    comparison
        With a known map, where a run was given one to compare with.
    """

    comparison: Float[np.ndarray, "s"] | None = None

    def resolution_A(self, threshold: float = 0.143, *, curve: str = "corrected") -> float:
        """Return where a curve falls below a threshold for good, in Å.

        Twice the voxel size where it never does; infinity where it does at once.
        """
        values = torch.from_numpy(getattr(self, curve))
        return evaluated.resolution(values, torch.from_numpy(self.frequency_per_A), threshold)

    @library_call
    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a table, replacing one that is there.

        Its suffix tells the form: ``.xml`` is what EMDB takes, ``.csv`` text of columns, and any
        other STAR as RELION's post-processing writes it.

        Raises
        ------
        InputError
            If the folder does not exist.
        """
        check_output_file(Path(path), overwrite=True)
        comparison = None if self.comparison is None else torch.from_numpy(self.comparison)
        write_fsc(Path(path), FscRecord(_as_tensors(self), self.resolution_A(), comparison))


def curves_as_arrays(
    curves: evaluated.FscCurves, comparison: torch.Tensor | None = None
) -> FscCurves:
    """Return curves of the program as those of the library."""
    return FscCurves(
        **{name: getattr(curves, name).numpy() for name in _CURVES},
        randomised_from_A=curves.randomised_from_A,
        comparison=None if comparison is None else comparison.numpy(),
    )


def _as_tensors(curves: FscCurves) -> evaluated.FscCurves:
    tensors = {name: torch.from_numpy(getattr(curves, name)) for name in _CURVES}
    return evaluated.FscCurves(**tensors, randomised_from_A=curves.randomised_from_A)


def _prepared(
    half1: Any, half2: Any, mask: Any, voxel_A: float | None
) -> tuple[Volume, Volume, Volume | None]:
    """Return half maps and mask, which have one box and sampling."""
    first = as_volume(half1, "half1", voxel_A)
    second = as_volume(half2, "half2", voxel_A or first.voxel_A)
    require_same_grid(second, "half2", first, "half1")
    if mask is None:
        return first, second, None
    weight = as_volume(mask, "mask", first.voxel_A if _is_array(mask) else None)
    require_same_grid(weight, "mask", first, "half1")
    low, high = float(weight.data.min()), float(weight.data.max())
    if low < -0.01 or high > 1.01:
        raise InputError(
            f"mask values run from {low:.3g} to {high:.3g}",
            where="mask",
            do="give a mask with values from 0 to 1",
        )
    return first, second, weight


def _is_array(value: Any) -> bool:
    return not isinstance(value, Volume | str | os.PathLike)


def _curves(first: Volume, second: Volume, mask: Volume | None, seed: int) -> evaluated.FscCurves:
    return evaluated.half_map_fsc(
        as_tensor(first),
        as_tensor(second),
        voxel_A=first.voxel_A,
        mask=None if mask is None else as_tensor(mask).clamp(0, 1),
        seed=seed,
    )


@library_call
def fsc(
    half1: Any, half2: Any, mask: Any = None, *, voxel_A: float | None = None, seed: int = 0
) -> FscCurves:
    """Return the Fourier shell correlation of two half maps.

    With a mask it is corrected for what the mask itself contributes, by randomised phases.

    Parameters
    ----------
    half1, half2, mask
        Volumes, paths or arrays; the mask is soft, 0 to 1.
    voxel_A
        Size of the voxels, where the half maps are arrays.
    seed
        Of the randomised phases.

    Raises
    ------
    InputError
        If the maps and the mask differ in box or sampling, or the mask leaves 0 to 1.

    Examples
    --------
    >>> import cryorefine as cr
    >>> curves = cr.fsc("truth_map.mrc", "reference.mrc")
    >>> bool(25 < curves.resolution_A(0.5) < 35)
    True
    """
    return curves_as_arrays(_curves(*_prepared(half1, half2, mask, voxel_A), seed))


@library_call
def sharpen(
    half1: Any,
    half2: Any,
    mask: Any = None,
    *,
    bfactor_A2: float | None = None,
    voxel_A: float | None = None,
    seed: int = 0,
) -> Volume:
    """Return the average of two half maps, weighted by their FSC and with its fall-off undone.

    Parameters
    ----------
    half1, half2, mask, voxel_A, seed
        As for :func:`fsc`.
    bfactor_A2
        B-factor of the map in Å², positive for a map that fades: it is multiplied by
        ``exp(+B s² / 4)``. None fits it between 10 Å and the resolution; 0 weights only.

    Raises
    ------
    InputError
        If the maps and the mask differ in box or sampling, or the mask leaves 0 to 1.

    Examples
    --------
    >>> import cryorefine as cr
    >>> cr.sharpen("truth_map.mrc", "reference.mrc", bfactor_A2=100)
    <Volume: 32³ voxels of 5 Å>
    """
    first, second, weight = _prepared(half1, half2, mask, voxel_A)
    curves = _curves(first, second, weight, seed)
    average = (as_tensor(first) + as_tensor(second)) / 2
    if bfactor_A2 is None:
        inside = torch.ones_like(average) if weight is None else as_tensor(weight).clamp(0, 1)
        bfactor_A2 = sharpening.guinier_bfactor(average, inside, curves).bfactor_A2
    sharp = sharpening.sharpen(average, curves, voxel_A=first.voxel_A, bfactor_A2=float(bfactor_A2))
    return Volume(sharp.numpy(), first.voxel_A)
