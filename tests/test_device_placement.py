"""Every stage computes where its inputs are, and what it computes on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions, align_globally, align_locally, score_poses
from cryorefine.assign.comparison import Reference, WhitenedImages
from cryorefine.assign.exhaustive import (
    PoseGrid,
    Pruning,
    grid_posterior,
    make_coarse_search,
    search_coarse,
    shift_grid,
)
from cryorefine.assign.own_noise import NoiseInReference, OwnNoise, spread_A2
from cryorefine.assign.search_depth import Search, SearchDepth, discriminating_power
from cryorefine.evaluate.coverage import coverage_efficiency
from cryorefine.evaluate.fsc import fsc, half_map_fsc
from cryorefine.fourier.crop import resample_volume, resize_volume
from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.filter import low_pass
from cryorefine.fourier.shell import shell_mean, shell_power
from cryorefine.geometry.rotation import matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels import reference
from cryorefine.kernels.grid import make_accumulator, make_slice_grid
from cryorefine.masks.soft import soft_edge, solvent_mask, sphere_mask
from cryorefine.model.observe import image_statistics, make_group_band, observe
from cryorefine.optics.ctf import Defocus
from cryorefine.optics.group import Envelope, OpticsGroup
from cryorefine.reconstruct.accumulate import (
    CentredImages,
    Levels,
    accumulate,
    centre,
    residual_power,
)
from cryorefine.reconstruct.balance import DataPerShell
from cryorefine.reconstruct.crowding import view_crowding
from cryorefine.reconstruct.solve import fold, solve
from cryorefine.reconstruct.solvent import quieten_solvent

from .kernels.problems import ball_of_noise, poses_and_points
from .other_device import OTHER, Elsewhere, OtherDevice

VOXEL_A = 2.0


def group_of(size_px: int) -> OpticsGroup:
    """An optics group with every term that contrast transfer can have."""
    return OpticsGroup(
        "all", VOXEL_A, size_px, beam_tilt_mrad=(0.3, -0.2), odd_zernike=(0.0, 0.0, 1.0),
        even_zernike=(0.1, 1.0, 0.2), magnification=(1.01, 0.0, 0.002, 0.99),
        envelope=Envelope(
            chromatic_mm=2.7, energy_loss_eV=0.7, convergence_mrad=0.05, longitudinal_A=20.0,
            transversal_A=0.3,
        ),
    )  # fmt: skip


def view_and_images(volume: Tensor):
    """Return an optics group's view, and volume's sections as noisy images in it."""
    n = volume.shape[-1]
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn((n, n, n), generator=generator).to(volume.device)
    images = volume + 2 * noise
    view = make_group_band(
        group_of(n), volume_size_px=n, voxel_A=VOXEL_A, resolution_A=5.0, device=volume.device
    )
    rise = torch.linspace(0, 1, n, dtype=torch.float64)
    defocus = Defocus(1e4 + 1e4 * rise, 9e3 + 1e4 * rise, rise, rise, 10 * rise, 1 + rise)
    x, c = observe(images, image_statistics(images, n / 3), view, defocus)
    return view, x, c


def pixels_and_ctf(volume: Tensor) -> list[Tensor]:
    return list(view_and_images(volume)[1:])


def sums(volume: Tensor) -> list[Tensor]:
    view, x, c = view_and_images(volume)
    n = volume.shape[-1]
    x, c = x.repeat(12, 1), c.repeat(12, 1)
    group = parse_symmetry("d6")  # turns that permute the grid, and turns that do not
    rotations = random_rotations(len(x), torch.Generator().manual_seed(2)).to(volume.device)
    shifts = rotations[:, 0, :2]
    x = centre(view, x, shifts)
    acc = make_accumulator(n, n / 2, device=volume.device)
    flat, ones = torch.ones_like(view.band.radius), torch.ones_like(shifts[:, 0])
    balance = DataPerShell(n // 2 + 2)
    balance.add(view, c, flat, n)
    images = CentredImages(view, x, c, rotations)
    accumulate(acc, images, flat, ones, Levels(balance.mean()))
    folded = fold(acc, group)
    # Views about one axis, levelled.
    near = rotations[:1] @ matrix_from_rotvec(0.05 * rotations[:, 1])
    crowding = view_crowding(near.cpu(), torch.ones(len(near)), group, volume.device)
    assert crowding is not None
    acc = make_accumulator(n, n / 2, device=volume.device)
    levels = Levels(balance.mean(), crowding)
    accumulate(acc, replace(images, rotations=near), flat, ones, levels)
    levelled = fold(acc, group, crowding)
    grid = make_slice_grid(volume, n / 2)
    of = torch.arange(len(x), device=volume.device) % 2
    residual = residual_power(grid, images, max_shell=4, of=of, n_sums=2)
    ssnr = torch.linspace(9, 0, n // 2 + 1)
    # Where the kernel's transform is small, in the corners, errors are divided by it, twice.
    mask = sphere_mask(n, 0.4 * n, device=volume.device)
    maps = solve(folded) * mask, solve(folded, ssnr=ssnr) * mask
    return [folded.mean_weight(), *maps, levelled.values, levelled.weights, residual]


def alignment(volume: Tensor) -> list[Tensor]:
    view, x, c = view_and_images(volume)
    x, c = x[:3] / x.abs().mean(), c[:3]
    n, group = volume.shape[-1], parse_symmetry("c2")
    grid = make_slice_grid(volume, n / 2)
    rotations = random_rotations(40, torch.Generator().manual_seed(2)).to(volume.device)
    search = make_coarse_search(
        grid, view, PoseGrid(rotations, 0.4, shift_grid(2.0, 1.0)), max_shell=3,
        weight=c.square().mean(0).sqrt(),
    )  # fmt: skip
    depth = SearchDepth(3, 0.4, 1.0, 8, 0.0, 0.0, 1.0, 1.0, 0.0)
    best = search_coarse(search, x, c, Pruning(0.0, 0.0, 1), shift_precision=0.1)
    amplitudes = torch.tensor([0.5, 1.0])
    posterior = grid_posterior(search, x, c, amplitudes, shift_precision=0.1)
    power = discriminating_power(grid, view, c)
    found = [best.rotation, best.shift, best.score, power]
    found += [posterior.log_evidence, posterior.squared_shift_px2]
    options = AlignmentOptions(
        max_shift_px=3.0, shift_sigma_px=1.0, resolution_turn_rad=0.3, tilt_range_rad=(0.5, 2.5)
    )
    start = (rotations[:3], rotations[:3, 0, :2])
    share = torch.linspace(0.1, 0, n // 2 + 1, dtype=torch.float64)
    noise = NoiseInReference(share, spread_A2(volume.square(), VOXEL_A))
    own = OwnNoise(start[0][:, None], start[1][:, None], torch.ones(3, 1).to(c).double(), noise)
    images, reference = WhitenedImages(view, x, c, own), Reference(grid, group)
    without_own = replace(images, own=None)
    for poses in (
        align_globally(images, reference, Search(search, depth), options, previous=start),
        align_locally(without_own, reference, *start, options),
        score_poses(without_own, reference, *start, options),
    ):
        # Where a refinement ends is left to the behaviour tests: here the image alone is compared.
        found += [poses.score.sign(), poses.rotations.det()]
    return found


def solvent(volume: Tensor) -> list[Tensor]:
    smooth = low_pass(volume, voxel_A=VOXEL_A, resolution_A=15.0)
    n = volume.shape[-1]
    mask = solvent_mask(smooth, voxel_A=VOXEL_A, radius_px=n / 2.5)
    curve = torch.linspace(3, 0, n // 2 + 1)
    quiet = quieten_solvent(volume, mask, inside_ssnr=curve, outside_ssnr=curve / 2)
    return [mask, soft_edge(mask, grow_px=1.0, edge_px=3.0), quiet]


def half_map_curves(volume: Tensor) -> list[Tensor]:
    n = volume.shape[-1]
    mask = sphere_mask(n, n / 3, device=volume.device)
    curves = half_map_fsc(volume + 0.3 * volume.flip(0), volume, voxel_A=VOXEL_A, mask=mask)
    return [fsc(volume, volume.flip(0)), curves.corrected, curves.randomised]


STAGES: dict[str, Callable[[Tensor], Any]] = {
    "transforms": lambda v: volume_from_half(volume_to_half(v), v.shape[-1]),
    "low-pass": lambda v: low_pass(v, voxel_A=VOXEL_A, resolution_A=9.0),
    "resizing": lambda v: resize_volume(v, 17),
    "resampling": lambda v: resample_volume(v, voxel_A=2.0, new_voxel_A=2.7, new_size_px=20),
    "power": lambda v: shell_power(volume_to_half(v), v.shape[-1]),
    "mean": lambda v: shell_mean(volume_to_half(v).abs(), v.shape[-1]),
    "FSC": half_map_curves,
    "solvent": solvent,
    "coefficients and CTF": pixels_and_ctf,
    "reconstruction": sums,
    "alignment": alignment,
    "coverage": lambda v: torch.tensor(
        coverage_efficiency(poses_and_points(8, 20)[0].to(v.device), parse_symmetry("d2"))
    ),
}
CURVES = ("power", "mean", "FSC", "coverage")
"""What these return is short and comes back to the CPU."""


@pytest.mark.slow
@pytest.mark.parametrize("size_px", [21, 22])
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_stays_on_its_device_and_gives_the_same(stage, size_px):
    volume = ball_of_noise(size_px)
    expected = STAGES[stage](volume)
    with OtherDevice():
        found = STAGES[stage](volume.to(OTHER))
        if isinstance(found, Tensor):
            expected, found = [expected], [found]
        elsewhere = [isinstance(value, Elsewhere) for value in found]
        found = [value.cpu() for value in found]
    assert any(elsewhere) != (stage in CURVES)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        # The CPU's kernels and the reference differ by 3e-5 of the strongest coefficients, which
        # a reconstruction divides by more than the others.
        difference = (ours - theirs).to(torch.complex128).norm()
        assert float(difference) <= 2e-3 * float(theirs.to(torch.complex128).norm())


def test_the_reference_kernels_stay_on_their_device():
    volume = ball_of_noise(16)
    rotations, points = poses_and_points(16, 2)
    expected = reference.extract_slices(make_slice_grid(volume, 8), rotations, points)
    with OtherDevice():
        grid = make_slice_grid(volume.to(OTHER), 8)
        found = reference.extract_slices(grid, rotations.to(OTHER), points.to(OTHER))
        assert isinstance(found, Elsewhere)
        torch.testing.assert_close(found.cpu(), expected)


def test_the_other_device_refuses_what_mixes_devices():
    here = torch.ones(3)
    with OtherDevice():
        there = here.to(OTHER)
        assert float((there + 1).sum()) == 6
        for mixed in (
            lambda: here + there,
            lambda: here[there.long()],
            lambda: there[here.long()],
            lambda: torch.cat([here, there]),
            lambda: there.numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()
