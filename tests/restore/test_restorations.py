"""Every restoration: what it leaves as it is, what it never does, and what it finds."""

import math
from dataclasses import replace

import pytest
import torch

from cryorefine.engine.threads import begin_worker
from cryorefine.evaluate.fsc import fsc, half_map_fsc
from cryorefine.fourier.fft import volume_from_half, volume_to_half
from cryorefine.fourier.filter import filter_volume
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.masks.soft import sphere_mask
from cryorefine.reconstruct.symmetrise import symmetrise_volume
from cryorefine.restore.align_halves import AlignHalves
from cryorefine.restore.deconvolve import Deconvolve, fit_blur
from cryorefine.restore.denoise_real import DenoiseReal
from cryorefine.restore.difference import EvaluateDifference
from cryorefine.restore.distribution import Distribution, quantile
from cryorefine.restore.filter_bank import FilterBank, band_weights
from cryorefine.restore.laplacian import Laplacian, laplacian_gain
from cryorefine.restore.mask_ad_hoc import AdHocMask
from cryorefine.restore.protocol import Context, Restoration
from cryorefine.restore.registry import ORDER, restore_halves
from cryorefine.restore.rigid import move_volume
from cryorefine.restore.sharpen import fsc_weight
from cryorefine.restore.symmetrise_within import SymmetriseWithin, oriented, symmetric_copies
from cryorefine.restore.undershoot import AttenuateUndershoot
from cryorefine.restore.user_command import UserCommand

from .pairs import (
    VOXEL_A,
    Pair,
    average,
    context_of,
    correlation,
    make_pair,
    noise,
    true_map,
)

SIZES = (24, 25)


def each_restoration(size_px: int) -> dict[str, Restoration]:
    """Return one of every kind, as a user would have it."""
    mask = sphere_mask(size_px, 0.2 * size_px, 3.0)
    made = (
        SymmetriseWithin(parse_symmetry("c3"), mask),
        UserCommand("true {volume}"),
        AlignHalves(parse_symmetry("c1")),
        DenoiseReal(),
        FilterBank(),
        Laplacian(),
        Deconvolve(),
        AttenuateUndershoot(3.0),
        EvaluateDifference(),
        AdHocMask(mask),
    )
    assert [type(one) for one in made] == list(ORDER)
    return {one.name: one for one in made}


NAMES = list(each_restoration(32))


@pytest.fixture(scope="module", params=SIZES)
def pair(request) -> Pair:
    return make_pair(true_map(request.param), noise_std=0.8, sigma_per_px=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_given_half_maps_are_not_changed_and_two_calls_make_the_same(pair, name):
    before = [half.clone() for half in pair.halves]
    one = each_restoration(len(pair.truth))[name]
    made = restore_halves(pair.halves, [one], pair.context)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.halves, strict=True))
    again = restore_halves(pair.halves, [one], pair.context)
    for a, b in zip(made.halves, again.halves, strict=True):
        assert a.dtype == torch.float32
        assert a.shape == pair.truth.shape
        assert torch.equal(a, b)
    assert [step.name for step in made.steps] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_does_not_change_a_bit(pair, name):
    one = each_restoration(len(pair.truth))[name]
    found = []
    for threads in (1, 2):
        begin_worker(threads)
        found.append(restore_halves(pair.halves, [one], pair.context).halves)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("size", "value", "mask"), [(24, 0.0, None), (25, 2.5, None), (25, 2.5, 0.0), (24, 2.5, 1.0)]
)
def test_constant_empty_and_masked_out_maps_stay_numbers(name, size, value, mask):
    volume = torch.full((size,) * 3, value)
    weight = sphere_mask(size, size / 4, 3.0) if mask is None else torch.full_like(volume, mask)
    context = Context(VOXEL_A, weight, half_map_fsc(volume, volume, voxel_A=VOXEL_A))
    one = each_restoration(size)[name]
    made = restore_halves((volume, volume), [one], context)
    for half in (*made.halves, *made.maps.values()):
        assert bool(half.isfinite().all())
    for fact in made.steps[0].facts.values():
        assert not isinstance(fact, float) or math.isfinite(fact)


