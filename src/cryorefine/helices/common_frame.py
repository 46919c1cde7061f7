"""How a map of a filament has to be turned and moved along its axis to lie on another."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.fourier.cylindrical import angular_orders, cylindrical_grid
from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.helix import Helix
from cryorefine.helices.helical_symmetry import central_window

__all__ = ["Frame", "frame_onto"]

_FINER = 4
"""Angles that are tried for each that the angular orders ask for: a peak is then within a quarter
of its width."""

_EDGE_PX = 5.0
"""Rim of the box that is not compared: as wide as the edge of masks, which a map may end in."""


@dataclass(frozen=True)
class Frame:
    """A movement that leaves the axis of a filament where it is.

    Attributes
    ----------
    angle_rad
        Turn about z, from x towards y, after the other.
    rise_px
        Move along z, after both turns.
    is_upside_down
        Whether there is half a turn about x first.
    """

    angle_rad: float
    rise_px: float
    is_upside_down: bool

    @property
    def rotation(self) -> Float[Tensor, "3 3"]:
        """Both turns, on object coordinates."""
        c, s = math.cos(self.angle_rad), math.sin(self.angle_rad)
        about_z = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
        flip = -1.0 if self.is_upside_down else 1.0
        return about_z @ torch.diag(torch.tensor([1.0, flip, flip], dtype=torch.float64))

    @property
    def shift_px(self) -> Float[Tensor, "3"]:
        """The move."""
        return torch.tensor([0.0, 0.0, self.rise_px], dtype=torch.float64)


def frame_onto(
    target: Float[Tensor, "z y x"],
    volume: Float[Tensor, "z y x"],
    helix: Helix,
    *,
    voxel_A: float,
    radius_px: float,
    resolution_A: float,
) -> Frame:
    """Return the movement after which a map correlates best with another.

    All turns are tried, moves of up to half a rise, since longer ones are the same as turns, and
    both directions of the axis, unless the helix is dihedral.

    Parameters
    ----------
    radius_px
        Of the filament.
    resolution_A
        Detail to compare.

    Notes
    -----
    ``C(α, d) = Re Σ_n exp(-i n α) Σ_z ∫ r dr A_n(z)* B_n(z - d)`` over angular orders, by Fourier
    transforms along z and over n. What is the same all round and all along says nothing and is
    left out.
    """
    n = target.shape[-1]
    grid = cylindrical_grid(n, min(radius_px, n / 2 - _EDGE_PX))
    weight = torch.from_numpy(grid.weight).float().sqrt()

    def orders_of(map_: Tensor) -> Complex[Tensor, "o z r"]:
        smooth = low_pass(map_.cpu().float(), voxel_A=voxel_A, resolution_A=resolution_A)
        orders = angular_orders(smooth, grid) * weight
        orders[0] -= orders[0].mean(0)
        return orders

    wanted, given = orders_of(target), orders_of(volume)
    wanted = wanted * torch.from_numpy(central_window(n, 0.9)).float()[:, None]
    reach = max(math.ceil(helix.rise_A / voxel_A / 2), 1)
    found = (_best(wanted, given, reach), False)
    if not helix.is_dihedral:
        over = given.flip(1).conj()
        over = over.roll(1, 1) if n % 2 == 0 else over
        found = max(found, (_best(wanted, over, reach), True))
    (_, angle_rad, rise_px), is_upside_down = found
    return Frame(angle_rad, rise_px, is_upside_down)


def _best(
    wanted: Complex[Tensor, "o z r"], given: Complex[Tensor, "o z r"], reach: int
) -> tuple[float, float, float]:
    """Return the highest correlation, and the turn (rad) and move (sections) that lead to it."""
    padded = 2 * wanted.shape[1]
    spectra = torch.fft.fft(wanted, n=padded, dim=1).conj() * torch.fft.fft(given, n=padded, dim=1)
    moved = torch.fft.fft(spectra.sum(2), dim=1)  # by so many sections
    moved[1:] *= 2
    columns = 2 * _FINER * len(moved)
    scores = torch.fft.fft(moved, n=columns, dim=0).real
    moves = torch.arange(-reach, reach + 1)
    near = scores[:, moves % padded]
    at = int(near.argmax())
    row, column = divmod(at, len(moves))
    return (
        float(near[row, column]),
        math.remainder(2 * math.pi * row / columns, 2 * math.pi),
        float(moves[column]),
    )
