"""The Triton kernels: compiled where there is a GPU, interpreted where there is none."""

import math
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from cryorefine.geometry.rotation import geodesic_angle, matrix_from_rotvec, random_rotations
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.kernels import dispatch, gpu, reference
from cryorefine.kernels import triton_kernels as kernels
from cryorefine.kernels.grid import (
    HALO,
    Accumulator,
    SliceGrid,
    fold_accumulator,
    make_accumulator,
    make_slice_grid,
)
from cryorefine.kernels.poses import LevenbergMarquardt, PoseProblem

from .problems import ball_of_noise, poses_and_points, relative_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SIZES = [11, 12]  # the interpreter takes milliseconds for each line of a kernel

# Positions are single precision in the kernels: a table entry may be missed by one.
ONE_ENTRY = 1e-4


def on_device(grid: SliceGrid) -> SliceGrid:
    return SliceGrid(grid.values.to(DEVICE), grid.centre, grid.step, grid.size_px, grid.max_radius)


def empty_sums(size_px: int, device: str = DEVICE) -> Accumulator:
    return make_accumulator(size_px, size_px / 2, device=device)


def random_slices(n: int, p: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, p, generator=generator, dtype=torch.complex64)
    return values, torch.rand(n, p, generator=generator)


@pytest.mark.parametrize("n_images", [0, 1, 3])
@pytest.mark.parametrize("size_px", SIZES)
def test_slices_are_those_of_the_reference(size_px, n_images):
    grid = make_slice_grid(ball_of_noise(size_px), size_px / 2)
    rotations, points = poses_and_points(size_px, n_images)
    found = gpu.extract_slices(on_device(grid), rotations.to(DEVICE), points.to(DEVICE)).cpu()
    expected = reference.extract_slices(grid, rotations, points)
    assert found.shape == expected.shape
    assert n_images == 0 or relative_error(found, expected) < ONE_ENTRY


def test_a_slice_without_points_is_empty():
    grid = make_slice_grid(ball_of_noise(11), 5)
    rotations, points = poses_and_points(11, 2)
    found = gpu.extract_slices(on_device(grid), rotations.to(DEVICE), points[:0].to(DEVICE))
    assert found.shape == (2, 0)


@pytest.mark.parametrize("n_images", [0, 1, 3])
@pytest.mark.parametrize("size_px", SIZES)
def test_sums_are_those_of_the_reference(size_px, n_images):
    rotations, points = poses_and_points(size_px, n_images)
    values, weights = random_slices(n_images, len(points))
    slow, fast = empty_sums(size_px, "cpu"), empty_sums(size_px)
    reference.insert_slices(slow, rotations, points, values, weights)
    gpu.insert_slices(fast, *(t.to(DEVICE) for t in (rotations, points, values, weights)))
    if n_images == 0:
        assert not fast.values.abs().any()
        assert not fast.weights.any()
    else:
        assert relative_error(fast.values.cpu(), slow.values) < ONE_ENTRY
        assert relative_error(fast.weights.cpu(), slow.weights) < ONE_ENTRY


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")  # the interpreter's
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -1e30, 40.0])
def test_samples_that_are_not_in_the_grid_are_those_of_the_reference(value):
    rotations, points = poses_and_points(11, 2)
    rotations[1, 0] = value
    points = torch.cat([points[:30], torch.tensor([[value, 0.0]])])
    grid = make_slice_grid(ball_of_noise(11), 5)
    found = gpu.extract_slices(on_device(grid), rotations.to(DEVICE), points.to(DEVICE)).cpu()
    values, weights = random_slices(2, len(points))
    slow, fast = empty_sums(11, "cpu"), empty_sums(11)
    reference.insert_slices(slow, rotations, points, values, weights)
    gpu.insert_slices(fast, *(t.to(DEVICE) for t in (rotations, points, values, weights)))
    for ours, theirs in (
        (found, reference.extract_slices(grid, rotations, points)),
        (fast.values.cpu(), slow.values),
        (fast.weights.cpu(), slow.weights),
    ):
        is_nan = torch.isnan(theirs.abs())
        assert is_nan.any()
        assert torch.equal(torch.isnan(ours.abs()), is_nan)
        assert relative_error(ours[~is_nan], theirs[~is_nan]) < ONE_ENTRY


def test_inserting_adds_to_what_is_there():
    rotations, points = poses_and_points(11, 1)
    values, weights = random_slices(1, len(points))
    arguments = [t.to(DEVICE) for t in (rotations, points, values, weights)]
    once, twice = empty_sums(11), empty_sums(11)
    gpu.insert_slices(once, *arguments)
    for _ in range(2):
        gpu.insert_slices(twice, *arguments)
    assert relative_error(twice.values, 2 * once.values) < 1e-6
    assert relative_error(twice.weights, 2 * once.weights) < 1e-6