@pytest.mark.parametrize("name", NAMES)
def test_one_half_that_is_empty_makes_no_nan(pair, name):
    halves = pair.halves[0], torch.zeros_like(pair.truth)
    context = replace(pair.context, curves=half_map_fsc(*halves, voxel_A=VOXEL_A))
    made = restore_halves(halves, [each_restoration(len(pair.truth))[name]], context)
    assert all(bool(half.isfinite().all()) for half in made.halves)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("difference", "align")])
def test_what_says_that_it_keeps_the_halves_apart_makes_noise_no_more_alike(name):
    # Half maps of noise alone: whatever they shared afterwards would have been put there.
    halves = noise(48, 1), noise(48, 2)
    mask = sphere_mask(48, 12.0, 3.0)
    context = Context(VOXEL_A, mask, half_map_fsc(*halves, voxel_A=VOXEL_A))
    one = each_restoration(48)[name]
    assert not one.mixes_halves
    made = restore_halves(halves, [one], context).halves
    # Of 110,592 voxels; of those within the mask of a quarter's radius at least 7,000 count.
    assert abs(correlation(*made)) < 4 / math.sqrt(7000)


def test_difference_evaluation_says_that_it_mixes_the_halves_and_does():
    halves = noise(48, 1), noise(48, 2)
    context = Context(VOXEL_A, sphere_mask(48, 12.0, 3.0), half_map_fsc(*halves, voxel_A=VOXEL_A))
    made = restore_halves(halves, [EvaluateDifference(), DenoiseReal()], context)
    assert made.mixes_halves
    assert correlation(*made.halves) > 0.2


def test_restorations_are_done_in_the_order_of_the_registry(pair):
    one = each_restoration(len(pair.truth))
    named = ("mask", "difference", "filter-bank", "denoise", "symmetrise")
    told = []
    made = restore_halves(pair.halves, [one[n] for n in named], pair.context, progress=told.append)
    order = [n for n in NAMES if n in named]
    assert [step.name for step in made.steps] == order
    assert told == [step.title for step in made.steps]


def test_difference_evaluation_leaves_the_average_as_it_is(pair):
    made = restore_halves(pair.halves, [EvaluateDifference()], pair.context)
    before = average(pair.halves)
    # Of float32: the halves are rounded once each.
    assert float((average(made.halves) - before).abs().max()) < 1e-6 * float(before.abs().max())
    spread = (made.halves[0] - made.halves[1]).std()
    assert float(spread) < 0.7 * float((pair.halves[0] - pair.halves[1]).std())


def test_the_map_of_disagreement_shows_what_one_half_has_alone():
    pair = make_pair(true_map(48), noise_std=0.5)
    z, y, x = torch.nonzero(pair.context.mask > 0.9)[1000].tolist()
    place = slice(z - 2, z + 3), slice(y - 2, y + 3), slice(x - 2, x + 3)
    odd = pair.halves[0].clone()
    odd[place] += 4.0
    made = restore_halves((odd, pair.halves[1]), [EvaluateDifference()], pair.context)
    where = made.maps["disagreement"]
    assert float(where[z, y, x]) > 1.5
    assert float(where[pair.context.mask > 0.9].median()) == pytest.approx(0.9, abs=0.2)


@pytest.mark.parametrize("sigma", [0.10, 0.15, 0.22])
def test_deconvolution_finds_a_known_gaussian_within_five_percent(sigma):
    # Atoms at random places have an even spectrum, so that all of the fall-off is the blur.
    n = 64
    points = torch.zeros((n,) * 3)
    places = torch.randint(12, 52, (1500, 3), generator=torch.Generator().manual_seed(5))
    points[tuple(places.T)] = 1.0
    pair = make_pair(points / points.std(), noise_std=0.02, sigma_per_px=sigma)
    fit = fit_blur(pair.halves, pair.context.curves)
    assert fit.sigma_per_px == pytest.approx(sigma, rel=0.05)
    assert fit.bfactor_A2(VOXEL_A) == pytest.approx(2 * VOXEL_A**2 / sigma**2, rel=0.11)
    made = restore_halves(pair.halves, [Deconvolve()], pair.context)
    assert correlation(average(made.halves), pair.truth) > correlation(
        average(pair.halves), pair.truth
    )


