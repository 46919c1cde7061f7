"""Slices and projections of the map as grey pictures."""

import base64
import math
from io import BytesIO

import numpy as np
import torch
from torch.nn.functional import interpolate

from cryorefine.errors import InputError
from cryorefine.io.mrc import read_stack_header
from cryorefine.report.illustration import Illustration, Panel
from cryorefine.report.run_folder import RunFolder

__all__ = ["show_projections", "show_slices", "slices_of"]

_SMALLEST_PX, _LARGEST_PX = 360, 420  # of a picture's side
_COMPRESSION = 3  # of zlib: a tenth larger than its default, in a third of the time
_MARGIN = 0.06
"""Margin about the particle, as a share of its width."""

_PERCENTILES = (0.5, 99.7)
"""Grey values that black and white stand for: some of the background below, next to nothing of the
particle above."""

# Of an array with axes (z, y, x): the axis looked along, then the axes that go right and up.
_VIEWS = ((0, "z", "x", "y"), (1, "y", "x", "z"), (2, "x", "y", "z"))


def show_slices(run: RunFolder) -> Illustration:
    """Show the three planes through the middle of the map."""
    panels = slices_of(run, "map.mrc")
    caption = (
        "Planes through the middle of the map, bright where there is density, cut to the "
        "particle; all three have the same grey scale."
    )
    return Illustration("Central slices", caption, panels=panels)


def slices_of(run: RunFolder, name: str) -> tuple[Panel, ...]:
    """Return the three planes through the middle of one of the run's maps."""
    density, corner, side, voxel_A = _open(run, name)
    planes, titles = [], []
    for axis, along, right, up in _VIEWS:
        # The middle of the box, or the nearest plane of the particle if it lies elsewhere.
        middle = int(np.clip(density.shape[axis] // 2, corner[axis], corner[axis] + side - 1))
        plane = np.take(density, middle, axis=axis)
        a, b = (corner[k] for k in range(3) if k != axis)
        planes.append(np.asarray(plane[a : a + side, b : b + side], dtype=np.float32))
        titles.append(f"Slice across {along}; {right} to the right, {up} up")
    return _panels(planes, titles, voxel_A)


def show_projections(run: RunFolder) -> Illustration:
    """Show the sums of the map along its axes."""
    density, corner, side, voxel_A = _open(run, "map.mrc")
    z, y, x = (slice(c, c + side) for c in corner)
    cut = np.asarray(density[z, y, x], dtype=np.float32)
    sums = [cut.sum(axis) for axis, *_ in _VIEWS]
    titles = [f"Sum along {along}; {right} to the right, {up} up" for _, along, right, up in _VIEWS]
    caption = (
        "Sums of the same part of the map along its axes, which look like noise-free particle "
        "images; all three have the same grey scale."
    )
    return Illustration("Projections", caption, panels=_panels(sums, titles, voxel_A))


def _open(run: RunFolder, name: str) -> tuple[np.ndarray, tuple[int, int, int], int, float]:
    """Read the density and find the cube around the particle.

    Returns
    -------
    density, corner, side, voxel_A
        Axes (z, y, x); the cube's first voxel along each axis and its side in voxels.
    """
    header = read_stack_header(run.path / name)
    density = header.read()
    if len(set(density.shape)) != 1:
        raise InputError("the map is not cubic", where=str(header.path))
    voxel_A = header.pixel_A or float(run.summary.get("voxel_A", 1.0))
    try:
        mask = read_stack_header(run.path / "mask.mrc").read()
    except InputError:
        return density, (0, 0, 0), len(density), voxel_A
    if mask.shape != density.shape:
        raise InputError(f"{name} and mask.mrc differ in size", where=str(run.path))
    corner, side = _particle_cube(mask)
    return density, corner, side, voxel_A


def _particle_cube(mask: np.ndarray) -> tuple[tuple[int, int, int], int]:
    """Return corner and side of the cube that holds the mask and a margin, within the box."""
    n = len(mask)
    extents = [(n, -1)] * 3
    for z in range(n):  # plane by plane: memory should not hold the mask twice
        inside = mask[z] > 0.05
        if inside.any():
            rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            for axis, ends in enumerate(((z, z), (rows[0], rows[-1]), (columns[0], columns[-1]))):
                low, high = extents[axis]
                extents[axis] = (min(low, int(ends[0])), max(high, int(ends[1])))
    if extents[0][1] < 0:
        return (0, 0, 0), n
    widest = max(high - low + 1 for low, high in extents)
    side = min(n, widest + 2 * max(2, round(_MARGIN * widest)))
    z, y, x = (min(max((low + high + 1 - side) // 2, 0), n - side) for low, high in extents)
    return (z, y, x), side


def _panels(images: list[np.ndarray], titles: list[str], voxel_A: float) -> tuple[Panel, ...]:
    """Return the pictures, grey values between robust percentiles of all of them."""
    values = np.concatenate([image.ravel() for image in images])
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinite values")
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    width_A = images[0].shape[1] * voxel_A
    bar_A = _bar_length(width_A)
    return tuple(
        Panel(title, _encode(image, low, high), 100 * bar_A / width_A, f"{bar_A:g} Å")
        for image, title in zip(images, titles, strict=True)
    )


def _bar_length(width_A: float) -> float:
    """Return the largest round length that takes at most a third of the picture."""
    lengths = [m * 10.0**e for e in range(-1, 5) for m in (1, 2, 5)]
    return max((length for length in lengths if length <= width_A / 3), default=width_A)


def _encode(image: np.ndarray, low: float, high: float) -> str:
    """Return an image (rows upwards) as PNG in base64, of a size that a page shows well."""
    from PIL import Image

    side = image.shape[0]
    shown = side * math.ceil(_SMALLEST_PX / side) if side < _SMALLEST_PX else min(side, _LARGEST_PX)
    if shown != side:
        image = interpolate(
            torch.from_numpy(np.ascontiguousarray(image))[None, None],
            size=(shown, shown),
            mode="bicubic",
            antialias=shown < side,
        )[0, 0].numpy()
    grey = np.clip((image - low) / max(high - low, 1e-30), 0, 1) * 255
    buffer = BytesIO()
    picture = Image.fromarray(np.flipud(grey).round().astype(np.uint8))
    picture.save(buffer, format="png", compress_level=_COMPRESSION)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