@pytest.mark.parametrize("size_px", SIZES)
def test_insertion_is_the_adjoint_of_extraction(size_px):
    rotations, points = (t.to(DEVICE) for t in poses_and_points(size_px, 2))
    values, weights = (t.to(DEVICE) for t in random_slices(2, len(points)))
    grid = on_device(make_slice_grid(ball_of_noise(size_px), size_px / 2))
    sums = empty_sums(size_px)
    gpu.insert_slices(sums, rotations, points, values, weights)
    core, _ = fold_accumulator(sums)
    slices = gpu.extract_slices(grid, rotations, points)
    there = (values.conj() * slices).real.sum()
    # The half grid x ≥ 0 counts each pair of mates once, the plane x = 0 both of each pair.
    product = (core.conj() * grid.values[:, :, HALO:]).real
    back = product[:, :, 1:].sum() + 0.5 * product[:, :, 0].sum()
    assert float(back) == pytest.approx(float(there), rel=1e-3, abs=1e-3 * float(there.abs() + 1))


@pytest.mark.parametrize("size_px", SIZES)
def test_a_grid_is_rotated_as_by_the_reference(size_px):
    grid = make_slice_grid(ball_of_noise(size_px), size_px / 2)
    values = grid.values[:, :, HALO:].contiguous()
    rotations = parse_symmetry("c5").matrices[:2]  # the identity and 72°, which no grid point fits
    arguments = (grid.centre, grid.step, rotations)
    expected = reference.rotate_grid(values, values.abs(), *arguments)
    found = gpu.rotate_grid(values.to(DEVICE), values.abs().to(DEVICE), *arguments)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.cpu(), theirs) < ONE_ENTRY


@pytest.mark.parametrize("size_px", SIZES)
def test_a_grid_is_permuted_as_by_the_reference(size_px):
    grid = make_slice_grid(ball_of_noise(size_px), size_px / 2)
    values = grid.values[:, :, HALO:].contiguous()
    rotations = parse_symmetry("o").matrices[::5].round()
    expected = reference.permute_grid(values, values.abs(), grid.centre, rotations)
    found = gpu.permute_grid(values.to(DEVICE), values.abs().to(DEVICE), grid.centre, rotations)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours.cpu(), theirs) < 1e-6


def make_problem(size_px: int, n_images: int, n_starts: int) -> tuple[SliceGrid, PoseProblem]:
    """Noisy slices of a random volume, and starts a few degrees and half a pixel away."""
    generator = torch.Generator().manual_seed(5)
    grid = make_slice_grid(ball_of_noise(size_px, fraction=0.3), size_px / 2)
    rotations, points = poses_and_points(size_px, n_images)
    inner = points[1:]  # the zero frequency says nothing of pose or shift
    slices = reference.extract_slices(grid, rotations, inner)
    sigma = 0.3 * slices.abs().square().mean().sqrt() if n_images else 1.0
    noise = torch.randn(slices.shape, generator=generator, dtype=slices.dtype)
    image_of = torch.arange(n_starts) % max(n_images, 1)
    tilt = 0.04 * torch.randn(n_starts, 3, generator=generator, dtype=torch.float64)
    move = 0.3 * torch.randn(n_starts, 2, generator=generator, dtype=torch.float64)
    ctf = torch.cos(0.3 * inner.norm(dim=1))[None].expand(n_images, -1)
    return grid, PoseProblem(
        x=(ctf * slices + sigma * noise) / sigma,
        c=ctf / sigma,
        points=inner,
        k_px=inner.long(),
        image_size_px=size_px,
        image_of=image_of,
        rotations=matrix_from_rotvec(tilt) @ rotations[image_of],
        shifts_px=move,
        prior_shift_px=torch.zeros(n_starts, 2, dtype=torch.float64),
        prior_precision=0.5,
    )


def problem_on_device(problem: PoseProblem) -> PoseProblem:
    moved = {k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in vars(problem).items()}
    return PoseProblem(**moved)


def only_score(max_evaluations: int = 0) -> LevenbergMarquardt:
    return LevenbergMarquardt(
        max_evaluations=max_evaluations, max_shift_px=3.0, max_turn_rad=0.2, max_move_px=1.0
    )


