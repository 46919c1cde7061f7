"""Images as the likelihood sees them: coefficients of a band, contrast transfer, noise."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.fourier.band import Band, make_band
from cryorefine.fourier.fft import image_to_half
from cryorefine.masks.soft import disc_mask
from cryorefine.optics.aberration import odd_phase
from cryorefine.optics.ctf import (
    Defocus,
    contrast_transfer,
    division_by_transfer,
    image_frequencies,
)
from cryorefine.optics.group import OpticsGroup

__all__ = [
    "GroupBand",
    "ImageStatistics",
    "as_seen_by",
    "image_coefficients",
    "image_statistics",
    "make_group_band",
    "observe",
    "sampling_geometry",
    "select_statistics",
]


@dataclass(frozen=True, eq=False)
class GroupBand:
    """One optics group's view of a volume, up to a resolution.

    Attributes
    ----------
    group
        The optics group.
    band
        Coefficients of its images.
    s_per_A
        Spatial frequencies (x, y) in 1/Å, magnification matrix applied.
    points
        The same in cycles per box of the *volume*: where slices are read.
    odd_factor
        ``exp(-i phase)`` that removes antisymmetric aberrations; None if there are none.
    amplitude
        Images hold this times the projections of the volume; the area of a voxel's face over that
        of a pixel, 1 where both have one size.
    """

    group: OpticsGroup
    band: Band
    s_per_A: Float[Tensor, "p 2"]
    points: Float[Tensor, "p 2"]
    odd_factor: Complex[Tensor, "p"] | None
    amplitude: float

    def k_px(self) -> Int[Tensor, "p 2"]:
        """Return integer frequencies (x, y) in cycles per box of the image."""
        return torch.stack([self.band.kx, self.band.ky], -1)


def sampling_geometry(group: OpticsGroup) -> tuple[object, ...]:
    """Return what decides at which points a group's images sample a volume."""
    return group.pixel_A, group.box_px, group.magnification


def make_group_band(
    group: OpticsGroup,
    *,
    volume_size_px: int,
    voxel_A: float,
    resolution_A: float,
    device: torch.device | str = "cpu",
) -> GroupBand:
    """Prepare an optics group's band of coefficients down to a resolution.

    The band ends at the resolution, at the images' Nyquist frequency, or where slices would leave
    the volume's transform, whichever comes first.
    """
    box_A = volume_size_px * voxel_A
    limit_per_A = min(1 / resolution_A, (volume_size_px - 1) / 2 / box_A)
    band = make_band(group.box_px, limit_per_A * group.box_A / group.largest_stretch)
    k = torch.stack([band.kx, band.ky], -1).double()
    s = image_frequencies(group, k)
    return GroupBand(
        group=group,
        band=band.to(device),
        s_per_A=s.float().to(device),
        points=(s * box_A).float().to(device),
        odd_factor=_odd_factor(group, s, device),
        amplitude=(voxel_A / group.pixel_A) ** 2,
    )


def _odd_factor(
    group: OpticsGroup, s_per_A: Float[Tensor, "p 2"], device: torch.device | str
) -> Complex[Tensor, "p"] | None:
    """Return what removes a group's antisymmetric aberrations; None if it has none."""
    if not group.has_odd_aberration:
        return None
    return torch.exp(-1j * odd_phase(group, s_per_A)).to(torch.complex64).to(device)


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """What brings images to zero background and unit noise.

    Attributes
    ----------
    mean, std
        Of the background (pixels outside the particle's disc), one per image; std is 0 for images
        that cannot be used (not finite or constant).
    """

    mean: Float[Tensor, "b"]
    std: Float[Tensor, "b"]


def image_statistics(images: Float[Tensor, "b y x"], radius_px: float) -> ImageStatistics:
    """Measure the background outside a disc; outside half the box at most."""
    n = images.shape[-1]
    outside = disc_mask(n, min(radius_px, n / 2), 0.0, images.device) < 0.5
    values = images[:, outside]
    usable = torch.isfinite(images).flatten(1).all(1)
    values = torch.where(usable[:, None], values, torch.zeros_like(values))
    values = values.double()
    mean = values.mean(1)
    std = (values - mean[:, None]).square().mean(1).sqrt()
    spread = torch.where(usable[:, None, None], images, torch.zeros_like(images)).flatten(1)
    varies = spread.amax(1) > spread.amin(1)
    std = torch.where(usable & varies & (std > 1e-6 * mean.abs()), std, torch.zeros_like(std))
    return ImageStatistics(mean.float(), std.float())


def image_coefficients(
    images: Float[Tensor, "b y x"], statistics: ImageStatistics, band: Band
) -> Complex[Tensor, "b p"]:
    """Return the coefficients of normalised images in a band."""
    mean, std = (t.to(images.device)[:, None, None] for t in (statistics.mean, statistics.std))
    return band.take(image_to_half((images - mean) / std))


def as_seen_by(
    coefficients: Complex[Tensor, "b p"],
    view: GroupBand,
    defocus: Defocus,
    *,
    odd_factor: Complex[Tensor, "*#b p"] | None,
    amplitude: Float[Tensor, "#b 1"] | float,
) -> tuple[Complex[Tensor, "b p"], Float[Tensor, "b p"]]:
    """Return what images' coefficients say of the volume, and their contrast transfer.

    Antisymmetric aberrations are taken out of the coefficients; the contrast transfer includes
    the amplitude between volume and image, so that ``coefficients = transfer * slice + noise``
    after centring. Multiplication by the CTF is undone as far as noise allows.

    Parameters
    ----------
    view
        Of any of the images' optics groups: they share all that the contrast transfer is computed
        from (:attr:`~cryorefine.optics.group.OpticsGroup.without_odd_part`).
    odd_factor, amplitude
        As in :class:`GroupBand`, of all images or of each; those in ``view`` are not used.
    """
    if odd_factor is not None:
        coefficients = coefficients * odd_factor
    if view.group.correction == "premultiplied":
        coefficients = coefficients * division_by_transfer(view.group, defocus, view.s_per_A)
    return coefficients, contrast_transfer(view.group, defocus, view.s_per_A) * amplitude


def observe(
    images: Float[Tensor, "b y x"],
    statistics: ImageStatistics,
    view: GroupBand,
    defocus: Defocus,
) -> tuple[Complex[Tensor, "b p"], Float[Tensor, "b p"]]:
    """Return coefficients and contrast transfer of images of one optics group.

    See :func:`image_coefficients` and :func:`as_seen_by`.
    """
    x = image_coefficients(images, statistics, view.band)
    return as_seen_by(x, view, defocus, odd_factor=view.odd_factor, amplitude=view.amplitude)


def select_statistics(statistics: ImageStatistics, rows: np.ndarray) -> ImageStatistics:
    """Return the statistics of some images."""
    index = torch.from_numpy(np.asarray(rows))
    return ImageStatistics(statistics.mean[index], statistics.std[index])
