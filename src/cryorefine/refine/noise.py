"""Noise spectra of optics groups: before any pose is known, and from residuals."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryorefine.engine.blocks import Block, plan_blocks
from cryorefine.engine.progress import told_as
from cryorefine.engine.protocol import Done, Engine, merged
from cryorefine.events import EventLog
from cryorefine.fourier.band import Band
from cryorefine.reconstruct.accumulate import power_per_shell
from cryorefine.state.particle_batches import (
    HalfOptics,
    ParticleStack,
    group_counts,
    rows_by_geometry,
)
from cryorefine.state.state import Inputs, State

__all__ = ["MeasurePower", "group_noise", "initial_noise", "positive_spectrum"]

_OF_GEOMETRY = 30
"""Particles' worth of the common spectrum of a half's images of one geometry in that of each of
its optics groups. Shell 5 has 16 coefficients, so that 30 images tell its noise to 5 %, about as
much as groups of one microscope differ in it; one image tells it to 25 %, and whitening by that
would make noise of its own."""


@dataclass(frozen=True, eq=False)
class PowerSums:
    """Power of images, and the sum of the images.

    Attributes
    ----------
    power
        By optics group and shell: sums over images of the shells' mean power.
    total
        Sum of the images' coefficients, by geometry.
    """

    power: Float[Tensor, "g s"]
    total: dict[int, Complex[Tensor, "p"]]

    def merge(self, other: "PowerSums") -> "PowerSums":
        """Return the sum of both."""
        total = dict(self.total)
        for geometry, values in other.total.items():
            total[geometry] = total[geometry] + values if geometry in total else values
        return PowerSums(self.power + other.power, total)


@dataclass(frozen=True, eq=False)
class MeasurePower:
    """Sums images and their power; ``optics`` by half."""

    stack: ParticleStack
    optics: tuple[HalfOptics, HalfOptics]

    def run(self, block: Block, done: Done) -> PowerSums:
        """Return the sums over a block, on the CPU."""
        optics = self.optics[block.half - 1]
        band = optics.band_of(block.geometry).band
        n_shells = optics.n_shells()
        power = torch.zeros(len(n_shells), max(n_shells), dtype=torch.float64)
        total = torch.zeros(len(band), dtype=torch.complex128, device=self.stack.device)
        for batch in optics.batches(self.stack, block.geometry, block.rows):
            total += batch.x.to(torch.complex128).sum(0)
            groups, place = np.unique(batch.group_of, return_inverse=True)
            of = torch.from_numpy(place).to(self.stack.device)
            found = power_per_shell(band, batch.x.abs().square(), of, len(groups))
            power[torch.from_numpy(groups), : band.n_shells] += found.cpu()
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
    done = told_as("measuring noise", events, len(stack.table))
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
    spectra = _shared(optics, counts, total.power)
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


def _shared(
    optics: HalfOptics, counts: np.ndarray, power: Float[Tensor, "g s"]
) -> list[Float[Tensor, "_"] | None]:
    """Return mean spectra of the groups: their own, and a little of their geometry's.

    None where the half has no image of the geometry.
    """
    out: list[Tensor | None] = [None] * len(counts)
    for geometry, band in enumerate(optics.geometry_bands):
        alike = np.flatnonzero(np.array(optics.geometry_of) == geometry)
        n_alike = int(counts[alike].sum())
        if n_alike == 0:
            continue
        own = power[torch.from_numpy(alike), : band.band.n_shells]
        common = own.sum(0) / n_alike
        for g, spectrum in zip(alike, own, strict=True):
            n = int(counts[g])
            out[g] = (
                spectrum / n
                if n == n_alike
                else (spectrum + _OF_GEOMETRY * common) / (n + _OF_GEOMETRY)
            )
    return out


def group_noise(
    inputs: Inputs, state: State, optics: HalfOptics, half: int, power: Float[Tensor, "g s"]
) -> tuple[Float[Tensor, "_"], ...]:
    """Return the optics groups' noise spectra from residuals.

    They keep their old values beyond the resolution of ``optics``, and where the half has no
    image of their geometry.

    Parameters
    ----------
    power
        By optics group and shell: sums over particles of the mean squared residual.
    """
    spectra = []
    measured = _shared(optics, group_counts(inputs.table, inputs.half, half), power)
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