def test_deconvolution_changes_no_correlation_of_a_shell(pair):
    made = restore_halves(pair.halves, [Deconvolve()], pair.context)
    # Shells without weight hold nothing; a gain is not quite even within a shell.
    held = fsc_weight(pair.context.curves) > 0.1
    before, after = fsc(*pair.halves), fsc(*made.halves)
    torch.testing.assert_close(after[held], before[held], atol=0.02, rtol=0)
    assert int(held.sum()) >= 6


def test_denoising_in_real_space_never_raises_the_energy_of_a_voxel_nor_its_sign(pair):
    made = restore_halves(pair.halves, [DenoiseReal()], pair.context)
    for before, after in zip(pair.halves, made.halves, strict=True):
        assert bool((after.square() <= before.square()).all())
        assert bool((after * before >= 0).all())


def test_denoising_in_fourier_space_never_raises_the_energy_of_a_band(pair):
    n = len(pair.truth)
    made = restore_halves(pair.halves, [FilterBank()], pair.context)
    for before, after in zip(pair.halves, made.halves, strict=True):
        # Bands overlap: what one keeps lies in its neighbours, too, but in no other.
        assert float(after.square().sum()) <= float(before.square().sum()) * (1 + 1e-5)
        assert correlation(before, after) > 0.5
    tables = torch.stack(band_weights(n))
    torch.testing.assert_close(tables.sum(0), torch.ones(tables.shape[1]))
    assert bool((tables >= 0).all())


def test_the_filter_bank_leaves_alone_what_has_no_noise():
    truth = true_map(33)
    made = restore_halves((truth, truth), [FilterBank()], context_of(truth, (truth, truth)))
    torch.testing.assert_close(made.halves[0], truth, atol=2e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_laplacian_is_that_of_neighbouring_voxels_and_its_inverse(size):
    volume = noise(size, 7)
    half = volume_to_half(volume)
    edges = volume_from_half(laplacian_gain(half.clone(), size), size)
    expected = 7 * volume
    for axis in range(3):
        expected = expected - volume.roll(1, axis) - volume.roll(-1, axis)
    torch.testing.assert_close(edges, expected, atol=1e-4, rtol=0)
    back = laplacian_gain(laplacian_gain(half.clone(), size), size, invert=True)
    torch.testing.assert_close(back, half, atol=1e-2, rtol=1e-5)


def test_laplacian_denoising_empties_solvent_and_never_raises_the_energy_of_edges(pair):
    made = restore_halves(pair.halves, [Laplacian()], pair.context)
    solvent = pair.context.mask == 0
    for before, after in zip(pair.halves, made.halves, strict=True):
        assert float(after[solvent].square().mean()) < 0.2 * float(before[solvent].square().mean())
        edges = [
            volume_from_half(laplacian_gain(volume_to_half(v), len(v)), len(v))
            for v in (before, after)
        ]
        assert bool((edges[1].abs() <= edges[0].abs() + 1e-3).all())


def test_undershooting_is_attenuated_and_nothing_else():
    pair = make_pair(true_map(48), noise_std=0.3)
    hole = pair.halves[0].clone()
    hole[24, 24, 20:23] = -30.0
    made = restore_halves((hole, pair.halves[1]), [AttenuateUndershoot(9.0)], pair.context)
    facts = made.steps[0].facts
    below, threshold = facts["voxels_attenuated_half1"], facts["threshold_half1"]
    assert isinstance(below, int)
    assert isinstance(threshold, float)
    spread = 0.3  # of the solvent, by construction; the hole lies in the particle
    assert below >= 3
    assert threshold == pytest.approx(-9 * spread, rel=0.25)
    changed = made.halves[0] != hole
    assert bool(changed[24, 24, 20:23].all())
    assert bool((hole[changed] < threshold).all())
    assert float(made.halves[0].min()) >= threshold - 2 * spread
    ordered = hole.flatten().sort().indices
    assert bool((made.halves[0].flatten()[ordered].diff() >= -1e-6).all())


def blob(size_px: int) -> torch.Tensor:
    """Return a map without detail near Nyquist, and next to nothing near the box's edges."""
    volume = noise(size_px, 2) * sphere_mask(size_px, 0.22 * size_px, 4.0)
    return filter_volume(volume, lambda k: (-((k / (0.12 * size_px)) ** 2)).exp())


@pytest.mark.parametrize(
    ("name", "size"), [("c2", 40), ("c3", 41), ("d2", 41), ("o", 40), ("i1", 40), ("i3", 41)]
)
def test_symmetrising_twice_changes_nothing(size, name):
    volume = blob(size)
    # Where the mask is 1; in its edge the blend goes on.
    mask = sphere_mask(size, 0.35 * size, 3.0)
    inner = mask == 1
    one = SymmetriseWithin(parse_symmetry(name), mask)
    context = context_of(volume, (volume, volume))
    once = restore_halves((volume, volume), [one], context).halves
    twice = restore_halves(once, [one], context).halves
    change, spread = (twice[0] - once[0])[inner], float(once[0][inner].std())
    assert float(change.abs().max()) < 2e-3 * float(once[0].abs().max())
    assert float((once[0] - volume)[inner].std()) > 0.3 * spread
    outside = mask == 0
    assert torch.equal(once[0][outside], volume[outside])


def test_symmetric_maps_stay_as_they_are_also_about_other_axes():
    # Smooth: what ends sharply at Nyquist rings into the neighbouring boxes of a series.
    truth = filter_volume(true_map(48, "d3"), lambda k: (-((k / 10) ** 2)).exp())
    turn = matrix_from_rotvec(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64))
    turned = move_volume(truth, turn, torch.zeros(3))
    where = sphere_mask(48, 18.0, 0.0) > 0.5
    for volume, group in (
        (truth, parse_symmetry("d3")),
        (turned, oriented(parse_symmetry("d3"), turn)),
    ):
        copies = symmetric_copies(volume, group, where)
        assert float((copies - volume[where]).std()) < 2e-3 * float(volume[where].std())
    wrong = symmetric_copies(turned, parse_symmetry("d3"), where)
    assert float((wrong - turned[where]).std()) > 0.3 * float(turned[where].std())


