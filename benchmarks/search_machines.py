"""Machines for the exhaustive search, side by side: one grid of poses, one set, one thread.

    python benchmarks/search_machines.py MODEL.pdb.gz --particles 300 --keep FOLDER

Each machine scores every orientation of one grid (directions times in-plane angles, at the best of
all shifts) for every image of simulated sets as of particles in ice, and names the best hundred.
The score is that of the program: with y the whitened image times its contrast transfer c, S the
slice at an orientation, s a shift and all sums over the half plane up to one shell,

    L = 2 Re sum conj(y) exp(2πi k·s/n) S - sum c² |S|² - |s|² / 2σ².

The grid is the one that the program takes at that shell, with an even number of in-plane angles
that transforms are fast for.
Printed for each resolution and machine: multiplications with addition of real numbers an image, by
formula; CPU time an image, median over blocks of images between which the machines take turns;
operations (two for each of these) a second; size of the tables of one reference and CPU time to
make them; the share of the images that have a pose beside the truth (one step of the grid, and one
and a half of the shifts') among the best 10 and the best 100; and how many of the product's best 10
are among the machine's best 10. Of bounds, the share of the orientations that must be scored at all
shells since their bound exceeds the hundredth best score that is known, and since it exceeds the
best.
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.special import j0, jv
from torch import Tensor

from cryorefine.assign.exhaustive import (
    CoarseSearch,
    PoseGrid,
    Pruning,
    make_coarse_search,
    search_coarse,
    shift_grid,
)
from cryorefine.assign.search_depth import SearchSpace
from cryorefine.engine.memory import RunSize, free_bytes, plan_memory
from cryorefine.engine.serial import SerialEngine
from cryorefine.engine.threads import use_threads
from cryorefine.events import EventLog
from cryorefine.fourier.band import phase_ramp
from cryorefine.fourier.fft import fast_even_length
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_euler
from cryorefine.geometry.so3 import rotations_from
from cryorefine.geometry.sphere import direction_grid
from cryorefine.io.mrc import read_volume
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid, make_slice_grid
from cryorefine.model.observe import (
    GroupBand,
    image_statistics,
    make_group_band,
    observe,
)
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.images import open_images
from cryorefine.particles.table import ParticleTable
from cryorefine.refine.noise import initial_noise
from cryorefine.run.inputs import measure_radius
from cryorefine.state.particle_batches import ParticleStack, make_half_optics
from trial import ICE, markdown, number, simulate

_BEST = 100
_SHIFT_SIGMA_A = 3.0
"""As simulated; the program measures it before it searches."""

_MAX_SHIFT = 0.1
"""Of the box: the program's default."""

_BLOCK = 50
"""Images that a machine is given at a time before the next machine takes its turn."""

_LOST = 3e-3
"""Share of the model's power that a truncated expansion may lose: an error of 0.4 in the score of
a pose of power 30. The same for shifts, slices and angular modes."""

_MARGIN = 3
"""Shells beyond the search's that the rings of an image are read from."""

_FLAT = 0.75
"""Where the window that makes this reading short begins to fall, in half boxes."""

_LOW = 0.6
"""Share of the shells that are compared exactly before the bounds."""

_SIGMAS = 4.0
"""By how much noise may exceed what the likely bound allows for, in standard deviations."""

_CACHED = 1 << 19
"""Numbers of a tile that stays in the cache."""


@dataclass(frozen=True, eq=False)
class Task:
    """What all machines are given.

    Attributes
    ----------
    search
        Slices at all orientations, in-plane angles fastest, and shifts.
    directions
        Slices' viewing directions, each with ``n_psi`` in-plane angles from zero upwards.
    half_prior
        Half the prior's penalty of each shift: cross terms are half of what they add to scores.
    mean_c2, model_power
        At the search's points: contrast transfer squared, and times the slices' power: means over
        images and slices.
    """

    grid: SliceGrid
    view: GroupBand
    search: CoarseSearch
    directions: Float[Tensor, "d 3"]
    n_psi: int
    max_shell: int
    radius_px: float
    shift_sigma_px: float
    half_prior: Float[Tensor, "t"]
    mean_c2: Float[Tensor, "p"]
    model_power: Float[Tensor, "p"]


@dataclass(frozen=True, eq=False)
class Found:
    """Orientations and shifts of each image's best scores, and what finding them took.

    Attributes
    ----------
    multiplications
        Real ones, with an addition each, an image.
    left, left_of_best
        Share of the orientations that bounds leave by the hundredth best score that is known, and
        that they would leave by the best.
    """

    rotation: Int[Tensor, "b k"]
    shift: Int[Tensor, "b k"]
    multiplications: float
    left: float = math.nan
    left_of_best: float = math.nan


T = TypeVar("T")
Search = Callable[[Tensor, Tensor], Found]


@dataclass(frozen=True, eq=False)
class Machine:
    """A search for whitened images and contrast transfer, with its tables."""

    search: Search
    table_bytes: int


def bytes_of(*tensors: Tensor) -> int:
    """Return the memory that tensors fill."""
    return sum(t.numel() * t.element_size() for t in tensors)


def packed(values: Complex[Tensor, "*b p"]) -> Float[Tensor, "*b pp"]:
    """Put real parts before imaginary ones."""
    return torch.cat([values.real, values.imag], -1)


