"""Add a batch of images to the sums of a reconstruction."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.fourier.band import Band, phase_ramp
from cryorefine.fourier.filter import interpolate_shells
from cryorefine.kernels.dispatch import extract_slices, insert_slices
from cryorefine.kernels.grid import Accumulator, SliceGrid
from cryorefine.model.observe import GroupBand
from cryorefine.reconstruct.crowding import Crowding

__all__ = ["CentredImages", "Levels", "accumulate", "centre", "power_per_shell", "residual_power"]

_ORIGIN_RADIUS = 0.3826  # mean distance from the centre of a unit square: the cell of k = 0


@dataclass(frozen=True, eq=False)
class CentredImages:
    """Centred images of one sampling geometry: slices of the volume as they were seen.

    Attributes
    ----------
    view
        Their band, and where in the volume they sample it.
    x, c
        Coefficients of *centred* images and their contrast transfer, not whitened.
    rotations
        Object-to-image matrices; see also :func:`~cryorefine.assign.particle_optics.magnified`.
    """

    view: GroupBand
    x: Complex[Tensor, "b p"]
    c: Float[Tensor, "b p"]
    rotations: Float[Tensor, "b 3 3"]


@dataclass(frozen=True, eq=False)
class Levels:
    """What keeps the denominator level over the width of the interpolation kernel.

    The same for all images of a half; None: it stays as it is.

    Attributes
    ----------
    balance
        Curve over the volume's shells that levels it; see
        :func:`~cryorefine.reconstruct.balance.balancing_curve`.
    crowding
        Levels it over the directions; see :func:`~cryorefine.reconstruct.crowding.view_crowding`.
        :func:`~cryorefine.reconstruct.solve.fold` needs the same.
    """

    balance: Float[Tensor, "s"] | None = None
    crowding: Crowding | None = None


def accumulate(
    acc: Accumulator,
    images: CentredImages,
    inverse_variance: Float[Tensor, "*#b p"],
    weights: Float[Tensor, "b"],
    levels: Levels,
) -> None:
    """Add ``w c x / σ²`` to the numerator and ``w c² / σ²`` to the denominator, in place.

    Parameters
    ----------
    inverse_variance
        One over the noise variance of each coefficient, of all images or of each.
    weights
        One per particle.

    Notes
    -----
    Both sums carry the factor |k|: slices through the origin crowd there as 1/|k|, and a
    denominator that varied over the width of the interpolation kernel would pull every value
    towards the crowd. This factor, the balance and the levels of the crowding cancel in the
    quotient.
    """
    view, c = images.view, images.c
    factor = inverse_variance * view.band.radius.clamp_min(_ORIGIN_RADIUS)
    if levels.balance is not None:
        factor = factor * interpolate_shells(levels.balance, view.points.norm(dim=1))
    factor = factor * weights[:, None].float()
    if levels.crowding is not None:
        factor = factor * levels.crowding.of_slices(images.rotations, view.points)
    insert_slices(acc, images.rotations, view.points, images.x * (c * factor), c.square() * factor)


def residual_power(
    grid: SliceGrid | None,
    images: CentredImages,
    *,
    max_shell: int,
    of: Int[Tensor, "b"],
    n_sums: int,
) -> Float[Tensor, "g s"]:
    """Return sums over images of each shell's mean squared residual.

    Parameters
    ----------
    grid
        Reference; None takes the images themselves as residual.
    max_shell
        Shells beyond have no model.
    of, n_sums
        Which of so many sums each image goes into.
    """
    view, x = images.view, images.x
    power = x.abs().square()
    last = view.band.prefix(max_shell)
    if grid is not None and last > 0:
        slices = extract_slices(grid, images.rotations, view.points[:last])
        model = slices * images.c[:, :last]
        power[:, :last] = (x[:, :last] - model).abs().square()
    return power_per_shell(view.band, power, of, n_sums)


def power_per_shell(
    band: Band, power: Float[Tensor, "b p"], of: Int[Tensor, "b"], n_sums: int
) -> Float[Tensor, "g s"]:
    """Return sums over images of each shell's mean power; ``of`` as for :func:`residual_power`."""
    n = band.n_shells
    count = torch.bincount(band.shell, minlength=n).double()
    total = torch.zeros(n_sums, n, dtype=torch.float64, device=power.device)
    if n_sums == 1:
        summed = power.double().sum(0, keepdim=True)
        return total.index_add_(1, band.shell, summed) / count
    # Shells first: with hundreds of sums, of an image each, there is little to add but shells.
    ends = [band.prefix(shell) for shell in range(-1, n)]
    shells = [power[:, first:last].sum(1, dtype=torch.float64) for first, last in pairwise(ends)]
    return total.index_add_(0, of, torch.stack(shells, 1)) / count


def centre(
    view: GroupBand, x: Complex[Tensor, "b p"], shifts_px: Float[Tensor, "b 2"]
) -> Complex[Tensor, "b p"]:
    """Move the images' content by their shifts."""
    return x * phase_ramp(view.band, shifts_px.float())
