"""One look at every image before anything is refined: usable or not, background, power."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.events import EventLog
from cryorefine.model.observe import (
    GroupBand,
    ImageStatistics,
    image_statistics,
    observe,
    select_statistics,
)
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.images import ImageSource
from cryorefine.particles.table import ParticleTable

__all__ = ["Screening", "initial_noise", "positive_spectrum", "screen_images"]

# Read together: as in engine/memory.py, before a plan of memory is known.
_LARGEST_BATCH, _BATCH_BYTES = 128, 32 << 20


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


def _batch(group: OpticsGroup) -> int:
    """Return how many images of a group to hold at a time."""
    return max(1, min(_LARGEST_BATCH, _BATCH_BYTES // (4 * group.box_px**2)))


def screen_images(
    table: ParticleTable,
    images: ImageSource,
    radius_px: np.ndarray,
    events: EventLog,
    *,
    max_energy: float = math.inf,
    device: torch.device | str = "cpu",
) -> Screening:
    """Read all images once; find those that are not finite or constant.

    Parameters
    ----------
    radius_px
        Radius of the particle in pixels of each optics group; the background is outside.
    max_energy
        Images with more mean power than this many times their background's are rejected.
    device
        Where the images are looked at; the result is on the CPU.
    """
    n = len(table)
    mean, std = torch.zeros(n), torch.zeros(n)
    reasons = [""] * n
    done = 0
    for g in range(len(table.optics)):
        rows = np.flatnonzero(table.optics_index == g)
        for part, batch in images.batches(rows, _batch(table.optics[g]), device):
            statistics = image_statistics(batch, float(radius_px[g]))
            index = torch.from_numpy(part)
            mean[index], std[index] = statistics.mean.cpu(), statistics.std.cpu()
            for k in torch.nonzero(std[index] == 0).flatten().tolist():
                finite = bool(torch.isfinite(batch[k]).all())
                reasons[int(part[k])] = "constant" if finite else "NaN or infinite pixels"
            energy = _energy(batch, statistics).cpu()
            for k in torch.nonzero(energy > max_energy).flatten().tolist():
                reasons[int(part[k])] = f"power {float(energy[k]):.0f} times the background's"
            done += len(part)
            events.emit("progress", stage="reading images", done=done, total=n)
    return Screening(ImageStatistics(mean, std), tuple(reasons))


def _energy(batch: Float[Tensor, "b y x"], statistics: ImageStatistics) -> Float[Tensor, "b"]:
    """Return the images' mean power about the background's level, in units of its variance."""
    level, spread = statistics.mean[:, None, None], statistics.std
    power = (batch - level).square().flatten(1).mean(1)
    return torch.where(spread > 0, power / spread.square().clamp_min(1e-30), 0.0)


def initial_noise(
    table: ParticleTable,
    images: ImageSource,
    statistics: ImageStatistics,
    group_bands: tuple[GroupBand, ...],
    events: EventLog,
) -> tuple[Float[Tensor, "_"], ...]:
    """Estimate each optics group's noise spectrum before any pose is known.

    The mean power of the images less the power of their mean, per shell. It still holds the
    power of differently oriented particles; the first assignment replaces it. Computed where the
    bands are, returned on the CPU.
    """
    out = []
    done = 0
    for g, group_band in enumerate(group_bands):
        rows = np.flatnonzero(table.optics_index == g)
        n_shells = group_band.band.n_shells
        count = torch.bincount(group_band.band.shell, minlength=n_shells).double()
        device = group_band.points.device
        power = torch.zeros(len(group_band.band), dtype=torch.float64, device=device)
        total = torch.zeros(len(group_band.band), dtype=torch.complex128, device=device)
        for part, batch in images.batches(rows, _batch(group_band.group), device):
            x, _ = observe(
                batch, select_statistics(statistics, part), group_band, table.defocus(part)
            )
            power += x.abs().square().double().sum(0)
            total += x.to(torch.complex128).sum(0)
            done += len(part)
            events.emit("progress", stage="measuring noise", done=done, total=len(table))
        n = max(len(rows), 1)
        excess = power / n
        if n > 1:
            # Unbiased: the mean itself holds 1/n of the noise.
            excess = (excess - (total / n).abs().square()) * (n / (n - 1))
        spectrum = torch.zeros_like(count).index_add_(0, group_band.band.shell, excess)
        out.append(positive_spectrum((spectrum / count).cpu()))
    return tuple(out)


def positive_spectrum(spectrum: Float[Tensor, "s"]) -> Float[Tensor, "s"]:
    """Keep a noise spectrum above a thousandth of its mean, so that it can be divided by."""
    return spectrum.clamp_min(1e-3 * float(spectrum.mean().clamp_min(1e-30)))
