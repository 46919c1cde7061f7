"""Turn and shift maps by evaluating their Fourier series at other places."""

import math
from typing import Any

import finufft
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["POINTS_AT_ONCE", "FourierSeries", "move_volume"]

_ACCURACY = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Relative error of a series' values: far below the noise of a voxel of any half map, and what a
kernel of seven points gives on the smallest grid. The slope of a fit needs more."""

POINTS_AT_ONCE = 1 << 23
"""Places that are evaluated together: each round transforms the series again, and a place takes
about 60 bytes, 0.5 GB in all."""


class FourierSeries:
    """The Fourier series of a map, which can be evaluated anywhere: exact to 1e-4 of the map.

    It repeats beyond the box. The CPU evaluates it, for maps of any device.
    """

    def __init__(self, volume: Float[Tensor, "z y x"]) -> None:
        self._n = volume.shape[-1]
        kind = torch.complex64 if volume.dtype == torch.float32 else torch.complex128
        self._device, self._dtype = volume.device, volume.dtype
        centred = torch.fft.ifftshift(volume.cpu()).to(kind)
        self._modes = torch.fft.fftn(centred).div_(self._n**3).numpy()

    def at(self, places_px: Float[Tensor, "m 3"]) -> Float[Tensor, "m"]:
        """Return the map's values at places (x, y, z) in voxels from the origin.

        Notes
        -----
        A non-uniform FFT of type 2 (Barnett, Magland & af Klinteberg 2019, SIAM J. Sci. Comput. 41,
        C479), in one thread: with several its bits would depend on their number.
        """
        if len(places_px) == 0:
            return torch.zeros(0, dtype=self._dtype, device=self._device)
        at, scale = places_px.to("cpu", self._dtype), 2 * math.pi / self._n
        x, y, z = (_wrapped(at[:, axis] * scale) for axis in range(3))
        found: Any = finufft.nufft3d2(
            z, y, x, self._modes, isign=1, eps=_ACCURACY[self._dtype], modeord=1,
            upsampfac=1.25, nthreads=1,
        )  # fmt: skip
        return torch.from_numpy(np.ascontiguousarray(found.real)).to(self._device)


def _wrapped(angle: Tensor) -> np.ndarray:
    return torch.remainder(angle + math.pi, 2 * math.pi).sub_(math.pi).contiguous().numpy()


def move_volume(
    volume: Float[Tensor, "z y x"],
    rotation: Float[Tensor, "3 3"],
    shift_px: Float[Tensor, "3"],
) -> Float[Tensor, "z y x"]:
    """Return a map whose content is turned about the origin and then shifted.

    Parameters
    ----------
    rotation
        Active, on object coordinates (x, y, z).
    shift_px
        (x, y, z).

    Returns
    -------
    The map's Fourier series at the places that the voxels come from; 0 where those lie outside the
    box. Frequencies in the corners beyond Nyquist are turned out of the band and fold back: maps
    that end below Nyquist have none.
    """
    n = volume.shape[-1]
    series = FourierSeries(volume)
    axis = torch.arange(n, dtype=volume.dtype) - n // 2
    back, shift = rotation.to(volume.dtype).cpu(), shift_px.to(volume.dtype).cpu()
    out = torch.zeros(n**3, dtype=volume.dtype, device=volume.device)
    planes = max(1, POINTS_AT_ONCE // n**2)
    for begin in range(0, n, planes):
        z, y, x = torch.meshgrid(axis[begin : begin + planes], axis, axis, indexing="ij")
        places = (torch.stack([x.flatten(), y.flatten(), z.flatten()], 1) - shift) @ back
        is_held = (places >= -(n // 2)).all(1) & (places <= n - n // 2).all(1)
        rows = torch.nonzero(is_held).flatten()
        out[(rows + begin * n**2).to(out.device)] = series.at(places[rows])
    return out.view(n, n, n)
