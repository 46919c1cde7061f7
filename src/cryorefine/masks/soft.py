"""Spheres, discs and solvent masks with cosine edges, values 0 to 1."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from cryorefine.compiled import for_each
from cryorefine.fourier.crop import resize_volume
from cryorefine.fourier.fft import fast_even_length
from cryorefine.fourier.filter import low_pass

__all__ = ["disc_mask", "otsu_threshold", "soft_edge", "solvent_mask", "sphere_mask"]

_MAX_WHOLE, _SLAB_PX = 1 << 26, 32
"""Voxels of a map whose distances are found at once, 60 bytes each; of a larger one slabs of so
many planes are looked at with as many beside them as distances count. Threads share out slabs."""

_WORTH_SHRINKING, _MIN_PX = 0.8, 16
"""A grid of more than this share of the points along an axis is not made smaller, since the
transforms cost more than they save; and no grid is smaller than so many pixels, which the edges
need. Not measured."""


def _radius(size_px: int, ndim: int, device: torch.device | str = "cpu") -> Tensor:
    axis = torch.arange(size_px, dtype=torch.float32, device=device) - size_px // 2
    square = axis * axis
    total = square
    for _ in range(ndim - 1):
        total = total[..., None] + square
    return total.sqrt()


def _cosine_fall(distance: Tensor, edge_px: float) -> Tensor:
    """Return 1 where distance ≤ 0, falling to 0 at ``edge_px`` along half a cosine."""
    fall = torch.empty_like(distance)

    def shape(slab: slice) -> None:
        t = torch.div(distance[slab], max(edge_px, 1e-6), out=fall[slab]).clamp_(0, 1)
        t.mul_(math.pi).cos_().add_(1).mul_(0.5)

    for_each(shape, _slabs(len(distance)))
    return fall


def _slabs(n: int) -> list[slice]:
    """Return slices of a volume's planes that are worked on at once, whatever the threads are."""
    return [slice(start, start + _SLAB_PX) for start in range(0, n, _SLAB_PX)]


def sphere_mask(
    size_px: int, radius_px: float, edge_px: float = 5.0, device: torch.device | str = "cpu"
) -> Float[Tensor, "z y x"]:
    """Return a sphere about the origin: 1 up to the radius, then a cosine edge of ``edge_px``."""
    return _cosine_fall(_radius(size_px, 3, device) - radius_px, edge_px)


def disc_mask(
    size_px: int, radius_px: float, edge_px: float = 5.0, device: torch.device | str = "cpu"
) -> Float[Tensor, "y x"]:
    """Return a disc about the origin: 1 up to the radius, then a cosine edge of ``edge_px``."""
    return _cosine_fall(_radius(size_px, 2, device) - radius_px, edge_px)


def soft_edge(
    binary: Float[Tensor, "z y x"], *, grow_px: float, edge_px: float
) -> Float[Tensor, "z y x"]:
    """Grow a binary mask by ``grow_px`` and add a cosine edge of ``edge_px`` outside it.

    A mask without any voxel set stays empty.
    """
    inside = binary > 0.5
    if not bool(inside.any()):
        return torch.zeros_like(binary)
    return _cosine_fall(_distance(inside, grow_px + edge_px).sub_(grow_px), edge_px)


def _distance(inside: Bool[Tensor, "z y x"], reach_px: float) -> Float[Tensor, "z y x"]:
    """Return how far every voxel is from the nearest one inside; the CPU does it.

    Of a large map, distances beyond ``reach_px`` may be any that are no shorter than it.
    """
    outside = ~inside.cpu().numpy()
    if inside.numel() <= _MAX_WHOLE:
        found = np.asarray(ndimage.distance_transform_edt(outside), np.float32)
        return torch.from_numpy(found).to(inside.device)
    halo = math.ceil(reach_px)
    found = np.full(outside.shape, halo, np.float32)
    for start in range(0, len(outside), _SLAB_PX):
        first = max(start - halo, 0)
        part = outside[first : start + _SLAB_PX + halo]
        if not part.all():
            near = np.asarray(ndimage.distance_transform_edt(part), np.float32)
            found[start : start + _SLAB_PX] = near[start - first : start - first + _SLAB_PX]
    return torch.from_numpy(found).to(inside.device)