@pytest.mark.slow
def test_an_icosahedral_shell_is_symmetrised_and_its_asymmetric_core_kept():
    n, group = 64, parse_symmetry("i1")
    texture = filter_volume(noise(n, 6), lambda k: (-((k / 12) ** 2)).exp())
    # By splines, another way than the one that is tested.
    even = symmetrise_volume(texture, group, voxel_A=VOXEL_A)
    shell = even / even.std() * (sphere_mask(n, 26.0, 2.0) - sphere_mask(n, 12.0, 2.0))
    core = true_map(n, seed=4) * sphere_mask(n, 8.0, 2.0)
    truth = shell + core
    pair = make_pair(truth, noise_std=1.2, sigma_per_px=None)
    mask = 1 - sphere_mask(n, 10.0, 3.0)
    made = restore_halves(pair.halves, [SymmetriseWithin(group, mask)], pair.context)
    middle = sphere_mask(n, 9.0, 0.0) > 0.5
    for before, after in zip(pair.halves, made.halves, strict=True):
        assert torch.equal(before[middle], after[middle])
    outer = (mask == 1) & (sphere_mask(n, 26.0, 0.0) > 0.5)
    assert correlation(average(made.halves)[outer], truth[outer]) > 0.98
    assert correlation(average(pair.halves)[outer], truth[outer]) < 0.85
    everywhere = SymmetriseWithin(group, torch.ones_like(mask))
    lost = restore_halves(pair.halves, [everywhere], pair.context)
    assert correlation(average(lost.halves)[middle], truth[middle]) < 0.7
    assert correlation(average(made.halves)[middle], truth[middle]) > 0.8


