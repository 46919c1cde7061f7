"""A map made ready for being compared with its own copies: where the particle is, and its detail.

The particle is found by density. Its radial mean is removed, since any copy has it, and its
coefficients are weighted alike at all frequencies that have signal, so that what tells rings or
subunits apart counts as much as the particle's outline.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import fsc
from cryorefine.evaluate.symmetry_agreement import without_radial_mean
from cryorefine.fourier.crop import fit_box, resample_volume
from cryorefine.fourier.fft import volume_to_half
from cryorefine.fourier.filter import filter_volume, interpolate_shells, low_pass, raised_cosine
from cryorefine.fourier.shell import shell_power

__all__ = [
    "VOXELS_PER_DETAIL",
    "Located",
    "Prepared",
    "Spectra",
    "ball_about",
    "locate",
    "measure_spectra",
    "prepared",
]

_OUTLINE_A = 20.0
"""Detail at which a particle is told from its surroundings, in Å: noise of most maps is gone."""

_OUTLINE = 0.2
"""Share of the highest density (99.9 %) above which a voxel is the particle's: below half, so that
flexible parts belong to it, and above the noise of a low-passed map."""

_OUTLINE_SIGMAS = 4.0
"""Deviations of the density of most voxels, which are around the particle, above their median that
a voxel of it has at least: few of the noise exceed it."""

_REGION = 0.1
"""Size of a region of density, of the largest, that is the particle's, too: rings and domains may
be apart, and specks of noise are smaller."""

VOXELS_PER_DETAIL = 5.0
"""Voxels of the compared maps within the finest detail: linear interpolation between them then
loses less than a tenth of its amplitude."""

_FAINTEST = 1e-4
"""Power of a shell, of that of the strongest, below which it is not used: what a mask's edge
spreads of the strongest is about as much, and shows beyond the end of maps that were filtered."""

_LEAST_AROUND = 1e-3
"""Share of the box around a particle below which its noise is not told from it."""

_EDGE_SHELLS = 3.0  # of the low-pass; a steeper one rings


@dataclass(frozen=True)
class Located:
    """Where a particle is in its box.

    Attributes
    ----------
    centre_A
        The voxel nearest to its density's centre, (x, y, z) from the box's origin.
    radius_A
        Of the sphere about it that holds 99.5 % of the particle's voxels.
    """

    centre_A: tuple[float, float, float]
    radius_A: float


@dataclass(frozen=True, eq=False)
class Spectra:
    """Signal and noise by shell.

    Attributes
    ----------
    share
        Of each shell's power, what is signal.
    noise
        Mean power of the noise's coefficients; None where it was not measured.
    """

    share: Float[Tensor, "s"]
    noise: Float[Tensor, "s"] | None


@dataclass(frozen=True, eq=False)
class Prepared:
    """Features of one or two half maps about the particle's centre.

    Attributes
    ----------
    maps
        One map, or two half maps: weighted, without radial mean, cropped to the particle.
    voxel_A
        Of these maps.
    radius_A
        Of the particle.
    noise
        A map of noise alone, with the power that the density around the particle has, made ready
        in the same way; None where nothing is around it. Of half maps None, too: noise is told
        apart by comparing them.
    """

    maps: tuple[Float[Tensor, "z y x"], ...]
    voxel_A: float
    radius_A: float
    noise: Float[Tensor, "z y x"] | None

    @property
    def mean(self) -> Float[Tensor, "z y x"]:
        """Mean of the maps."""
        return torch.stack(self.maps).mean(0)


def locate(volume: Float[Tensor, "z y x"], voxel_A: float) -> Located:
    """Find the particle in a map: the large regions of density.

    Raises
    ------
    InputError
        If nothing stands out.
    """
    n = volume.shape[-1]
    smooth = low_pass(volume, voxel_A=voxel_A, resolution_A=max(_OUTLINE_A, 4 * voxel_A)).numpy()
    ground = float(np.median(smooth))
    spread = 1.48 * float(np.median(abs(smooth - ground)))
    peak = float(np.quantile(smooth, 0.999)) - ground
    level = ground + max(_OUTLINE * peak, _OUTLINE_SIGMAS * spread)
    found: Any = ndimage.label(smooth > level)
    labels, n_regions = found
    if n_regions == 0 or level <= ground:
        raise InputError("no density stands out of the map", do="give a map of a particle")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    inside = np.argwhere((sizes >= _REGION * sizes.max())[labels])
    weight = smooth[tuple(inside.T)] - ground
    middle = (inside * weight[:, None]).sum(0) / weight.sum()
    distance = np.linalg.norm(inside - middle, axis=1)
    z, y, x = ((middle.round() - n // 2) * voxel_A).tolist()
    radius_A = (float(np.quantile(distance, 0.995)) + 1) * voxel_A
    return Located((x, y, z), min(radius_A, n * voxel_A / 2))


def prepared(
    maps: Sequence[Float[Tensor, "z y x"]],
    spectra: Spectra,
    where: Located,
    *,
    voxel_A: float,
    resolution_A: float,
) -> Prepared:
    """Centre, weight and crop maps to the finest detail that is used; see the module."""
    n = maps[0].shape[-1]
    power = shell_power(
        volume_to_half(torch.stack(list(maps)).mean(0) * ball_about(where, n, voxel_A)), n
    )
    weight = spectra.share / power.clamp_min(_FAINTEST * float(power[1:].max())).sqrt()
    cutoff = n * voxel_A / resolution_A
    new_voxel_A = resolution_A / VOXELS_PER_DETAIL
    size_px = 2 * math.ceil(where.radius_A / new_voxel_A) + 8
    held_px = min(n, 2 * math.ceil(size_px * new_voxel_A / voxel_A / 2) + 2)
    back = [-round(v / voxel_A) for v in reversed(where.centre_A)]

    def ready(volume: Tensor, gain: Tensor) -> Tensor:
        weighted = filter_volume(
            volume,
            lambda k: interpolate_shells(gain, k) * raised_cosine(k, cutoff, _EDGE_SHELLS),
        )
        small = resample_volume(
            fit_box(weighted.roll(back, [0, 1, 2]), held_px),
            voxel_A=voxel_A,
            new_voxel_A=new_voxel_A,
            new_size_px=size_px,
        )
        return without_radial_mean(small)

    noise = None
    if spectra.noise is not None:
        white = torch.randn((n, n, n), generator=torch.Generator().manual_seed(0))
        noise = ready(white, weight * (spectra.noise / n**3).sqrt())
    return Prepared(tuple(ready(m, weight) for m in maps), new_voxel_A, where.radius_A, noise)


def measure_spectra(
    maps: Sequence[Float[Tensor, "z y x"]], where: Located, voxel_A: float
) -> Spectra:
    """Measure signal and noise by shell: by the FSC of half maps, or by what is around a particle.

    Of a single map all is signal where there is nothing around the particle, or all of it has been
    masked away.
    """
    n = maps[0].shape[-1]
    ball = ball_about(where, n, voxel_A)
    inside = [shell_power(volume_to_half(m * ball), n) / ball.square().mean() for m in maps]
    has_power = inside[0] > _FAINTEST * float(inside[0][1:].max())
    if len(maps) == 2:
        return Spectra(fsc(maps[0] * ball, maps[1] * ball).clamp(0, 1) * has_power, None)
    around = float((1 - ball).square().mean())
    if around < _LEAST_AROUND:
        return Spectra(has_power.to(inside[0]), None)
    noise = shell_power(volume_to_half(maps[0] * (1 - ball)), n) / around
    return Spectra((1 - noise / inside[0].clamp_min(1e-30)).clamp(0, 1) * has_power, noise)


def ball_about(where: Located, n: int, voxel_A: float) -> Float[Tensor, "z y x"]:
    """Return a sphere about the particle with a soft edge a tenth of its radius wide."""
    axis = (torch.arange(n) - n // 2) * voxel_A
    x, y, z = where.centre_A
    distance = ((axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2).sqrt()
    return raised_cosine(distance, 1.05 * where.radius_A, 0.1 * where.radius_A)
