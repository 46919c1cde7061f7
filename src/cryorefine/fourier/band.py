"""The coefficients of an image up to a resolution, as one flat list.

An image's transform is Hermitian, so the coefficients with kx > 0, and those with kx = 0, ky ≥ 0,
say everything. A band lists them up to a radius, ordered shell by shell and by angle within a
shell: "the first few rings" is a prefix, so that coarse searches and fine ones read the same
arrays, and neighbours in the list are neighbours in the plane, so that slices are read in order.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

__all__ = ["Band", "make_band", "phase_ramp"]


@dataclass(frozen=True, eq=False)
class Band:
    """Half-plane coefficients of a square image, sorted by shell, then by angle.

    Attributes
    ----------
    size_px
        Side of the image.
    kx, ky
        Frequencies in cycles per box, int64.
    radius
        |k| in cycles per box, float32.
    shell
        round(radius), int64.
    """

    size_px: int
    kx: Int[Tensor, "p"]
    ky: Int[Tensor, "p"]
    radius: Float[Tensor, "p"]
    shell: Int[Tensor, "p"]

    def __len__(self) -> int:
        return len(self.kx)

    @property
    def n_shells(self) -> int:
        """Number of shells, the zero frequency included."""
        return len(self._ends)

    def prefix(self, max_shell: int) -> int:
        """Return how many leading coefficients lie in shells up to ``max_shell``."""
        return self._ends[min(max_shell, self.n_shells - 1)] if max_shell >= 0 else 0

    @cached_property
    def _ends(self) -> list[int]:
        """Number of leading coefficients up to each shell; read from the device only once."""
        return torch.bincount(self.shell).cumsum(0).cpu().tolist()

    @cached_property
    def _places(self) -> Int[Tensor, "p"]:
        """Places in a flattened half transform; a list of them is read faster than a pair."""
        return (self.ky % self.size_px) * (self.size_px // 2 + 1) + self.kx

    def to(self, device: torch.device | str) -> "Band":
        """Return the band with its tensors on a device."""
        lists = (self.kx, self.ky, self.radius, self.shell)
        return Band(self.size_px, *(t.to(device) for t in lists))

    def take(self, half: Complex[Tensor, "*b y xh"]) -> Complex[Tensor, "*b p"]:
        """Return the band's coefficients of half transforms."""
        return half.flatten(-2).index_select(-1, self._places)

    def put(self, values: Complex[Tensor, "*b p"]) -> Complex[Tensor, "*b y xh"]:
        """Return half transforms that are zero outside the band; adjoint of :meth:`take`."""
        n = self.size_px
        half = values.new_zeros((*values.shape[:-1], n, n // 2 + 1))
        half.flatten(-2).index_copy_(-1, self._places, values)
        column = (self.kx == 0) & (self.ky != 0)
        half[..., -self.ky[column], 0] = values[..., column].conj()
        return half


def make_band(size_px: int, max_radius: float, *, min_radius: float = 0.0) -> Band:
    """List the half-plane coefficients with ``min_radius <= |k| <= max_radius``.

    Parameters
    ----------
    size_px
        Side of the image; ``max_radius`` is cut half a coefficient short of Nyquist, so that
        grids of 1.25 points a coefficient and more hold all that samples touch.
    min_radius
        0.5 leaves out the zero frequency, which carries the image's mean.
    """
    limit = min(max_radius, (size_px - 1) / 2 + 1e-3)
    r = int(limit)
    ky, kx = torch.meshgrid(torch.arange(-r, r + 1), torch.arange(0, r + 1), indexing="ij")
    ky, kx = ky.flatten(), kx.flatten()
    radius = (kx * kx + ky * ky).double().sqrt()
    keep = (radius <= limit) & (radius >= min_radius) & ((kx > 0) | (ky >= 0))
    kx, ky, radius = kx[keep], ky[keep], radius[keep]
    shell = radius.round().long()
    angle = torch.atan2(ky.double(), kx.double())
    order = torch.argsort(shell.double() * 10 + angle, stable=True)
    return Band(size_px, kx[order], ky[order], radius[order].float(), shell[order])


def phase_ramp(band: Band, shift_px: Float[Tensor, "*b 2"]) -> Complex[Tensor, "*b p"]:
    """Return the factors that move an image's content by ``shift_px`` = (x, y): exp(-2πi k·s/n)."""
    k = torch.stack([band.kx, band.ky], -1).to(shift_px)
    angle = (shift_px @ k.T) * (-2 * torch.pi / band.size_px)
    return torch.polar(torch.ones_like(angle), angle)