def columns_of(tile_rows: int) -> int:
    """Return how many columns of so many rows stay in the cache."""
    return max(64, _CACHED // max(1, tile_rows) // 64 * 64)


# --- the product, the program's machine -----------------------------------------------------------


def product(task: Task) -> Machine:
    """Multiply images at all shifts with slices at all orientations.

    The program's own search, of slices with a term for each number: it takes half as many, their
    principal components, as the second of the factorised products does. One real matrix product
    of ``(b t) × 2p`` by ``2p × q``. The contrast transfer multiplies the image, point by point;
    the model's power is the product of c² (b × p) and |S|² (p × q): exact.
    """
    search = task.search
    everything = Pruning(mass_lost=0.0, allowance=1e9, most=_BEST)
    p, t, q = len(search.power), len(search.shifts_px), len(search.rotations)

    def run(x: Tensor, c: Tensor) -> Found:
        found = search_coarse(search, x, c, everything, shift_precision=task.shift_sigma_px**-2)
        shape = (len(x), -1)
        return Found(found.rotation.view(shape), found.shift.view(shape), 2 * p * t * q + p * q)

    return Machine(run, bytes_of(search.slices, search.power, search.ramps))


# --- shifts by few terms --------------------------------------------------------------------------


def shift_terms(
    task: Task, rings: "Rings | None" = None
) -> tuple[Complex[Tensor, "h p"], Float[Tensor, "t h"]]:
    """Factorise the translation kernel: ``exp(-2πi k·s/n) = sum_h a_h(s) u_h(k)``.

    In polar coordinates, k = (r, θ) and s = (δ, ω), by the expansion of Jacobi and Anger,

        exp(-iz cos(θ - ω)) = J₀(z) + 2 sum_j (-i)^j J_j(z) cos(j (θ - ω)),   z = 2π r δ / n,

    and each ``J_j(2π r δ / n)`` is a sum of few products U(r) V(δ): its singular value
    decomposition (Rangan et al. 2020), here weighted by the model's power. The terms kept are the
    largest. Each is the transform of a real image filter, cosine and sine of jθ being two of them.
    At the search's points, or those that rings are read from, of which the outer ones count little.
    """
    search, view, ramps, power = task.search, task.view, task.search.ramps, task.model_power
    last = search.last
    if rings is not None:
        ramps, last = ramps_of(task, rings), rings.last
        outer = view.band.shell[search.first : search.last] == task.max_shell
        power = torch.cat([power, (0.1 * power[outer].mean()).expand(last - search.last)])
    k = view.k_px()[search.first : last].double().numpy()
    s = search.shifts_px.numpy()
    r, theta = np.hypot(k[:, 0], k[:, 1]), np.arctan2(k[:, 1], k[:, 0])
    delta, omega = np.hypot(s[:, 0], s[:, 1]), np.arctan2(s[:, 1], s[:, 0])
    weight = np.sqrt(power.double().numpy())
    z = 2 * np.pi * np.outer(r, delta) / view.band.size_px
    terms: list[tuple[float, np.ndarray, np.ndarray]] = []
    for j in range(2 * math.ceil(z.max()) + 4):
        u, sigma, v = np.linalg.svd(weight[:, None] * jv(j, z), full_matrices=False)
        for i in range(len(sigma)):
            radial, coefficient = u[:, i] / weight, sigma[i] * v[i]
            factor = 1.0 if j == 0 else 2.0
            for wave in (np.cos,) if j == 0 else (np.cos, np.sin):
                filter_k = (-1j) ** j * radial * wave(j * theta)
                at_shift = factor * coefficient * wave(j * omega)
                size = np.square(weight * abs(filter_k)).sum() * np.square(at_shift).sum()
                terms.append((float(size), filter_k, at_shift))
    terms.sort(key=lambda term: -term[0])
    # Cosines overlap on a grid of shifts: so the residual itself says when there are enough.
    filters, coefficients = [], []
    residual = weight * ramps.numpy()
    allowed = _LOST * np.square(abs(residual)).sum()
    for _, filter_k, at_shift in terms:
        if np.square(abs(residual)).sum() < allowed:
            break
        residual -= at_shift[:, None] * (weight * filter_k)
        filters.append(torch.from_numpy(filter_k))
        coefficients.append(torch.from_numpy(at_shift))
    return torch.stack(filters).to(torch.complex64), torch.stack(coefficients, 1).float()


def best_of_shifts(
    terms: Float[Tensor, "h n"], at_shift: Float[Tensor, "t h"], out: Float[Tensor, "n"]
) -> None:
    """Put the terms together for all shifts and keep the largest of each column."""
    width = columns_of(len(at_shift))
    tile = torch.empty(len(at_shift) * width)
    for left in range(0, terms.shape[1], width):
        part = terms[:, left : left + width]
        sums = tile[: len(at_shift) * part.shape[1]].view(len(at_shift), -1)
        torch.mm(at_shift, part, out=sums)
        torch.amax(sums, 0, out=out[left : left + width])


def with_prior(task: Task, at_shift: Float[Tensor, "t h"]) -> Float[Tensor, "t hh"]:
    """Add the prior as the coefficient of a term that is one everywhere."""
    return torch.cat([at_shift, -task.half_prior[:, None]], 1)


def factorised_product(task: Task, *, slices_too: bool) -> Machine:
    """Multiply slices with images through few filters instead of images at all shifts.

    ``exp(-2πi k·s/n) = sum_h a_h(s) u_h(k)``, so that the large product has h rows an image instead
    of t, and a small one, (t × h) by (h × q), makes the shifts of it.

    With ``slices_too`` the slices, weighted by the mean contrast transfer, are replaced by their
    principal components: ``S ≈ W⁻¹ U Z`` with Z = Uᵀ W S. They are fewer than 2p since the particle
    fills a part of its box. The contrast transfer multiplies the image; the power is exact.
    """
    search = task.search
    filters, at_shift = shift_terms(task)
    coefficients = with_prior(task, at_shift)
    h, t = len(filters), len(at_shift)
    p, q = search.power.shape
    table, basis = search.slices, torch.eye(2 * p)
    if slices_too:
        weight = task.mean_c2.clamp_min(1e-12).sqrt().repeat(2)[:, None]
        sample = weight * search.slices[:, :: max(1, q // 8192)]
        power, vectors = torch.linalg.eigh((sample @ sample.T).double())
        # Ascending: the first ones are lost.
        n_lost = int((power.clamp_min(0).cumsum(0) < _LOST * power.sum()).sum())
        vectors = vectors[:, n_lost:].float()
        table, basis = vectors.T @ (weight * search.slices), vectors / weight
    rank = len(table)

    def run(x: Tensor, c: Tensor) -> Found:
        c = c[:, search.first : search.last]
        y = x[:, search.first : search.last] * c
        best = torch.empty(len(x), q)
        images = max(1, 512 // h)
        width = columns_of((h + 1) * images)
        for start in range(0, len(x), images):
            part = y[start : start + images]
            rows = packed(filters[:, None] * part).flatten(0, 1)
            if slices_too:
                rows = rows @ basis
            for left in range(0, q, width):
                columns = table[:, left : left + width]
                terms = torch.ones(h + 1, len(part), columns.shape[1])
                torch.mm(rows, columns, out=terms[:h].view(-1, columns.shape[1]))
                largest = torch.empty(terms[0].numel())
                best_of_shifts(terms.flatten(1), coefficients, largest)
                best[start : start + images, left : left + width] = largest.view(len(part), -1)
        rotation = (2 * best - c.square() @ search.power).topk(_BEST, 1).indices
        shift = torch.stack(
            [
                (packed(one * search.ramps) @ search.slices.T[at].T - task.half_prior[:, None])
                .argmax(0)
                for one, at in zip(y, rotation, strict=True)
            ]
        )  # fmt: skip
        into_basis = h * 2 * p * rank if slices_too else 0
        return Found(rotation, shift, h * rank * q + t * (h + 1) * q + p * q + into_basis)

    tables = (table, basis, search.slices) if slices_too else (table,)
    return Machine(run, bytes_of(*tables, search.power, filters))


# --- polar rings ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rings:
    """A reference's slices in angular modes on rings, and what takes images there.

    The slice along a direction, on the ring of radius r = 1, 2, ... cycles per box, is
    ``S(r, θ) = sum_m S_m(r) exp(imθ)``, and turned in plane by ψ ``sum_m S_m(r) exp(im(θ+ψ))``.
    A sum over the half plane is half of ``sum_r 2π r ∫ dθ/2π``, so that the cross term is

        X(ψ) = Re (C₀/2 + sum_{m>0} C_m exp(imψ)),   C_m = sum_r 2π r conj(Y_m(r)) S_m(r).

    Attributes
    ----------
    modes
        Angular orders m that are kept: even ones first.
    slices
        (2 m, 2 r, d): for each mode what turns real above imaginary parts of Y_m into the real part
        of C_m, then what turns them into its imaginary part. Rings without power in a mode are 0.
    by_direction
        (d, m, 2, 2 r): the same once more, to read single directions from.
    reader
        (2 p', 2 r m): from an image's points, real before imaginary parts, to its modes: of each
        mode the real parts on all rings, then the imaginary ones. Integrals over θ of the transform
        of the image in a window that is flat to three quarters of the half box: exact but for the
        points more than three shells beyond the band.
    ring_power
        (r, d): half of 2π r times the mean of |S|² over θ. With the mean of c² over each ring it
        makes the model's power, the same for all in-plane angles: exact but for astigmatism.
    ring_mean
        (p, r): takes means over the points of each ring.
    first, last
        Points of the band that images are read from.
    """

    modes: list[int]
    slices: Float[Tensor, "mm rr d"]
    by_direction: Float[Tensor, "d m 2 rr"]
    reader: Float[Tensor, "pp rrm"]
    ring_power: Float[Tensor, "r d"]
    ring_mean: Float[Tensor, "p r"]
    first: int
    last: int

    @property
    def table_bytes(self) -> int:
        """Memory of all of it."""
        return bytes_of(
            self.slices, self.by_direction, self.reader, self.ring_power, self.ring_mean
        )  # fmt: skip

    def products(self, images: Float[Tensor, "mm n rr"], chosen: slice, out: Tensor) -> None:
        """Compute C_m of images and directions: (2 m, n, d), real and imaginary parts in turn."""
        torch.bmm(images, self.slices[:, :, chosen], out=out)

    def turned(self, direction: Tensor, psi_rad: Tensor) -> Float[Tensor, "k m rr"]:
        """Return slices of some directions, turned: their products with images are cross terms."""
        angle = (psi_rad[:, None] * torch.tensor(self.modes)).float()[..., None]
        parts = self.by_direction[direction]
        return parts[:, :, 0] * angle.cos() - parts[:, :, 1] * angle.sin()


def window_transform(size_px: int, distance: np.ndarray) -> np.ndarray:
    """Return the transform of the round window of images, at distances in cycles per box."""
    half = size_px / 2
    rho = np.arange(0.125, half, 0.25)
    fall = np.clip((rho / half - _FLAT) / (1 - _FLAT), 0, 1)
    window = 0.5 + 0.5 * np.cos(np.pi * fall)
    at = np.arange(0, distance.max() + 0.02, 0.01)
    waves = j0(2 * np.pi * np.outer(at, rho) / size_px)
    profile = 2 * np.pi / size_px**2 * 0.25 * (waves @ (window * rho))
    return np.interp(distance, at, profile)


def make_rings(task: Task) -> Rings:
    """Read a reference's slices, and prepare to read images, on rings."""
    view, last = task.view, task.max_shell
    n = view.band.size_px
    n_theta = 2 * math.ceil(2 * math.pi * last * task.radius_px / n + 12)
    theta = torch.arange(n_theta, dtype=torch.float64) * (2 * math.pi / n_theta)
    radius = torch.arange(1, last + 1, dtype=torch.float64)
    circle = torch.stack([theta.cos(), theta.sin()], -1)
    points = radius[:, None, None] * circle
    # The other half of a ring follows from this one.
    upright = rotations_from(task.directions, torch.zeros(1, dtype=torch.float64))[:, 0]
    to_volume = float(view.points[1].norm() / view.k_px()[1].double().norm())
    half = points[:, : n_theta // 2].flatten(0, 1).float() * to_volume
    values = extract_slices(task.grid, upright, half).view(len(upright), last, -1)
    modes = torch.fft.fft(torch.cat([values, values.conj()], -1), dim=-1) / n_theta
    modes = modes[..., : n_theta // 2]
    weight = 2 * math.pi * radius.float()
    ring_power = 0.5 * weight[:, None] * values.abs().square().mean(-1).T
    search = task.search
    shell = view.band.shell[search.first : search.last] - 1
    ring_mean = torch.nn.functional.one_hot(shell, last).float()
    ring_mean /= ring_mean.sum(0)
    c2 = task.mean_c2 @ ring_mean
    # Modes from the least powerful on until the share that may be lost is.
    power = (modes.abs().square().mean(0) * (weight * c2)[:, None]).double()
    power[:, 1:] *= 2
    ordered, order = power.flatten().sort()
    is_kept = torch.ones(power.numel(), dtype=torch.bool)
    is_kept[order[ordered.cumsum(0) < _LOST * ordered.sum()]] = False
    is_kept = is_kept.view(power.shape).numpy()
    n_modes = int(np.flatnonzero(is_kept.any(0)).max()) + 1
    order = [*range(0, n_modes, 2), *range(1, n_modes, 2)]
    weighted = modes * weight[:, None] * torch.from_numpy(is_kept)
    weighted[..., 0] *= 0.5
    weighted = weighted[..., order].permute(2, 1, 0)
    of_real = torch.cat([weighted.real, weighted.imag], 1)
    of_imaginary = torch.cat([weighted.imag, -weighted.real], 1)
    slices = torch.stack([of_real, of_imaginary], 1)
    by_direction = slices.permute(3, 0, 1, 2).contiguous()
    slices = slices.flatten(0, 1).contiguous()
    first, end = search.first, view.band.prefix(last + _MARGIN)
    k = view.k_px()[first:end].double().numpy()
    at = points.numpy()[:, :, None, :]
    plus, minus = (
        np.fft.fft(window_transform(n, np.linalg.norm(at - sign * k, axis=-1)), axis=1)[:, order]
        / n_theta
        for sign in (1, -1)
    )
    # (r, m, p) each: of the points' real parts, and of their imaginary ones.
    both = np.concatenate([plus + minus, 1j * (plus - minus)], 2).transpose(2, 1, 0)
    reader = np.stack([both.real, both.imag], 2).reshape(len(both), -1)
    return Rings(
        order, slices, by_direction, torch.from_numpy(reader).float(), ring_power, ring_mean,
        first, end,
    )  # fmt: skip


def angle_sums(rings: Rings, n_psi: int) -> tuple[Float[Tensor, "a e"], Float[Tensor, "a o"]]:
    """Return what sums even modes, and odd ones, for the first half of the in-plane angles.

    Half a turn on, the odd modes change their sign.
    """
    psi = torch.arange(n_psi // 2, dtype=torch.float64) * (2 * math.pi / n_psi)
    angle = psi[:, None] * torch.tensor(rings.modes)
    waves = torch.stack([angle.cos(), -angle.sin()], -1).flatten(1).float()
    n_even = 2 * sum(m % 2 == 0 for m in rings.modes)
    return waves[:, :n_even].contiguous(), waves[:, n_even:].contiguous()


def ramps_of(task: Task, rings: Rings) -> Complex[Tensor, "t p"]:
    """Return the phase ramps of all shifts at the points that rings are read from."""
    k = task.view.k_px()[rings.first : rings.last].double()
    angle = (task.search.shifts_px @ k.T) * (-2 * math.pi / task.view.band.size_px)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def read_rings(
    rings: Rings, x: Tensor, c: Tensor, filters: Complex[Tensor, "f p"]
) -> Float[Tensor, "m b f rr"]:
    """Return images times contrast transfer through each filter (a shift's ramp), in modes."""
    part = slice(rings.first, rings.last)
    y = (x[:, part] * c[:, part])[:, None] * filters
    read = (packed(y).flatten(0, 1) @ rings.reader).view(len(x), len(filters), len(rings.modes), -1)
    return read.permute(2, 0, 1, 3)


def for_products(read: Float[Tensor, "m b f rr"]) -> Float[Tensor, "mm n rr"]:
    """Return each mode twice, for the real and the imaginary parts of C_m."""
    return read.flatten(1, 2).repeat_interleave(2, 0)


def best_on_rings(
    task: Task,
    rings: Rings,
    best: Float[Tensor, "b q"],
    c: Float[Tensor, "b p"],
    moved: Float[Tensor, "m b t rr"],
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Return the best orientations from all best cross terms, and their shifts, asked again."""
    search = task.search
    c2 = c[:, search.first : search.last].square()
    power = (c2 @ rings.ring_mean) @ rings.ring_power
    score = 2 * best.view(len(best), -1, task.n_psi) - power[:, :, None]
    rotation = score.flatten(1).topk(_BEST, 1).indices
    psi_rad = (rotation % task.n_psi) * (2 * math.pi / task.n_psi)
    shifts = []
    for i, at in enumerate(rotation // task.n_psi):
        slices = rings.turned(at, psi_rad[i]).flatten(1)
        image = moved[:, i].transpose(0, 1).flatten(1)
        shifts.append((image @ slices.T - task.half_prior[:, None]).argmax(0))
    return rotation, torch.stack(shifts)


def polar(task: Task, *, by_fft: bool) -> Machine:
    """Compare rings: one polar image a shift, all in-plane angles from the angular modes.

    C_m by small products over the rings of each mode (images at their shifts by directions), then
    the angles by an FFT of them, or by a product with waves of half the angles, even and odd modes
    apart: more operations, at the rate of a product. Contrast transfer and ramps multiply the
    Cartesian points before they are read on rings; power by ring and direction.
    """
    rings = make_rings(task)
    even, odd = angle_sums(rings, task.n_psi)
    n_even, n_parts = even.shape[1], len(rings.slices)
    ramps = ramps_of(task, rings)
    t, d, half = len(ramps), len(task.directions), task.n_psi // 2
    width = columns_of(n_parts * t + 3 * half * t)
    # The prior is one constant an image and shift: a part of the mode 0.
    prior = task.half_prior[:, None]

    def run(x: Tensor, c: Tensor) -> Found:
        read = read_rings(rings, x, c, ramps)
        best = torch.empty(len(x), d, task.n_psi)
        buffer, sums = torch.empty(n_parts * t * width), torch.empty(3, half * t * width)
        for i in range(len(x)):
            image = for_products(read[:, i : i + 1])
            for left in range(0, d, width):
                chosen = slice(left, min(d, left + width))
                n = t * (chosen.stop - left)
                modes = buffer[: n_parts * n].view(n_parts, t, -1)
                rings.products(image, chosen, modes)
                modes[0].sub_(prior)
                if by_fft:
                    best[i, chosen] = _by_fft(rings, modes, task.n_psi).amax(1).T
                    continue
                of_even, of_odd, both = (part[: half * n].view(half, n) for part in sums)
                torch.mm(even, modes[:n_even].view(n_even, n), out=of_even)
                torch.mm(odd, modes[n_even:].view(-1, n), out=of_odd)
                torch.add(of_even, of_odd, out=both)
                best[i, chosen, :half] = both.view(half, t, -1).amax(1).T
                torch.sub(of_even, of_odd, out=both)
                best[i, chosen, half:] = both.view(half, t, -1).amax(1).T
        rotation, shift = best_on_rings(task, rings, best, c, read)
        # A complex product is four real ones; an FFT of n real numbers takes 2.5 n log2 n
        # operations, half of them counted as multiplications.
        n_psi = task.n_psi
        angles = 1.25 * n_psi * math.log2(n_psi) if by_fft else half * n_parts
        count = t * rings.reader.numel() + d * t * (rings.slices[..., 0].numel() + angles)
        return Found(rotation, shift, count)

    return Machine(run, rings.table_bytes)


def _by_fft(rings: Rings, modes: Float[Tensor, "mm t d"], n_psi: int) -> Float[Tensor, "a t d"]:
    """Sum modes for all in-plane angles by a real FFT."""
    if max(rings.modes) >= n_psi // 2:
        raise ValueError("there are more modes than the transform of so few angles holds")
    values = modes.new_zeros(n_psi // 2 + 1, *modes.shape[1:], dtype=torch.complex64)
    parts = modes.unflatten(0, (-1, 2))
    values[rings.modes] = torch.complex(parts[:, 0], parts[:, 1])
    values[1:] *= 0.5
    return torch.fft.irfft(values, n=n_psi, dim=0, norm="forward")


def factorised_polar(task: Task) -> Machine:
    """Compare rings of images through few filters, and put shifts together in the end.

    As :func:`polar` with the h filters of :func:`shift_terms` for the t ramps (Rangan et al. 2020):
    rings and angles for h rows an image, then a product (t × h) by (h × q) and its largest values.
    """
    rings = make_rings(task)
    even, odd = angle_sums(rings, task.n_psi)
    n_even, n_parts = even.shape[1], len(rings.slices)
    filters, at_shift = shift_terms(task, rings)
    coefficients = with_prior(task, at_shift)
    t, h = at_shift.shape
    d, half = len(task.directions), task.n_psi // 2
    width = columns_of(max(n_parts * (h + 1) + 3 * half * (h + 1), half * (t + h + 1)))

    def run(x: Tensor, c: Tensor) -> Found:
        read = read_rings(rings, x, c, filters)
        best = torch.empty(len(x), d, task.n_psi)
        buffer = torch.empty(n_parts * (h + 1) * width)
        sums = torch.empty(3, half * (h + 1) * width)
        tile = torch.empty(half * t * width)
        each = coefficients.expand(half, -1, -1)
        for i in range(len(x)):
            # Another row, of which the mode 0 is set to one: the term of the prior.
            image = torch.nn.functional.pad(for_products(read[:, i : i + 1]), (0, 0, 0, 1))
            for left in range(0, d, width):
                chosen = slice(left, min(d, left + width))
                n = (h + 1) * (chosen.stop - left)
                modes = buffer[: n_parts * n].view(n_parts, h + 1, -1)
                rings.products(image, chosen, modes)
                modes[0, h] = 1.0
                of_even, of_odd, both = (part[: half * n].view(half, n) for part in sums)
                torch.mm(even, modes[:n_even].view(n_even, n), out=of_even)
                torch.mm(odd, modes[n_even:].view(-1, n), out=of_odd)
                at_shifts = tile[: half * t * (chosen.stop - left)].view(half, t, -1)
                torch.add(of_even, of_odd, out=both)
                torch.bmm(each, both.view(half, h + 1, -1), out=at_shifts)
                best[i, chosen, :half] = at_shifts.amax(1).T
                torch.sub(of_even, of_odd, out=both)
                torch.bmm(each, both.view(half, h + 1, -1), out=at_shifts)
                best[i, chosen, half:] = at_shifts.amax(1).T
        rotation, shift = best_on_rings(task, rings, best, c, at_shift @ read)
        of_term = rings.slices[..., 0].numel() + half * n_parts
        count = h * rings.reader.numel() + d * (h * of_term + t * (h + 1) * task.n_psi)
        return Found(rotation, shift, count)

    return Machine(run, rings.table_bytes)


# --- bounds ---------------------------------------------------------------------------------------


def bounded(task: Task, *, is_strict: bool) -> Machine:
    """Compare the low shells exactly and bound what the others can add.

    The score is that of the low shells at their best shift plus ``2 X - P`` of the others. By the
    inequality of Cauchy and Schwarz in each shell, whatever the shift,

        X ≤ sum_shells |y| |S|.

    Since |y| is mostly noise, the likely bound splits it: X of the signal is at most the root of P
    times the largest P of any orientation; X of the noise has the variance P/2, and is taken to be
    less than four standard deviations. The product of all shells scores the hundred that are best
    in the low shells; of the others those whose bound is below the hundredth are left out, and the
    product of all shells scores the rest. Contrast transfer and powers as in :func:`product`.
    """
    search, band = task.search, task.view.band
    p, q = search.power.shape
    low = band.prefix(max(2, round(_LOW * task.max_shell))) - search.first
    t = len(search.shifts_px)
    low_rows = torch.cat([torch.arange(low), p + torch.arange(low)])
    low_slices = search.slices[low_rows].contiguous()
    by_pose = search.slices.T.contiguous()
    shell = band.shell[search.first + low : search.last] - band.shell[search.first + low]
    shells = torch.nn.functional.one_hot(shell).float()
    norm_of_shell = (shells.T @ search.power[low:]).sqrt()
    prior = task.half_prior[:, None]

    def low_scores(rows: Tensor, b: int) -> Tensor:
        best = torch.empty(b, q)
        width = columns_of(t * b)
        for left in range(0, q, width):
            tile = rows.flatten(0, 1) @ low_slices[:, left : left + width]
            best[:, left : left + width] = tile.view(b, t, -1).sub_(prior).amax(1)
        return best

    def run(x: Tensor, c: Tensor) -> Found:
        c = c[:, search.first : search.last]
        y = x[:, search.first : search.last] * c
        c2 = c.square()
        n_left = n_left_of_best = 0
        rotations, shifts = [], []
        images = max(1, 512 // t)
        for start in range(0, len(x), images):
            part = slice(start, start + images)
            moved = packed(y[part, None] * search.ramps)
            at_low = low_scores(moved[..., low_rows], len(moved))
            low_power = c2[part, :low] @ search.power[:low]
            high_power = c2[part, low:] @ search.power[low:]
            if is_strict:
                size = (y[part, low:].abs().square() @ shells).sqrt()
                added = 2 * (size @ norm_of_shell)
            else:
                of_signal = 2 * high_power.amax(1, keepdim=True).sqrt() + _SIGMAS * 2**0.5
                added = of_signal * high_power.sqrt()
            so_far = 2 * at_low - low_power
            bound = so_far + added - high_power
            power = low_power + high_power
            for one, first, at, most in zip(moved, so_far, power, bound, strict=True):
                score = torch.full((q,), -torch.inf)

                def score_all(chosen: Tensor, one: Tensor = one, at: Tensor = at) -> Tensor:
                    cross = one @ by_pose[chosen].T
                    return 2 * (cross - prior).amax(0) - at[chosen]

                seeds = first.topk(_BEST).indices
                score[seeds] = score_all(seeds)
                is_open = most >= score[seeds].amin()
                is_open[seeds] = False
                n_left_of_best += int((most >= score[seeds].amax()).sum())
                rest = torch.nonzero(is_open)[:, 0]
                # Parts of the rest stay in the cache.
                for some in rest.split(2048):
                    score[some] = score_all(some)
                n_left += len(rest)
                top = score.topk(_BEST).indices
                rotations.append(top)
                shifts.append((one @ by_pose[top].T - prior).argmax(0))
        left = n_left / len(x)
        count = 2 * low * t * q + 2 * p * t * (left + _BEST) + (p + shells.shape[1]) * q
        return Found(
            torch.stack(rotations), torch.stack(shifts), count, left / q,
            n_left_of_best / len(x) / q,
        )  # fmt: skip

    return Machine(run, bytes_of(low_slices, by_pose, search.power, search.ramps))


MACHINES: dict[str, Callable[[Task], Machine]] = {
    "product, in all terms": product,
    "product, shifts factorised": lambda task: factorised_product(task, slices_too=False),
    "product, shifts and slices factorised": lambda task: factorised_product(task, slices_too=True),
    "rings, FFT": lambda task: polar(task, by_fft=True),
    "rings, angles by a product": lambda task: polar(task, by_fft=False),
    "rings, shifts factorised": factorised_polar,
    "bounds, strict": lambda task: bounded(task, is_strict=True),
    "bounds, likely": lambda task: bounded(task, is_strict=False),
}


# --- the set --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Images:
    """A simulated set: whitened images, contrast transfer, and true poses."""

    x: Complex[Tensor, "b p"]
    c: Float[Tensor, "b p"]
    rotations: Float[Tensor, "b 3 3"]
    shifts_px: Float[Tensor, "b 2"]


def prepare(folder: Path, resolution_A: float) -> tuple[Task, Images]:
    """Read a set, whiten it, and take the slices of the true map on the program's grid."""
    table, source = open_images(read_relion(folder / "particles.star"))
    group = table.optics[0]
    truth = _in_order(read_relion(folder / "truth_particles.star"), table)
    volume = read_volume(folder / "truth_map.mrc")
    max_shell = int(group.box_A / resolution_A + 0.5)
    view = make_group_band(
        group, volume_size_px=volume.size_px, voxel_A=volume.voxel_A,
        resolution_A=group.box_A / (max_shell + _MARGIN + 0.5),
    )  # fmt: skip
    n = view.band.size_px
    radius_px = measure_radius(volume.data, voxel_A=volume.voxel_A, resolution_A=resolution_A)
    rows = np.arange(len(table))
    pixels = source.read(rows)
    statistics = image_statistics(pixels, radius_px)
    optics = make_half_optics(
        (group,), volume_size_px=volume.size_px, voxel_A=volume.voxel_A,
        resolution_A=group.box_A / (max_shell + _MARGIN + 0.5),
    )  # fmt: skip
    size = RunSize(
        size_px=n, is_symmetric=False, searches=False, n_particles=len(table),
        threads=1,
    )  # fmt: skip
    memory = plan_memory(size, used_bytes=0, free_bytes=free_bytes())
    stack = ParticleStack(table, source, statistics, memory, torch.device("cpu"))
    both = np.ones(len(table), np.int8)
    ((noise,), _) = initial_noise(stack, both, (optics, optics), EventLog(None), SerialEngine())
    x, c = observe(pixels, statistics, view, table.defocus(rows))
    white = noise.rsqrt().float()[view.band.shell]
    x, c = x * white, c * white
    rotations = matrix_from_euler(torch.from_numpy(truth.euler_rad))
    shifts_px = torch.from_numpy(truth.shift_A / group.pixel_A)
    grid = make_slice_grid(volume.data, max_shell + _MARGIN + 1.0)
    # The true map's grey scale: by least squares at the true poses.
    part = slice(view.band.prefix(0), view.band.prefix(max_shell))
    model = (extract_slices(grid, rotations, view.points) * c)[:, part]
    centred = (x * phase_ramp(view.band, shifts_px.float()))[:, part]
    c *= float((centred.conj() * model).real.sum() / model.abs().square().sum())
    max_shift_px, sigma_px = _MAX_SHIFT * n, _SHIFT_SIGMA_A / group.pixel_A
    space = SearchSpace(radius_px, n, 1, 1.0, max_shift_px, sigma_px)
    step_rad = space.step_rad(max_shell)
    n_psi = fast_even_length(2 * math.pi / step_rad)
    psi = torch.arange(n_psi, dtype=torch.float64) * (2 * math.pi / n_psi)
    directions = direction_grid(step_rad)
    poses = PoseGrid(
        rotations_from(directions, psi).flatten(0, 1),
        step_rad,
        shift_grid(max_shift_px, space.shift_step_px(max_shell)),
    )
    search = make_coarse_search(grid, view, poses, max_shell=max_shell)
    mean_c2 = c[:, part].square().mean(0)
    half_prior = 0.25 * sigma_px**-2 * search.shifts_px.square().sum(1).float()
    task = Task(
        grid, view, search, directions, n_psi, max_shell, radius_px, sigma_px, half_prior,
        mean_c2, mean_c2 * search.power.mean(1),
    )  # fmt: skip
    return task, Images(x, c, rotations, shifts_px)


def _in_order(truth: ParticleTable, table: ParticleTable) -> ParticleTable:
    order = np.argsort(truth.image_index)
    return truth.select(order[np.searchsorted(truth.image_index[order], table.image_index)])


def is_right(task: Task, images: Images, found: Found) -> Tensor:
    """Tell which of the poses found lie beside the true one."""
    search = task.search
    angle = geodesic_angle(search.rotations[found.rotation], images.rotations[:, None])
    step_px = float(search.shifts_px[1].norm())
    move = (search.shifts_px[found.shift] - images.shifts_px[:, None]).norm(dim=-1)
    return (angle < search.step_rad) & (move < 1.5 * step_px)


def cpu_s(work: Callable[[], T]) -> tuple[T, float]:
    """Return what a function returns and the CPU seconds that it took."""
    begin = time.process_time()
    result = work()
    return result, time.process_time() - begin


@dataclass(frozen=True)
class Cost:
    """What a machine took and found.

    Attributes
    ----------
    multiplications, used_s
        An image.
    table_bytes, made_s
        Of the tables of one reference.
    among_10, among_100
        Share of the images with a pose beside the truth among so many.
    like_product
        Share of the product's best 10 that are among the machine's best 10.
    left, left_of_best
        See :class:`Found`.
    """

    multiplications: float
    used_s: float
    table_bytes: int
    made_s: float
    among_10: float
    among_100: float
    like_product: float
    left: float
    left_of_best: float


def compare(task: Task, images: Images) -> dict[str, Cost]:
    """Let all machines search for all images, by turns."""
    machines: dict[str, Machine] = {}
    prepared_s: dict[str, float] = {}
    for name, make in MACHINES.items():
        machines[name], prepared_s[name] = cpu_s(lambda make=make: make(task))
    # Slices at all orientations are the product's table, which the rings do without.
    search = task.search
    poses = PoseGrid(search.rotations, search.step_rad, search.shifts_px)
    _, slices_s = cpu_s(
        lambda: make_coarse_search(task.grid, task.view, poses, max_shell=task.max_shell)
    )
    spent: dict[str, list[float]] = {name: [] for name in machines}
    found: dict[str, list[Found]] = {name: [] for name in machines}
    for machine in machines.values():
        machine.search(images.x[:4], images.c[:4])
    for start in range(0, len(images.x), _BLOCK):
        x, c = images.x[start : start + _BLOCK], images.c[start : start + _BLOCK]
        for name, machine in machines.items():
            result, used_s = cpu_s(lambda m=machine, x=x, c=c: m.search(x, c))
            found[name].append(result)
            spent[name].append(used_s / len(x))
    out: dict[str, Cost] = {}
    first: Found | None = None
    for name, parts in found.items():
        whole = Found(
            torch.cat([f.rotation for f in parts]),
            torch.cat([f.shift for f in parts]),
            float(np.mean([f.multiplications for f in parts])),
            float(np.mean([f.left for f in parts])),
            float(np.mean([f.left_of_best for f in parts])),
        )
        first = whole if first is None else first
        right = is_right(task, images, whole)
        same = (whole.rotation[:, :10, None] == first.rotation[:, None, :10]).any(2)
        out[name] = Cost(
            multiplications=whole.multiplications,
            used_s=float(np.median(spent[name])),
            table_bytes=machines[name].table_bytes,
            made_s=prepared_s[name] + (0 if name.startswith("rings") else slices_s),
            among_10=float(right[:, :10].any(1).float().mean()),
            among_100=float(right.any(1).float().mean()),
            like_product=float(same.float().mean()),
            left=whole.left,
            left_of_best=whole.left_of_best,
        )
    return out


_HEAD = [
    "machine", "10⁶ multiplications", "CPU ms an image", "times as fast", "GFLOP/s", "tables MB",
    "their CPU ms", "among 10 %", "among 100 %", "of the product's 10 %", "left %", "by the best %",
]  # fmt: skip


def _row(name: str, results: list[dict[str, Cost]]) -> list[str]:
    """Return a machine's row: values of all sets where they differ, else of the first."""
    costs = [result[name] for result in results]
    base_s = [result[next(iter(MACHINES))].used_s for result in results]

    def each(values: list[float], digits: int) -> str:
        return ", ".join(number(value, digits) for value in values)

    return [
        name,
        number(costs[0].multiplications / 1e6, 0),
        each([1e3 * cost.used_s for cost in costs], 2 if costs[0].used_s < 1e-2 else 1),
        each([s / cost.used_s for s, cost in zip(base_s, costs, strict=True)], 1),
        number(2e-9 * costs[0].multiplications / costs[0].used_s, 0),
        number(costs[0].table_bytes / 1e6, 1),
        number(1e3 * min(cost.made_s for cost in costs), 0),
        each([100 * cost.among_10 for cost in costs], 1),
        each([100 * cost.among_100 for cost in costs], 1),
        each([100 * cost.like_product for cost in costs], 1),
        each([100 * cost.left for cost in costs], 1),
        each([100 * cost.left_of_best for cost in costs], 1),
    ]


def main() -> None:
    """Make the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--resolution", type=float, nargs="+", default=[28.0, 20.0])
    parser.add_argument("--snr", type=float, nargs="+", default=[0.01, 0.003])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of the sets")
    options = parser.parse_args()
    use_threads(1)
    folder = options.keep or Path(tempfile.mkdtemp())
    for resolution_A in options.resolution:
        results, described = [], ""
        for snr in options.snr:
            data = simulate(
                options.model, folder / f"snr_{snr:g}", particles=options.particles, box_px=128,
                pixel_angstrom=2, snr=snr, atom_bfactor=60, seed=options.seed, **ICE,
            )  # fmt: skip
            task, images = prepare(data, resolution_A)
            results.append(compare(task, images))
            search = task.search
            described = (
                f"shells to {task.max_shell}, {len(task.directions)} directions, {task.n_psi} "
                f"in-plane angles, step {math.degrees(search.step_rad):.1f}°, "
                f"{len(search.shifts_px)} shifts, {len(search.power)} points"
            )
        snrs = ", ".join(f"{snr:g}" for snr in options.snr)
        print(f"\n{resolution_A:g} Å: {described}; SNR {snrs}\n")
        print(markdown([_HEAD, *(_row(name, results) for name in MACHINES)]), flush=True)
    if options.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
