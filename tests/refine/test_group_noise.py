"""Noise spectra of optics groups from the power of simulated images, shell by shell."""

import numpy as np
import pytest
import torch

from cryorefine.fourier.band import make_band
from cryorefine.reconstruct.group_power import power_sums
from cryorefine.refine.noise import own_share

SIZE_PX = 64
BAND = make_band(SIZE_PX, SIZE_PX / 2 - 1)
COUNT = torch.bincount(BAND.shell)
N_SHELLS = len(COUNT)
SHELLS = torch.arange(N_SHELLS).double()
PINK = 1 + 4 / (1 + SHELLS / 4) ** 2
"""A spectrum that falls by three between the first and the last shell."""


def image_power(spectrum, n, generator, *, gain_spread=0.0):
    """Return the power of n images of noise, a row each, by shell.

    ``gain_spread`` is the relative standard deviation of a factor on each image's power.
    """
    gamma = torch.distributions.Gamma(COUNT.double(), COUNT.double())
    with torch.random.fork_rng():
        torch.manual_seed(generator)
        power = spectrum * gamma.sample((n,))
        return power * (1 + gain_spread * torch.randn(n, 1, dtype=torch.float64)).abs()


def spectra_of(images):
    """Return each group's believed share, its spectrum and the common one."""
    n = torch.tensor([len(group) for group in images])
    sums = power_sums([N_SHELLS] * len(images))
    for g, power in enumerate(images):
        sums.add_images(np.full(len(power), g), power, BAND)
    share = own_share(sums.power, sums.squares, n, COUNT)
    common = sums.power.sum(0) / n.sum()
    return share, common + share * (sums.power / n[:, None] - common), common


def groups_of(spectra, counts, *, seed=0, gain_spread=0.0):
    return [
        image_power(s, n, 1000 * seed + g, gain_spread=gain_spread)
        for g, (s, n) in enumerate(zip(spectra, counts, strict=True))
    ]


@pytest.mark.parametrize("gain_spread", [0.0, 0.2])
@pytest.mark.parametrize(
    "counts",
    [[2] * 500, [1] * 200 + [3] * 50, [5000] + [4] * 50, [10, 10], [1000, 1000], [1] * 30],
    ids=["pairs", "singles", "one big", "two of ten", "two big", "one image each"],
)
def test_groups_that_are_alike_have_the_common_spectrum_exactly(counts, gain_spread):
    groups = groups_of([PINK] * len(counts), counts, gain_spread=gain_spread)
    share, spectra, common = spectra_of(groups)
    assert not share.any()
    assert (spectra == common).all()


@pytest.mark.slow
def test_groups_that_are_alike_are_rarely_told_apart():
    n_apart = 0
    for seed in range(100):
        share, _, _ = spectra_of(groups_of([PINK] * 20, [6] * 20, seed=seed, gain_spread=0.1))
        n_apart += bool(share.any())
    # Seven bands a time, each told apart by chance once in a thousand.
    assert n_apart <= 4


OTHER = {"twice": 2 * PINK, "of another colour": PINK * (0.6 + SHELLS / 20)}


@pytest.mark.parametrize("other", OTHER)
@pytest.mark.parametrize("counts", [[10, 10], [1000, 10], [300, 200], [40, 40]])
def test_two_groups_that_differ_have_each_its_own_spectrum(counts, other):
    truths = [PINK, OTHER[other]]
    _, spectra, _ = spectra_of(groups_of(truths, counts))
    for spectrum, truth, n in zip(spectra, truths, counts, strict=True):
        error = (spectrum / truth - 1)[1:]
        # Of a shell's coefficients in n images; where two colours cross, groups are alike.
        sampling = (1 / (n * COUNT[1:].double())).sqrt()
        assert (error.abs() < 5 * sampling + 0.03).all(), error


def test_many_small_groups_beside_a_big_one_keep_what_sets_them_apart():
    counts = [2000] + [10] * 40
    truths = [PINK] + [PINK, 2 * PINK] * 20
    _, spectra, _ = spectra_of(groups_of(truths, counts))
    relative = (spectra[1:, 1:] / torch.stack(truths[1:])[:, 1:] - 1).mean(1)
    # What they have in common is 8 % above the lower ones, since a tenth of all images is loud.
    assert float(relative[0::2].abs().max()) < 0.12
    assert float(relative[1::2].abs().max()) < 0.08


def test_one_group_of_hundreds_that_differs_has_its_own_spectrum_and_the_others_the_common_one():
    counts = [4] * 300
    truths = [PINK] * 299 + [3 * PINK]
    share, spectra, _ = spectra_of(groups_of(truths, counts))
    # Where some differ, one of hundreds may look like them by chance.
    assert int(share[:299].any(1).sum()) <= 2
    assert float((spectra[299] / (3 * PINK) - 1)[4:].mean().abs()) < 0.1


def test_groups_that_differ_little_are_told_apart_as_far_as_their_images_tell():
    generator = torch.Generator().manual_seed(5)
    gains = 1 + 0.1 * torch.randn(60, 1, generator=generator, dtype=torch.float64)
    truths = list(gains * PINK)
    share, spectra, common = spectra_of(groups_of(truths, [12] * 60))
    truth = torch.stack(truths)
    shared_error = float((common / truth - 1)[:, 1:].square().mean().sqrt())
    error = float((spectra / truth - 1)[:, 1:].square().mean().sqrt())
    assert 0 < float(share.mean()) < 1
    assert error < 0.6 * shared_error


@pytest.mark.parametrize("counts", [[1], [7]])
def test_a_group_alone_has_the_mean_of_its_images(counts):
    images = groups_of([PINK], counts)
    share, spectra, _ = spectra_of(images)
    assert not share.any()
    assert torch.equal(spectra[0], images[0].sum(0) / counts[0])


def test_empty_shells_do_no_harm():
    images = groups_of([PINK, 2 * PINK], [10, 10])
    for power in images:
        power[:, 20:] = 0
    _, spectra, _ = spectra_of(images)
    assert torch.isfinite(spectra).all()
    assert (spectra[:, 20:] == 0).all()