@pytest.mark.parametrize("size", [48, 49])
def test_halves_that_lie_apart_are_brought_together(size):
    truth = true_map(size)
    turn = torch.tensor([0.02, -0.03, 0.04], dtype=torch.float64)
    shift = torch.tensor([0.7, -0.4, 0.25], dtype=torch.float64)
    moved = move_volume(truth, matrix_from_rotvec(turn), shift)
    halves = truth + 0.3 * noise(size, 1), moved + 0.3 * noise(size, 2)
    context = context_of(truth, halves)
    made = restore_halves(halves, [AlignHalves(parse_symmetry("c1"))], context)
    facts = made.steps[0].facts
    # What half 2 was moved by, and is moved back by.
    back = matrix_from_rotvec(-turn)
    expected_A = (-(back @ shift) * VOXEL_A).tolist()
    for axis, angle, shift_A in zip("xyz", (-turn).rad2deg().tolist(), expected_A, strict=True):
        assert facts[f"rotation_{axis}_deg"] == pytest.approx(angle, abs=0.1)
        assert facts[f"shift_{axis}_A"] == pytest.approx(shift_A, abs=0.05)
    assert torch.equal(made.halves[0], halves[0])
    assert float(fsc(*made.halves)[1:16].mean()) > float(fsc(*halves)[1:16].mean()) + 0.05


def test_symmetry_leaves_only_the_movements_free_that_it_allows():
    truth = true_map(48, "c4")
    moved = move_volume(
        truth,
        matrix_from_rotvec(torch.tensor([0.0, 0.0, 0.05], dtype=torch.float64)),
        torch.tensor([0.0, 0.0, 0.8], dtype=torch.float64),
    )
    made = restore_halves(
        (truth, moved), [AlignHalves(parse_symmetry("c4"))], context_of(truth, (truth, moved))
    )
    facts = made.steps[0].facts
    assert facts["rotation_z_deg"] == pytest.approx(-math.degrees(0.05), abs=0.02)
    assert facts["shift_z_A"] == pytest.approx(-1.6, abs=0.02)
    assert [facts[n] for n in ("rotation_x_deg", "rotation_y_deg", "shift_x_A", "shift_y_A")] == [
        0.0
    ] * 4
    fixed = restore_halves(
        (truth, moved), [AlignHalves(parse_symmetry("d2"))], context_of(truth, (truth, moved))
    )
    assert torch.equal(fixed.halves[1], moved)
    assert "leaves no movement" in str(fixed.steps[0].facts["unchanged_because"])


@pytest.mark.parametrize("size", [40, 41])
def test_moving_a_map_there_and_back_gives_it_back(size):
    volume = blob(size)
    rotation = matrix_from_rotvec(torch.tensor([0.4, 0.2, -0.9], dtype=torch.float64))
    shift = torch.tensor([0.3, -0.6, 1.2], dtype=torch.float64)
    there = move_volume(volume, rotation, shift)
    back = move_volume(there, rotation.T, -(rotation.T @ shift))
    assert float((back - volume).std()) < 2e-3 * float(volume.std())
    whole = move_volume(volume, torch.eye(3), torch.tensor([2.0, 0.0, -1.0]))
    torch.testing.assert_close(whole[:-1, :, 2:], volume[1:, :, :-2], atol=1e-4, rtol=0)


def test_a_command_is_run_once_for_each_half(tmp_path):
    pair = make_pair(true_map(32))
    log = tmp_path / "log"
    command = UserCommand(f"echo {{half}} {{dim}} {{sampling}} >> {log}", shell=True)
    made = restore_halves(pair.halves, [command], pair.context)
    assert log.read_text().split("\n")[:2] == ["1 32 2.0", "2 32 2.0"]
    assert torch.equal(made.halves[1], pair.halves[1])


def test_shares_of_a_distribution_are_those_that_were_counted():
    values = torch.arange(1000.0)
    found = Distribution(values).share_below(torch.tensor([-5.0, 0.0, 250.0, 500.5, 999.0, 2e3]))
    expected = torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert quantile(values, 0.95) == 950.0
    constant = Distribution(torch.zeros(10)).share_below(torch.tensor([-1.0, 0.0, 1.0]))
    assert constant.tolist() == [0.0, 1.0, 1.0]