def solvent_mask(
    volume: Float[Tensor, "z y x"],
    *,
    voxel_A: float,
    radius_px: float,
    resolution_A: float = 15.0,
    grow_px: float = 3.0,
    edge_px: float = 6.0,
) -> Float[Tensor, "z y x"]:
    """Return a soft mask round the particle, found in a low-passed copy of its map.

    The threshold separates the density inside the particle's sphere into two classes with the
    least spread within each (Otsu), which needs no knowledge of the grey scale. Specks smaller
    than a hundredth of the largest piece are dropped, and holes of any shape stay as they are.

    Parameters
    ----------
    radius_px
        Sphere that surely contains the particle.
    resolution_A
        Low-pass; coarse enough that noise does not shape the mask.

    References
    ----------
    .. [1] Otsu (1979) IEEE Trans. Syst. Man Cybern. 9, 62.
    """
    resolution_A = max(resolution_A, 3 * voxel_A)
    n = volume.shape[-1]
    # A third of the resolution is as fine as the surface of the smooth copy is known.
    coarse = fast_even_length(max(3 * n * voxel_A / resolution_A, _MIN_PX))
    if coarse > _WORTH_SHRINKING * n:
        coarse = n
    step = n / coarse
    smooth = resize_volume(volume, coarse)
    smooth = low_pass(smooth, voxel_A=voxel_A * step, resolution_A=resolution_A)
    sphere = _radius(coarse, 3, volume.device) * step <= radius_px
    threshold = otsu_threshold(smooth[sphere])
    binary = (smooth > threshold) & sphere
    labels = np.zeros(binary.shape, np.int32)
    count = int(ndimage.label(binary.cpu().numpy(), output=labels))  # type: ignore[arg-type]
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        large = (sizes >= 0.01 * sizes.max())[labels] & (labels > 0)
        binary = torch.from_numpy(large).to(volume.device)
    if not bool(binary.any()):
        return torch.zeros_like(volume)
    # Two voxels more: what lies between voxels is interpolated.
    distance = _distance(binary, (grow_px + edge_px) / step + 2)
    if coarse < n:
        # The surface lies half a voxel outside the centres of the outermost voxels.
        distance = _enlarge(distance, n).sub_(0.5).mul_(step).add_(0.5)
    return _cosine_fall(distance.sub_(grow_px), edge_px)


def _enlarge(volume: Float[Tensor, "z y x"], size_px: int) -> Float[Tensor, "w u v"]:
    """Interpolate a volume linearly on a finer grid with the same origin and extent."""
    m = volume.shape[-1]
    rows = torch.arange(size_px, device=volume.device)
    place = (rows - size_px // 2) * (m / size_px) + m // 2
    low = place.floor().clamp(0, m - 2).long()
    t = (place - low).clamp(0, 1).float()
    matrix = torch.zeros(size_px, m, device=volume.device)
    matrix[rows, low], matrix[rows, low + 1] = 1 - t, t
    planes = (matrix @ volume.flatten(1)).view(size_px, m, m)
    out = volume.new_empty((size_px, size_px, size_px))

    def enlarge(slab: slice) -> None:
        out[slab] = (matrix @ planes[slab]) @ matrix.T

    for_each(enlarge, _slabs(size_px))
    return out


def otsu_threshold(values: Tensor) -> float:
    """Return the threshold that maximises the variance between the two classes it makes."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-5 * max(abs(low), abs(high)):  # constant, but for filtering's rounding
        return high
    counts = torch.histc(values, bins=256, min=low, max=high).double().cpu()
    centres = low + (torch.arange(256, dtype=torch.float64) + 0.5) * ((high - low) / 256)
    below = counts.cumsum(0)
    mass = (counts * centres).cumsum(0)
    above = below[-1] - below
    mean_below = mass / below.clamp_min(1)
    mean_above = (mass[-1] - mass) / above.clamp_min(1)
    between = below * above * (mean_above - mean_below) ** 2
    return float(centres[between.argmax()]) + (high - low) / 512
