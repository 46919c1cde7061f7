"""Noise spectra of optics groups: before any pose is known, and from residuals."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from cryorefine.engine.blocks import Block, plan_blocks
from cryorefine.engine.progress import progress_of
from cryorefine.engine.protocol import Done, Engine, merged
from cryorefine.events import EventLog
from cryorefine.fourier.band import Band
from cryorefine.reconstruct.accumulate import power_per_shell
from cryorefine.reconstruct.group_power import GroupPower, band_edges, power_in_bands, power_sums
from cryorefine.state.particle_batches import (
    HalfOptics,
    ParticleStack,
    group_counts,
    has_several_groups,
    rows_by_geometry,
)
from cryorefine.state.state import Inputs, State
from cryorefine.weigh.group_differences import group_differences

__all__ = ["MeasurePower", "group_noise", "initial_noise", "own_share", "positive_spectrum"]


@dataclass(frozen=True, eq=False)
class PowerSums:
    """Power of images, and the sum of the images.

    Attributes
    ----------
    power
        By optics group.
    total
        Sum of the images' coefficients, by geometry.
    """

    power: GroupPower
    total: dict[int, Complex[Tensor, "p"]]

    def merge(self, other: "PowerSums") -> "PowerSums":
        """Return the sum of both."""
        total = dict(self.total)
        for geometry, values in other.total.items():
            total[geometry] = total[geometry] + values if geometry in total else values
        return PowerSums(self.power.merge(other.power), total)


@dataclass(frozen=True, eq=False)
class MeasurePower:
    """Sums images and their power; ``optics`` by half."""

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]

    def run(self, block: Block, done: Done) -> PowerSums:
        """Return the sums over a block, on the CPU."""
        optics = self.optics[block.half - 1]
        band = optics.band_of(block.geometry).band
        power = power_sums(optics.n_shells())
        compared = has_several_groups(self.stack.table, optics, block.geometry)
        total = torch.zeros(len(band), dtype=torch.complex128, device=self.stack.device)
        for batch in optics.batches(self.stack, block.geometry, block.rows):
            total += batch.x.to(torch.complex128).sum(0)
            groups = batch.group_of if compared else batch.group_of[:1]
            n_sums = len(groups)
            of = torch.arange(len(batch.rows), device=self.stack.device).clamp(max=n_sums - 1)
            found = power_per_shell(band, batch.x.abs().square(), of, n_sums)
            power.add_images(groups, found, band) if compared else power.add(groups, found)
            done(len(batch.rows))
        return PowerSums(power, {block.geometry: total.cpu()})


def initial_noise(
    stack: ParticleStack,
    half_of: np.ndarray,
    optics: tuple[HalfOptics, HalfOptics],
    events: EventLog,
    engine: Engine,
) -> tuple[tuple[Float[Tensor, "_"], ...], tuple[Float[Tensor, "_"], ...]]:
    """Estimate the optics groups' noise spectra, by half, before any pose is known.

    The mean power of a group's images less the power of the mean of all that share its geometry,
    per shell. It still holds the power of differently oriented particles; the first assignment
    replaces it.

    Parameters
    ----------
    half_of
        Half set of every particle, 1 or 2.
    optics
        By half, up to Nyquist; neither their noise nor their scale counts.
    """
    done = progress_of("measuring noise", events, len(stack.table))
    table = stack.table
    parts = [
        part for half in (1, 2) for part in rows_by_geometry(table, half_of, optics[half - 1], half)
    ]
    blocks = plan_blocks(parts, smallest=stack.memory.smallest_block)
    found = engine.map(MeasurePower(stack, optics), blocks, done)
    spectra = []
    for half in (1, 2):
        sums = [p for b, p in zip(blocks, found, strict=True) if b.half == half]
        counts = group_counts(table, half_of, half)
        spectra.append(_excess(optics[half - 1], counts, sums))
    return spectra[0], spectra[1]


def _excess(
    optics: HalfOptics, counts: np.ndarray, sums: list[PowerSums]
) -> tuple[Float[Tensor, "_"], ...]:
    """Return mean powers less those of the means."""
    # Groups that the half has no image of need a spectrum, too: that of noise as normalised.
    lengths = optics.n_shells()
    if not sums:
        return tuple(torch.ones(n, dtype=torch.float64) for n in lengths)
    total: PowerSums = merged(sums)
    spectra = _spectra(optics, counts, total.power)
    n_of = np.bincount(optics.geometry_of, counts).astype(int)
    of_mean = {
        geometry: _mean_power(optics.band_of(geometry).band, values / int(n_of[geometry]))
        for geometry, values in total.total.items()
    }
    out = []
    for g, (spectrum, geometry) in enumerate(zip(spectra, optics.geometry_of, strict=True)):
        if spectrum is None:
            out.append(torch.ones(lengths[g], dtype=torch.float64))
            continue
        n = int(n_of[geometry])
        if n > 1:
            # Unbiased: the mean itself holds 1/n of the noise.
            spectrum = (spectrum - of_mean[geometry]) * (n / (n - 1))
        out.append(positive_spectrum(spectrum))
    return tuple(out)


def _mean_power(band: Band, x: Complex[Tensor, "p"]) -> Float[Tensor, "s"]:
    """Return the mean power of coefficients per shell."""
    shell = band.shell.cpu()
    count = torch.bincount(shell, minlength=band.n_shells).double()
    return torch.zeros_like(count).index_add_(0, shell, x.abs().square()) / count


def _spectra(
    optics: HalfOptics, counts: np.ndarray, sums: GroupPower
) -> list[Float[Tensor, "_"] | None]:
    """Return mean spectra of the groups: that of all of their geometry, and own where they differ.

    None where the half has no image of the geometry.
    """
    out: list[Tensor | None] = [None] * len(counts)
    for geometry, band in enumerate(optics.geometry_bands):
        alike = np.flatnonzero((np.array(optics.geometry_of) == geometry) & (counts > 0))
        if len(alike) == 0:
            continue
        n_shells = band.band.n_shells
        power = sums.power[torch.from_numpy(alike), :n_shells]
        common = power.sum(0) / int(counts[alike].sum())
        for g in np.flatnonzero(np.array(optics.geometry_of) == geometry):
            out[g] = common
        if len(alike) == 1:
            continue
        squares = sums.squares[torch.from_numpy(alike)]
        count = torch.bincount(band.band.shell.cpu(), minlength=n_shells)
        share = own_share(power, squares, torch.from_numpy(counts[alike]), count)
        for g, own, part in zip(alike, power, share, strict=True):
            if part.any():
                out[g] = common + part * (own / int(counts[g]) - common)
    return out


def own_share(
    power: Float[Tensor, "g s"],
    squares: Float[Tensor, "g b"],
    n: Int[Tensor, "g"],
    count: Int[Tensor, "s"],
) -> Float[Tensor, "g s"]:
    """Return how much of each group's own spectrum is to be believed; the rest is the common one's.

    Parameters
    ----------
    power, squares
        Of the groups; see :class:`~cryorefine.reconstruct.group_power.GroupPower`.
    n
        Images of each group, at least 1.
    count
        Coefficients of each shell.
    """
    share = torch.zeros_like(power)
    freedom = int((n - 1).sum())
    if freedom == 0:
        # Nothing tells the differences of groups from those of images.
        return share
    own = power_in_bands(power, count) / n[:, None]
    common = (own * n[:, None]).sum(0) / n.sum()
    tiny = torch.finfo(torch.float64).tiny
    relative = squares / own.square().clamp_min(tiny) - n[:, None]
    spread2 = relative.sum(0) / freedom
    for b, (first, last) in enumerate(pairwise(band_edges(len(count)))):
        n_band = int(count[first:last].sum())
        # Images differ at least by what noise does.
        of_images = max(float(spread2[b]), 1 / n_band)
        # The cube root of a mean power is next to Gaussian, however few coefficients it is of.
        deviation = 3 * ((own[:, b] / common[b].clamp_min(tiny)) ** (1 / 3) - 1)
        found = group_differences(deviation.numpy(), of_images / n.numpy())
        # A shell's power varies more than the band's, by the noise of fewer coefficients.
        of_shells = of_images - 1 / n_band + 1 / count[first:last].double()
        believed = found.spread**2 / (found.spread**2 + of_shells / n[:, None])
        share[:, first:last] = believed * torch.from_numpy(found.differs)[:, None]
    return share


def group_noise(
    inputs: Inputs, state: State, optics: HalfOptics, half: int, power: GroupPower
) -> tuple[Float[Tensor, "_"], ...]:
    """Return the optics groups' noise spectra from residuals.

    They keep their old values beyond the resolution of ``optics``, and where the half has no
    image of their geometry.

    Parameters
    ----------
    power
        Of the particles' residuals.
    """
    spectra = []
    measured = _spectra(optics, group_counts(inputs.table, inputs.half, half), power)
    for old, new in zip(state.noise[half - 1], measured, strict=True):
        if new is None:
            spectra.append(old)
            continue
        spectrum = old.clone()
        spectrum[: len(new)] = new
        spectra.append(positive_spectrum(spectrum))
    return tuple(spectra)


def positive_spectrum(spectrum: Float[Tensor, "s"]) -> Float[Tensor, "s"]:
    """Keep a noise spectrum above a thousandth of its mean, so that it can be divided by."""
    return spectrum.clamp_min(1e-3 * float(spectrum.mean().clamp_min(1e-30)))
