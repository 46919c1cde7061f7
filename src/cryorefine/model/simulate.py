"""Simulated particle images with known poses, defoci, scales and noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.fourier.band import make_band, phase_ramp
from cryorefine.fourier.fft import fast_even_length, image_from_half, image_to_half
from cryorefine.fourier.shell import frequency_radius
from cryorefine.geometry.rotation import matrix_from_euler, random_rotations
from cryorefine.model.atoms import Atoms, project_atoms, scattering_basis, volume_from_atoms
from cryorefine.model.filament import filament_map
from cryorefine.model.tubes import TubePlan, Tubes, draw_tubes
from cryorefine.optics.aberration import odd_phase
from cryorefine.optics.ctf import Defocus, contrast_transfer, image_frequencies
from cryorefine.optics.group import OpticsGroup

__all__ = [
    "SimulatedSet",
    "SimulationPlan",
    "draw_parameters",
    "noise_amplitude",
    "simulate_images",
    "truth_volume",
]


@dataclass(frozen=True)
class SimulationPlan:
    """What to simulate; lengths in ångströms, angles in degrees.

    Attributes
    ----------
    snr
        Variance of the noise-free images over the whole box, mean over particles, divided by the
        variance of the noise.
    defocus_min_A, defocus_max_A, astigmatism_A
        Range of the mean defocus per micrograph; |U - V|.
    defocus_error_A
        Standard deviation of the particles' true mean defocus about the one they are given.
    bfactor_A2
        Of the imaging, in the CTF of every particle.
    pose_axis_tilt_deg
        None: uniform poses. Otherwise viewing tilts are Gaussian about this angle ...
    pose_axis_spread_deg
        ... with this standard deviation (a preferred orientation) ...
    pose_axis_fraction
        ... for this share of the particles; the others' poses are uniform.
    shift_A
        Standard deviation of each shift component.
    scale_spread
        Standard deviation of the particles' relative amplitudes.
    junk_fraction
        Fraction of images that hold noise only.
    noise
        ``white``; ``coloured``: stronger at low resolution, scaled to unit variance; ``ice``: white
        noise of unit variance that is then given the power ``0.6 + 2 exp(-k / 0.03 Å⁻¹)``, so that
        ``snr`` is against the white noise that it was.
    tubes
        How segments of filaments lie, whose poses and shifts these are; None: single particles.
    """

    n_particles: int
    box_px: int
    pixel_A: float
    snr: float
    n_groups: int = 1
    particles_per_micrograph: int = 50
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    defocus_min_A: float = 8000.0
    defocus_max_A: float = 20000.0
    astigmatism_A: float = 200.0
    defocus_error_A: float = 0.0
    bfactor_A2: float = 0.0
    pose_axis_tilt_deg: float | None = None
    pose_axis_spread_deg: float = 15.0
    pose_axis_fraction: float = 1.0
    shift_A: float = 3.0
    scale_spread: float = 0.0
    junk_fraction: float = 0.0
    noise: Literal["white", "coloured", "ice"] = "coloured"
    seed: int = 0
    tubes: TubePlan | None = None


@dataclass(frozen=True, eq=False)
class SimulatedSet:
    """The true parameters of a simulated set; arrays per particle.

    Attributes
    ----------
    defocus, told_defocus
        What the images have, and what the particle file says.
    grey_scale
        Images hold this many times the atoms' units; see :class:`SimulationPlan` for the noise.
    tubes
        Of segments of filaments; None: single particles.
    """

    groups: tuple[OpticsGroup, ...]
    group_index: np.ndarray
    micrograph_index: np.ndarray
    rotations: Float[Tensor, "n 3 3"]
    shift_A: Float[Tensor, "n 2"]
    defocus: Defocus
    stated_defocus: Defocus
    scale: Float[Tensor, "n"]
    is_junk: np.ndarray
    grey_scale: float
    tubes: Tubes | None = None


def _draw_rotations(plan: SimulationPlan, generator: torch.Generator) -> Tensor:
    if plan.pose_axis_tilt_deg is None:
        return random_rotations(plan.n_particles, generator)
    n = plan.n_particles
    tilt = plan.pose_axis_tilt_deg + plan.pose_axis_spread_deg * torch.randn(
        n, dtype=torch.float64, generator=generator
    )
    turn = torch.rand(n, 2, dtype=torch.float64, generator=generator) * (2 * math.pi)
    preferred = matrix_from_euler(torch.stack([turn[:, 0], torch.deg2rad(tilt), turn[:, 1]], -1))
    if plan.pose_axis_fraction >= 1:
        return preferred
    is_preferred = torch.rand(n, generator=generator) < plan.pose_axis_fraction
    others = random_rotations(n, generator)
    return torch.where(is_preferred[:, None, None], preferred, others)


def draw_parameters(atoms: Atoms, plan: SimulationPlan) -> SimulatedSet:
    """Draw every particle's true parameters and find the grey scale that gives the SNR."""
    generator = torch.Generator().manual_seed(plan.seed)
    n = plan.n_particles
    n_micrographs = math.ceil(n / plan.particles_per_micrograph)
    micrograph = torch.arange(n) // plan.particles_per_micrograph

    def uniform(count: int) -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64)

    mean = plan.defocus_min_A + uniform(n_micrographs) * (plan.defocus_max_A - plan.defocus_min_A)
    mean = mean[micrograph] + 100.0 * torch.randn(n, generator=generator, dtype=torch.float64)
    angle = (uniform(n_micrographs) * math.pi)[micrograph]
    rotations = _draw_rotations(plan, generator)
    shift = plan.shift_A * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    scale = (1 + plan.scale_spread * torch.randn(n, generator=generator)).clamp_min(0.1)
    junk = uniform(n) < plan.junk_fraction
    groups = tuple(
        OpticsGroup(
            name=f"opticsGroup{g + 1}",
            pixel_A=plan.pixel_A,
            box_px=plan.box_px,
            voltage_kV=plan.voltage_kV,
            cs_mm=plan.cs_mm,
            amplitude_contrast=plan.amplitude_contrast,
        )
        for g in range(plan.n_groups)
    )
    zero = torch.zeros(n, dtype=torch.float64)
    stated = Defocus(
        u_A=mean + plan.astigmatism_A / 2,
        v_A=mean - plan.astigmatism_A / 2,
        angle_rad=angle,
        phase_shift_rad=zero,
        bfactor_A2=zero + plan.bfactor_A2,
        scale=zero + 1,
    )
    defocus = stated
    if plan.defocus_error_A > 0:
        error = torch.randn(n, generator=generator, dtype=torch.float64) * plan.defocus_error_A
        defocus = replace(stated, u_A=stated.u_A + error, v_A=stated.v_A + error)
    drawn = SimulatedSet(
        groups=groups,
        group_index=(micrograph * plan.n_groups // max(n_micrographs, 1)).numpy().astype(np.int32),
        micrograph_index=micrograph.numpy().astype(np.int64),
        rotations=rotations,
        shift_A=shift,
        defocus=defocus,
        stated_defocus=stated,
        scale=scale,
        is_junk=junk.numpy(),
        grey_scale=1.0,
    )
    return _scaled_to_snr(atoms, plan, _laid_in_tubes(plan, drawn))


def _laid_in_tubes(plan: SimulationPlan, drawn: SimulatedSet) -> SimulatedSet:
    """Put the poses of segments in the place of single particles', if filaments are simulated."""
    if plan.tubes is None:
        return drawn
    tubes = draw_tubes(
        plan.tubes,
        drawn.micrograph_index,
        box_px=plan.box_px,
        pixel_A=plan.pixel_A,
        pick_error_A=plan.shift_A,
        seed=plan.seed,
    )
    return replace(drawn, tubes=tubes, rotations=tubes.rotations, shift_A=tubes.shift_A)


def _scaled_to_snr(atoms: Atoms, plan: SimulationPlan, drawn: SimulatedSet) -> SimulatedSet:
    """Set the grey scale from the variance of up to 64 noise-free images."""
    real = np.flatnonzero(~drawn.is_junk)
    if len(real) == 0:
        return drawn
    sample = real[np.linspace(0, len(real) - 1, min(64, len(real))).astype(int)]
    images = torch.cat([x for _, x in _noise_free(atoms, plan, drawn, sample, 16)])
    variance = float(images.var(dim=(-2, -1), correction=0).mean())
    scale = math.sqrt(plan.snr / variance) if variance > 0 else 1.0
    return replace(drawn, grey_scale=scale)


def _noise_free(
    atoms: Atoms, plan: SimulationPlan, drawn: SimulatedSet, rows: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (rows, images) with contrast transfer, applied in a box of twice the side."""
    n = plan.box_px
    band = make_band(2 * n, n - 1, min_radius=0.0)  # up to Nyquist: 2n pixels of the same size
    basis = scattering_basis(atoms, 0.75 / plan.pixel_A)
    k = torch.stack([band.kx, band.ky], -1).double()
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        index = torch.from_numpy(part)
        # A filament that leaves the box must not come in again on its other side.
        spectra = project_atoms(
            atoms, basis, drawn.rotations[index], band, plan.pixel_A,
            is_periodic=plan.tubes is None,
        )  # fmt: skip
        # A shift centres the content, so the simulated content is moved the other way.
        spectra = spectra * phase_ramp(band, (-drawn.shift_A[index] / plan.pixel_A).float())
        for g in np.unique(drawn.group_index[part]):
            # The enlarged box has the group's pixels, so k / (2 n) cycles per pixel.
            group = drawn.groups[g]
            s = image_frequencies(group, k / 2).float()
            mine = torch.from_numpy(drawn.group_index[part] == g)
            chosen = index[mine]
            ctf = contrast_transfer(group, _rows(drawn.defocus, chosen), s)
            factor = ctf * torch.exp(1j * odd_phase(group, s))
            spectra[mine] = spectra[mine] * factor.to(spectra.dtype)
        amplitude = drawn.grey_scale * drawn.scale[index] * torch.from_numpy(~drawn.is_junk[part])
        spectra = spectra * amplitude.float()[:, None]
        large = image_from_half(band.put(spectra), 2 * n)
        low = n - n // 2
        yield part, large[:, low : low + n, low : low + n]


def _rows(defocus: Defocus, index: Tensor) -> Defocus:
    return Defocus(**{name: values[index].float() for name, values in defocus.__dict__.items()})


def noise_amplitude(plan: SimulationPlan) -> Float[Tensor, "y xh"]:
    """Return what white noise of unit variance is filtered by.

    ``coloured`` noise keeps unit variance, and has four times the power at zero frequency that it
    has far beyond 1/40 Å. ``ice`` has 2.6 times the power of the white noise at zero frequency,
    and 0.6 of it at high ones.
    """
    radius = frequency_radius(plan.box_px, 2) / (plan.box_px * plan.pixel_A)
    if plan.noise == "white":
        return torch.ones_like(radius)
    if plan.noise == "ice":
        return (0.6 + 2.0 * torch.exp(-radius / 0.03)).sqrt()
    power = 1 + 3 / (1 + (radius * 40.0) ** 2)
    weight = torch.full_like(power, 2.0)
    weight[:, 0] = 1.0
    if plan.box_px % 2 == 0:
        weight[:, -1] = 1.0
    return (power / ((power * weight).sum() / weight.sum())).sqrt()


def simulate_images(
    atoms: Atoms, plan: SimulationPlan, drawn: SimulatedSet, *, batch: int = 16
) -> Iterator[tuple[np.ndarray, Float[Tensor, "b y x"]]]:
    """Yield (rows, images) of all particles in order.

    Projections come straight from the atoms at the exact pose; contrast transfer acts in a box
    of twice the side, so that nothing delocalised wraps round. Segments of a tube share the noise
    where they overlap.
    """
    generator = torch.Generator().manual_seed(plan.seed + 1)
    amplitude = noise_amplitude(plan)
    rows = np.arange(plan.n_particles)
    shared = None if drawn.tubes is None else _shared_noise(plan, drawn, drawn.tubes, generator)
    for part, images in _noise_free(atoms, plan, drawn, rows, batch):
        if shared is not None:
            yield part, images + torch.stack(list(islice(shared, len(part))))
            continue
        noise = torch.randn(images.shape, generator=generator)
        coloured = image_from_half(image_to_half(noise) * amplitude, plan.box_px)
        yield part, images + coloured


def _shared_noise(
    plan: SimulationPlan, drawn: SimulatedSet, tubes: Tubes, generator: torch.Generator
) -> Iterator[Float[Tensor, "y x"]]:
    """Yield the noise of each segment in order, cut from that of its tube's piece of micrograph."""
    n = plan.box_px
    key = np.stack([drawn.micrograph_index, tubes.number])
    begins = np.flatnonzero((np.diff(key, prepend=-1) != 0).any(0))
    for begin, end in zip(begins, [*begins[1:], len(tubes.number)], strict=True):
        corner = tubes.corner_px[begin:end] - tubes.corner_px[begin:end].min(0)
        side = fast_even_length(int(corner.max()) + n)
        piece = replace(plan, box_px=side)
        white = image_to_half(torch.randn(side, side, generator=generator))
        field = image_from_half(white * noise_amplitude(piece), side)
        for x, y in corner:
            yield field[y : y + n, x : x + n]


def truth_volume(atoms: Atoms, plan: SimulationPlan, drawn: SimulatedSet) -> Float[Tensor, "z y x"]:
    """Return the true map on the images' grey scale, band-limited below Nyquist.

    Of a filament it is the middle, which goes on beyond the box.
    """
    if plan.tubes is not None:
        piece = filament_map(atoms, size_px=plan.box_px, voxel_A=plan.pixel_A)
        return piece * drawn.grey_scale
    basis = scattering_basis(atoms, 0.95 / plan.pixel_A)
    volume = volume_from_atoms(atoms, basis, size_px=plan.box_px, voxel_A=plan.pixel_A)
    return volume * drawn.grey_scale
