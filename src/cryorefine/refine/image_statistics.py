"""One look at every image before anything is refined: usable or not, background, power."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.engine.blocks import Block, Rows, plan_blocks
from cryorefine.engine.progress import progress_of
from cryorefine.engine.protocol import Done, Engine
from cryorefine.events import EventLog
from cryorefine.model.observe import ImageStatistics, image_statistics
from cryorefine.particles.images import ImageSource
from cryorefine.particles.table import ParticleTable

__all__ = ["ScreenImages", "Screening", "screen_images"]

_LARGEST_BATCH, _BATCH_BYTES = 128, 32 << 20
"""Images held at a time, and their size: as in engine/memory.py, before a plan is known."""

_SMALLEST_SPREAD = 1e-15
"""Standard deviation whose square is below what :func:`_energy` divides by at least."""


@dataclass(frozen=True, eq=False)
class Screening:
    """What the first look showed.

    Attributes
    ----------
    statistics
        Background of every image.
    reasons
        Why an image cannot be used; empty for those that can.
    """

    statistics: ImageStatistics
    reasons: tuple[str, ...]

    @property
    def is_usable(self) -> np.ndarray:
        """Mask of the images that can be used."""
        return np.array([not r for r in self.reasons], dtype=bool)


@dataclass(frozen=True, eq=False)
class Found:
    """What was seen of a block's images; see :class:`Screening`."""

    statistics: ImageStatistics
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ScreenImages:
    """Looks at images of one box and radius a block: a block's geometry counts those.

    Attributes
    ----------
    box_px, radius_px
        Side of the images, and radius of the particle in their pixels; the background is outside.
    max_energy
        Images with more mean power than this many times their background's are rejected.
    device
        Where the images are looked at.
    """

    images: ImageSource
    box_px: tuple[int, ...]
    radius_px: tuple[float, ...]
    max_energy: float
    device: torch.device | str

    def run(self, block: Block, done: Done) -> Found:
        """Return a block's statistics, on the CPU, and what speaks against its images."""
        g = block.geometry
        size = max(1, min(_LARGEST_BATCH, _BATCH_BYTES // (4 * self.box_px[g] ** 2)))
        mean, std, reasons = [], [], []
        for part, batch in self.images.batches(block.rows, size, self.device, screened=False):
            statistics = image_statistics(batch, self.radius_px[g])
            found = [""] * len(part)
            spread = statistics.std.cpu()
            for k in torch.nonzero(spread == 0).flatten().tolist():
                finite = bool(torch.isfinite(batch[k]).all())
                found[k] = "constant" if finite else "NaN or infinite pixels"
            energy = _energy(batch, statistics).cpu()
            for k in torch.nonzero(energy > self.max_energy).flatten().tolist():
                found[k] = f"power {float(energy[k]):.0f} times the background's"
            mean.append(statistics.mean.cpu())
            std.append(spread)
            reasons += found
            done(len(part))
        return Found(ImageStatistics(torch.cat(mean), torch.cat(std)), tuple(reasons))


def screen_images(
    table: ParticleTable,
    images: ImageSource,
    radius_px: np.ndarray,
    events: EventLog,
    engine: Engine,
    *,
    max_energy: float = math.inf,
    device: torch.device | str = "cpu",
) -> Screening:
    """Read all images once; find those that are not finite or constant.

    Parameters
    ----------
    radius_px
        Radius of the particle in pixels of each optics group.
    max_energy, device
        As in :class:`ScreenImages`.
    """
    done = progress_of("reading images", events, len(table))
    seen = [(g.box_px, float(r)) for g, r in zip(table.optics, radius_px, strict=True)]
    # In the order of the groups; hundreds of them may be alike, with some images each.
    kinds = list(dict.fromkeys(seen))
    kind_of = np.array([kinds.index(kind) for kind in seen])[table.optics_index]
    blocks = plan_blocks(
        Rows(0, k, "screen", np.flatnonzero(kind_of == k)) for k in range(len(kinds))
    )
    box_px, radii_px = zip(*kinds, strict=True)
    task = ScreenImages(images, box_px, radii_px, max_energy, device)
    mean, std = torch.zeros(len(table)), torch.zeros(len(table))
    reasons = np.full(len(table), "", object)
    for block, found in zip(blocks, engine.map(task, blocks, done), strict=True):
        index = torch.from_numpy(block.rows)
        mean[index], std[index] = found.statistics.mean, found.statistics.std
        reasons[block.rows] = found.reasons
    return Screening(ImageStatistics(mean, std), tuple(reasons))


def _energy(batch: Float[Tensor, "b y x"], statistics: ImageStatistics) -> Float[Tensor, "b"]:
    """Return the images' mean power about the background's level, in units of its variance."""
    level, spread = statistics.mean[:, None, None], statistics.std
    power = (batch - level).square().flatten(1).mean(1)
    energy = torch.where(spread > 0, power / spread.square().clamp_min(1e-30), 0.0)
    # Squares of very large or small pixels do not fit into single precision; those of normalised
    # images do.
    unfit = (spread > 0) & ~((spread > _SMALLEST_SPREAD) & torch.isfinite(power))
    if bool(unfit.any()):
        normal = (batch[unfit].double() - level[unfit]) / spread[unfit][:, None, None]
        energy[unfit] = normal.square().flatten(1).mean(1).to(energy)
    return energy
