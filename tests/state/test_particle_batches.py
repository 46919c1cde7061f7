"""Images of many optics groups in one batch are worked on as those of each group by themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryorefine.assign.particle_optics import N_VALUES, with_defocus_change, without_offset
from cryorefine.engine.memory import MemoryPlan
from cryorefine.model.observe import (
    ImageStatistics,
    make_group_band,
    observe,
    select_statistics,
)
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.images import open_images
from cryorefine.state.particle_batches import ParticleStack, make_half_optics
from tests.builders import optics_columns, particle_columns, write_mrc, write_particle_star

SIZE_PX, N = 24, 12
VIEW = {"volume_size_px": SIZE_PX, "voxel_A": 2.0, "resolution_A": 4.5}
PLAIN = OpticsGroup("plain", 2.0, SIZE_PX)
TILTED = replace(PLAIN, name="tilted", beam_tilt_mrad=(1.5, -0.7))
TREFOIL = replace(PLAIN, name="trefoil", odd_zernike=(0.3, -0.2, 40.0, 15.0))
OTHER_CS = replace(TILTED, name="other Cs", cs_mm=1.4)
SHIFTS = tuple(
    replace(PLAIN, name=f"shift {g}", beam_tilt_mrad=(0.5 * g - 1, 0.3 * g)) for g in range(6)
)


def changed(groups, **changes):
    return tuple(replace(group, **changes) for group in groups)


CASES = {
    "one group": (TILTED,),
    "names alone": (PLAIN, replace(PLAIN, name="again")),
    "beam tilts": SHIFTS,
    "one with a tilt": (PLAIN, TILTED, TREFOIL),
    "premultiplied": changed(SHIFTS, correction="premultiplied"),
    "phase-flipped": changed(SHIFTS, correction="phase_flipped"),
    "two transfers": (TILTED, OTHER_CS, TREFOIL, replace(OTHER_CS, beam_tilt_mrad=(0.0, 0.0))),
    "stretched": changed(SHIFTS, magnification=(1.03, 0.01, 0.01, 0.98)),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Table and source of N images whose defoci, B-factors and scales differ."""
    folder = tmp_path_factory.mktemp("batches")
    pixels = np.random.default_rng(0).normal(0, 1, (N, SIZE_PX, SIZE_PX)).astype("f4")
    write_mrc(folder / "s.mrcs", pixels, pixel_A=0.0)
    names = [f"{i + 1:06d}@s.mrcs" for i in range(N)]
    columns = particle_columns(N, rlnImageName=names, rlnMicrographName=None)
    optics = optics_columns(1, rlnImageSize=[SIZE_PX])
    table, images = open_images(
        read_relion(write_particle_star(folder / "p.star", columns, optics))
    )
    u_A = np.linspace(8000.0, 16000.0, N)
    return replace(
        table,
        defocus_u_A=u_A,
        defocus_v_A=u_A - 400.0,
        defocus_angle_rad=np.linspace(0.0, 1.0, N),
        bfactor_A2=np.linspace(0.0, 30.0, N),
        ctf_scale=np.linspace(0.8, 1.2, N),
    ), images


def stack_of(opened, groups, index) -> ParticleStack:
    table, images = opened
    table = replace(table, optics=tuple(groups), optics_index=np.asarray(index))
    statistics = ImageStatistics(torch.linspace(-0.1, 0.1, N), torch.linspace(0.9, 1.1, N))
    memory = MemoryPlan(1, False, 1 << 24, 128, 0, 0)
    return ParticleStack(table, images, statistics, memory, torch.device("cpu"))


def optics_of(groups):
    """Views of groups whose amplitudes and noise differ."""
    optics = make_half_optics(groups, **VIEW)
    amplitude = optics.amplitude * torch.linspace(0.7, 1.3, len(groups))
    noise = tuple(n * (1 + g) for g, n in enumerate(optics.noise))
    return replace(optics, amplitude=amplitude, noise=noise)


