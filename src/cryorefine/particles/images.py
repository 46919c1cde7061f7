"""Images of particles: their stacks are checked once, and read when images are asked for."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.errors import InputError
from cryorefine.io.open_files import OpenFiles
from cryorefine.io.open_stack import open_stack
from cryorefine.io.stack import ImageStack
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.table import ParticleTable

__all__ = ["ImageSource", "open_images"]


class ImageSource:
    """The images of a table's particles.

    Several threads may read at once. Pickled, it takes the files' paths and headers along, and
    opens the files again where it is needed.

    Parameters
    ----------
    table
        Particles; every row's stack and index have been checked by :func:`open_images`.
    headers
        One per stack of the table.
    inverted
        Whether the files' contrast is inverted: images are read with the other sign.
    """

    def __init__(
        self, table: ParticleTable, headers: Sequence[ImageStack], *, inverted: bool = False
    ):
        self.is_inverted = inverted
        self._stack_index = table.stack_index
        self._image_index = table.image_index
        self.headers = tuple(headers)
        self._files = OpenFiles()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_files"}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept, _files=OpenFiles())

    def read(self, rows: np.ndarray) -> Float[Tensor, "n y x"]:
        """Return images as float32, as they are in the file, or inverted. Rows must share one box.

        Raises
        ------
        InputError
            If a stack is gone, cannot be read, or is shorter by now than its header says.
        """
        rows = np.asarray(rows)
        out = np.empty(
            (len(rows), *self.headers[self._stack_index[rows[0]]].size_yx_px), np.float32
        )
        stacks = self._stack_index[rows]
        for stack in np.unique(stacks):
            where = np.flatnonzero(stacks == stack)
            indices = self._image_index[rows[where]]
            self.headers[stack].read_images(self._files, indices, out, where)
        if self.is_inverted:
            np.negative(out, out=out)
        return torch.from_numpy(out)

    def batches(
        self,
        rows: np.ndarray,
        size: int,
        device: torch.device | str = "cpu",
        *,
        screened: bool = True,
    ) -> Iterator[tuple[np.ndarray, Float[Tensor, "n y x"]]]:
        """Yield (rows, images on the device) in order.

        The next batch is read while the last is worked on, and on its way to a GPU, too.

        Parameters
        ----------
        screened
            These images were looked at before, and held finite numbers then.

        Raises
        ------
        InputError
            If a screened image holds others now: names the file and the image.
        """
        pinned = torch.device(device).type == "cuda"

        def read(part: np.ndarray) -> Float[Tensor, "n y x"]:
            images = self.read(part)
            if screened:
                self._require_finite(part, images.numpy())
            return images.pin_memory() if pinned else images

        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        if not parts:
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            pending = reader.submit(read, parts[0])
            for i, part in enumerate(parts):
                images = pending.result()
                if i + 1 < len(parts):
                    pending = reader.submit(read, parts[i + 1])
                yield part, images.to(device, non_blocking=True)

    def _require_finite(self, rows: np.ndarray, images: Float[np.ndarray, "n y x"]) -> None:
        """Refuse images that a file holds no numbers of any more."""
        # The sum of all says it at once; it may also be too large, which is no harm. By numpy: in
        # a thread that reads, torch would begin threads of its own.
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(float(images.sum())):
                return
        bad = ~np.isfinite(images).all((1, 2))
        if bad.any():
            row = int(rows[int(np.argmax(bad))])
            raise InputError(
                f"image {self._image_index[row] + 1} holds NaN or infinite pixels, which it did "
                "not when the images were read first",
                where=str(self.headers[self._stack_index[row]].path),
                do="restore the file, and begin or resume the run again",
            )


def open_images(
    table: ParticleTable, *, inverted: bool | None = None
) -> tuple[ParticleTable, ImageSource]:
    """Check that every particle's image exists and fits its optics group.

    Parameters
    ----------
    inverted
        As in :class:`ImageSource`; None: as the particle file says.

    Returns
    -------
    table, source
        The table with each group's box size filled in from the stacks where the file had none.

    Raises
    ------
    InputError
        If a stack is missing or damaged, an image number is beyond its end, images are not
        square, or box or pixel size differ within an optics group.
    """
    if inverted is None:
        inverted = table.is_inverted
    headers = []
    for index, path in enumerate(table.stacks):
        try:
            headers.append(open_stack(path))
        except InputError as error:
            row = int(np.argmax(table.stack_index == index))
            raise InputError(
                error.what, where=f"{error.where} (named in {table.where(row)})", do=error.do
            ) from None
    n_images = np.array([h.n_images for h in headers])[table.stack_index]
    beyond = table.image_index >= n_images
    if beyond.any():
        row = int(np.argmax(beyond))
        path = table.stacks[table.stack_index[row]]
        raise InputError(
            f"image {table.image_index[row] + 1} is beyond the end of {path}, "
            f"which has {n_images[row]} images",
            where=f"{table.where(row)}, column _rlnImageName",
            do="check that STAR file and stack belong together",
        )
    heights = np.array([h.size_yx_px[0] for h in headers])[table.stack_index]
    widths = np.array([h.size_yx_px[1] for h in headers])[table.stack_index]
    if (heights != widths).any():
        row = int(np.argmax(heights != widths))
        raise InputError(
            f"images of {widths[row]}×{heights[row]} pixels are not square",
            where=str(table.stacks[table.stack_index[row]]),
            do="extract the particles in a square box",
        )
    optics, remarks = list(table.optics), list(table.remarks)
    for g, group in enumerate(optics):
        rows = np.flatnonzero(table.optics_index == g)
        if len(rows) == 0:
            # No image tells the box of a group that none uses: any will do.
            optics[g] = replace(group, box_px=group.box_px or int(widths[0]))
            continue
        expected = group.box_px or int(widths[rows[0]])
        different = widths[rows] != expected
        if different.any():
            row = int(rows[np.argmax(different)])
            raise InputError(
                f"images of {widths[row]} pixels in optics group '{group.name}', "
                f"whose images have {expected}",
                where=f"{table.where(row)}: {table.stacks[table.stack_index[row]]}",
                do="give images of another box or pixel size an optics group of their own",
            )
        remarks += _check_pixel_sizes(table, headers, rows, group)
        optics[g] = replace(group, box_px=expected)
    checked = replace(table, optics=tuple(optics), remarks=tuple(remarks))
    return checked, ImageSource(table, headers, inverted=inverted)


def _check_pixel_sizes(
    table: ParticleTable, headers: Sequence[ImageStack], rows: np.ndarray, group: OpticsGroup
) -> list[str]:
    """Refuse a group whose stacks say different pixel sizes; headers without one say nothing.

    Returns
    -------
    What is to be said of a pixel size that is not that of the file. Headers of exactly 1 Å say
    nothing either: it is what programs write that know none.
    """
    stacks = np.unique(table.stack_index[rows])
    known = [(headers[s].pixel_A, int(s)) for s in stacks if headers[s].pixel_A > 0]
    if not known:
        return []
    (low, low_stack), (high, high_stack) = min(known), max(known)
    if high > 1.01 * low:
        raise InputError(
            f"pixel sizes differ within optics group '{group.name}': {low:.4g} Å in "
            f"{table.stacks[low_stack]} and {high:.4g} Å in {table.stacks[high_stack]}",
            where=str(table.source),
            do="give images of another pixel size an optics group of their own",
        )
    if low == 1.0 or (group.pixel_A <= 1.01 * high and high <= 1.01 * group.pixel_A):
        return []
    return [
        f"{table.source}: images of optics group '{group.name}' have pixels of {group.pixel_A:.4g} "
        f"Å here and of {high:.4g} Å in {table.stacks[high_stack]}: the former are used"
    ]