@pytest.mark.parametrize(("n_images", "n_starts"), [(1, 1), (2, 3), (1, 0)])
@pytest.mark.parametrize("size_px", SIZES)
def test_likelihood_and_information_are_those_of_the_reference(size_px, n_images, n_starts):
    grid, problem = make_problem(size_px, n_images, n_starts)
    expected = reference.refine_poses(grid, problem, only_score())
    found = gpu.refine_poses(on_device(grid), problem_on_device(problem), only_score())
    torch.testing.assert_close(found.score.cpu(), expected.score, rtol=1e-4, atol=1e-2)
    scale = expected.information.abs().amax((1, 2))[:, None, None]
    difference = (found.information.cpu() - expected.information).abs() / scale
    assert n_starts == 0 or float(difference.max()) < 1e-4


def test_one_step_uphill_follows_the_reference_gradient():
    grid, problem = make_problem(12, 2, 3)
    expected = reference.refine_poses(grid, problem, only_score(1))
    found = gpu.refine_poses(on_device(grid), problem_on_device(problem), only_score(1))
    moved = geodesic_angle(expected.rotations, problem.rotations)
    error = geodesic_angle(found.rotations.cpu(), expected.rotations)
    assert float(moved.min()) > 0.01
    assert float((error / moved).max()) < 1e-2


@pytest.mark.parametrize("size_px", SIZES)
def test_refinements_end_where_those_of_the_cpu_kernel_end(size_px):
    grid, problem = make_problem(size_px, 2, 4)
    expected = dispatch.refine_poses(grid, problem, only_score(8))
    found = gpu.refine_poses(on_device(grid), problem_on_device(problem), only_score(8))
    # The stop is at 0.14 standard deviations from the maximum, some degrees for 11 pixels.
    covariance = torch.linalg.inv(expected.information)
    sigma = torch.diagonal(covariance, dim1=1, dim2=2)
    angle = geodesic_angle(found.rotations.cpu(), expected.rotations)
    assert bool((angle < 0.05 * sigma[:, :3].sum(1).sqrt()).all())
    shift = (found.shifts_px.cpu() - expected.shifts_px).norm(dim=1)
    assert bool((shift < 0.05 * sigma[:, 3:].sum(1).sqrt()).all())
    torch.testing.assert_close(found.score.cpu(), expected.score, rtol=1e-4, atol=0.05)


def test_the_last_block_of_points_ends_where_the_points_end():
    # 129 points: the second block of the kernels holds one.
    grid = make_slice_grid(ball_of_noise(24), 12)
    rotations = random_rotations(1, torch.Generator().manual_seed(3))
    points = poses_and_points(24, 1)[1][:129]
    found = gpu.extract_slices(on_device(grid), rotations.to(DEVICE), points.to(DEVICE)).cpu()
    assert relative_error(found, reference.extract_slices(grid, rotations, points)) < ONE_ENTRY


@pytest.mark.parametrize("name", ["c1", "d2", "o"])
def test_candidates_apart_are_those_of_the_cpu_kernel(name):
    group = parse_symmetry(name)
    generator = torch.Generator().manual_seed(1)
    rotations = random_rotations(200, generator)
    score, index = torch.rand(5, 200, generator=generator).sort(1, descending=True)
    for degrees, keep, window in ((20, 9, 0.9), (40, 4, 0.4), (5, 300, torch.inf)):
        options = {
            "cos_apart": math.cos(math.radians(degrees)), "keep": keep, "window": window,
        }  # fmt: skip
        fast = dispatch.pick_separated(index, score, rotations, group.matrices, **options)
        slow = reference.pick_separated(index, score, rotations, group.matrices, **options)
        assert torch.equal(slow[0], fast[0])
        assert torch.equal(slow[1], fast[1])
        assert bool((fast[0][:, :2] >= 0).all())  # a choice was made


@pytest.mark.slow
def test_all_kernels_compile_for_gpus_since_ampere():
    # The interpreter accepts what the compiler does not; the compiler needs no GPU.
    program = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from cryorefine.kernels import triton_kernels as kernels

kinds = {"k_px": "*i32", "image_of": "*i64", "step": "fp32", "inverse_size": "fp32"}
whole = {"permute_grid": {"rotations": "*i32"}}
kinds |= dict.fromkeys(("centre", "side", "length", "n_points", "n_rotations"), "i32")
sizes = {"BLOCK": 128, "CHUNK": 1024}
for name in kernels.__all__[1:]:
    kernel = getattr(kernels, name)
    names, kind = kernel.arg_names, kinds | whole.get(name, {})
    signature = {n: "constexpr" if n in sizes else kind.get(n, "*fp32") for n in names}
    constants = {(names.index(n),): sizes[n] for n in names if n in sizes}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    options = {"enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    print(name, len(compiled.asm["cubin"]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    compiled = dict(line.split() for line in done.stdout.splitlines())
    assert set(compiled) == set(kernels.__all__) - {"N_SUMS"}
    assert all(int(size) > 1000 for size in compiled.values())