def group_by_group(stack, optics, own):
    """Return coefficients, transfer and noise of every image from its own group's band alone."""
    table = stack.table
    _, pixels = next(iter(stack.images.batches(np.arange(N), N, stack.device)))
    rows = []
    for i, g in enumerate(table.optics_index):
        row = np.array([i])
        amplitude = float(optics.amplitude[g])
        view = replace(make_group_band(table.optics[g], **VIEW), amplitude=amplitude)
        defocus = table.defocus(row)
        if own is not None:
            defocus = with_defocus_change(defocus, own[row])
        x, c = observe(pixels[row], select_statistics(stack.statistics, row), view, defocus)
        if own is not None:
            x, c = without_offset(view, x, own[row, 1]), c * (1 + own[row, :1]).float()
        rows.append((x, c, optics.noise[g][None]))
    return tuple(torch.cat(column) for column in zip(*rows, strict=True))


def assert_as_group_by_group(stack, optics, own=None):
    (batch,) = optics.batches(stack, 0, np.arange(N), own)
    x, c, noise = group_by_group(stack, optics, own)
    # Rounding in single precision alone: of phases of some radians, and of sums over an image.
    np.testing.assert_allclose(batch.x, x, atol=1e-5 * float(x.abs().max()))
    np.testing.assert_allclose(batch.c, c, atol=1e-6)
    assert torch.equal(batch.noise.expand_as(noise), noise)
    assert batch.white.shape[1] == x.shape[1]


def own_values():
    """Values of particles' own: grey scale, offset and defocus."""
    values = 0.05 * torch.randn(N, N_VALUES, generator=torch.Generator().manual_seed(3)).double()
    values[:, 5:] *= 4000.0
    return values


@pytest.mark.parametrize("with_own", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_interleaved_groups_are_seen_as_each_group_sees_its_images(opened, case, with_own):
    groups = CASES[case]
    stack, optics = stack_of(opened, groups, np.arange(N) % len(groups)), optics_of(groups)
    assert_as_group_by_group(stack, optics, own_values() if with_own else None)


@pytest.mark.parametrize("g", range(3))
def test_a_batch_of_one_group_among_several_is_seen_as_that_group_sees_it(opened, g):
    groups = CASES["one with a tilt"]
    stack, optics = stack_of(opened, groups, np.full(N, g)), optics_of(groups)
    assert_as_group_by_group(stack, optics)
    (batch,) = optics.batches(stack, 0, np.arange(N))
    assert len(batch.noise) == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=N, max_size=N))
def test_any_order_of_groups_is_seen_as_each_group_sees_its_images(opened, index):
    groups = CASES["two transfers"]
    assert_as_group_by_group(stack_of(opened, groups, index), optics_of(groups))


@pytest.mark.parametrize("case", CASES)
def test_transfer_alone_is_that_of_the_batches(opened, case):
    groups = CASES[case]
    stack, optics = stack_of(opened, groups, np.arange(N) % len(groups)), optics_of(groups)
    rows = np.array([7, 2, 3, 11])
    (batch,) = optics.batches(stack, 0, rows)
    found = optics.transfer(stack.table, rows)
    np.testing.assert_allclose(found, batch.c, atol=1e-6)


def test_groups_that_differ_in_name_tilt_and_amplitude_have_one_contrast_transfer():
    assert len(make_half_optics(SHIFTS, **VIEW).views) == 1
    assert len(make_half_optics(CASES["two transfers"], **VIEW).views) == 2


def test_no_factor_is_held_for_each_of_many_groups():
    many = [replace(PLAIN, name=f"{g}", beam_tilt_mrad=(0.01 * g, 0.0)) for g in range(500)]
    optics = make_half_optics(many, **VIEW)
    (factors,) = optics.odd_factors
    assert factors is not None
    assert len(optics.geometry_bands) == 1
    held = factors.basis.numel() + factors.coefficients.numel()
    assert held < 5 * (len(many) + len(optics.band_of(0).band))


def test_groups_of_one_noise_spectrum_are_whitened_together():
    optics = make_half_optics(SHIFTS, **VIEW)
    other = 2 * optics.noise[0]
    optics = replace(optics, noise=(*(noise.clone() for noise in optics.noise[:5]), other))
    assert len(optics.noise_of(np.array([0, 3, 1, 1]))) == 1
    apart = optics.noise_of(np.array([4, 5, 0]))
    assert torch.equal(apart, torch.stack([optics.noise[4], other, optics.noise[0]]))
