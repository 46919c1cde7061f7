import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.assign.image_scores import image_scores
from tests.other_device import OTHER, Elsewhere, OtherDevice

KEYS = ["correlation_index", "correlation_mask", "correlation_weight", "imed"]


def draw(n_images: int, size_px: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, size_px, size_px, generator=generator, dtype=torch.float64)


def blob(size_px: int, x_px: float = 0.0) -> torch.Tensor:
    axis = torch.arange(size_px, dtype=torch.float64) - size_px // 2
    square = axis[:, None].square() + (axis - x_px).square()
    return (-square / 18).exp()[None]


def by_hand(image: np.ndarray, model: np.ndarray, radius_px: float) -> list[float]:
    """Return the scores of one image from their definitions, with loops over pixel pairs."""
    n = len(image)
    y, x = np.mgrid[:n, :n] - n // 2
    disc = x**2 + y**2 <= radius_px**2
    a, m = image[disc], model[disc]
    above = m > m.std()
    mask = np.corrcoef(a[above], m[above])[0, 1] if above.sum() >= 3 else 0.0
    e = m - (a @ m) / (a @ a) * a
    weight = np.where(abs(e) > e.std(), abs(e), 0)
    cov = np.cov(np.stack([a, m]), aweights=weight, ddof=0)
    d = a / np.sqrt(a @ a) - m / np.sqrt(m @ m)
    dx, dy = (v[disc][:, None] - v[disc] for v in (x, y))
    g = np.exp(-(dx**2 + dy**2) / 2) / (2 * np.pi) * (abs(dx) <= 3) * (abs(dy) <= 3)
    return [
        np.corrcoef(a, m)[0, 1],
        mask,
        cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1]),
        math.sqrt(d @ g @ d),
    ]


@pytest.mark.parametrize(("size_px", "radius_px"), [(16, 6.0), (17, 6.5), (12, 20.0)])
def test_scores_are_what_their_definitions_say(size_px, radius_px):
    image, model = draw(3, size_px), draw(3, size_px, seed=1)
    image = image + 0.7 * model + 0.2
    found = image_scores(image, model, radius_px=radius_px)
    assert list(found) == KEYS
    expected = [by_hand(a.numpy(), m.numpy(), radius_px) for a, m in zip(image, model, strict=True)]
    np.testing.assert_allclose(torch.stack(list(found.values()), 1), expected, atol=1e-10)


@pytest.mark.parametrize("size_px", [32, 33])
@pytest.mark.parametrize("factor", [1.0, 3.7])
def test_an_image_that_is_the_model_scores_best(size_px, factor):
    image = draw(2, size_px)
    found = image_scores(factor * image, image, radius_px=12.0)
    for key in KEYS[:3]:
        np.testing.assert_allclose(found[key], 1, atol=1e-12)
    np.testing.assert_allclose(found["imed"], 0, atol=1e-12)


def test_inverted_contrast_scores_worst():
    image = draw(1, 32)
    found = image_scores(-image, image, radius_px=12.0)
    for key in KEYS[:2]:
        assert float(found[key]) == pytest.approx(-1)
    assert float(found["imed"]) > 0.1


@given(st.integers(0, 50), st.floats(-1, 1))
def test_correlations_lie_between_minus_one_and_one_and_distances_above_zero(seed, share):
    model = draw(2, 15, seed)
    found = image_scores(share * model + draw(2, 15, seed + 100), model, radius_px=6.0)
    for key in KEYS[:3]:
        assert float(found[key].abs().max()) <= 1
    # The Gaussian's sum is 1 at most, and the longest difference of unit vectors 2.
    assert 0 <= float(found["imed"].min()) <= float(found["imed"].max()) <= 2


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_grey_scale_of_neither_matters(image_scale, model_scale):
    model = draw(2, 15)
    image = model + draw(2, 15, seed=1)
    expected = image_scores(image, model, radius_px=6.0)
    found = image_scores(image_scale * image, model_scale * model, radius_px=6.0)
    for key in KEYS:
        np.testing.assert_allclose(found[key], expected[key], atol=1e-9)


def test_more_noise_scores_worse():
    model, noise = blob(48), draw(1, 48)
    found = [image_scores(model + s * noise, model, radius_px=20.0) for s in (0.05, 0.2, 0.8)]
    for key, falls in zip(KEYS, (True, True, True, False), strict=True):
        values = [float(f[key]) for f in found]
        assert values == sorted(values, reverse=falls)


def test_what_lies_outside_the_disc_does_not_matter():
    model, image = draw(1, 21), draw(1, 21, seed=1)
    axis = torch.arange(21) - 10
    outside = axis[:, None] ** 2 + axis**2 > 49
    expected = image_scores(image, model, radius_px=7.0)
    found = image_scores(image + 9 * outside, model - 5 * outside, radius_px=7.0)
    for key in KEYS:
        assert torch.equal(found[key], expected[key])


def test_a_point_beside_its_place_is_nearer_than_one_far_off():
    # Pixel by pixel both differ as much; the Gaussian of a pixel's distance is exp(-1/2).
    model, beside, far = torch.zeros(3, 1, 32, 32)
    model[0, 16, 16] = beside[0, 16, 17] = far[0, 16, 22] = 1.0
    near, away = (image_scores(x, model, radius_px=12.0)["imed"] for x in (beside, far))
    assert float(near) == pytest.approx(math.sqrt(2 * (1 - math.exp(-0.5)) / (2 * math.pi)))
    assert float(away) == pytest.approx(math.sqrt(2 / (2 * math.pi)))


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_constant_images_do_not_correlate(value):
    constant, other = torch.full((2, 16, 16), value), draw(2, 16).float()
    for image, model in ((constant, other), (other, constant), (constant, constant)):
        found = image_scores(image, model, radius_px=6.0)
        for key in KEYS[:3]:
            assert found[key].tolist() == [0, 0]
        assert bool(found["imed"].isfinite().all())


def test_fewer_than_three_pixels_above_the_deviation_do_not_correlate():
    model = torch.zeros(1, 16, 16)
    model[0, 8, 8:10] = torch.tensor([2.0, 3.0])
    assert float(image_scores(model, model, radius_px=6.0)["correlation_mask"]) == 0
    model[0, 7, 8] = 4.0
    assert float(image_scores(model, model, radius_px=6.0)["correlation_mask"]) == pytest.approx(1)


def test_a_particle_correlates_more_than_junk():
    model = blob(48).expand(20, -1, -1)
    noise = 0.5 * draw(20, 48)
    particles = image_scores(model + noise, model, radius_px=20.0)
    junk = image_scores(noise, model, radius_px=20.0)
    assert float(particles["correlation_index"].min()) > float(junk["correlation_index"].max())
    assert (
        float(particles["correlation_mask"].mean()) > float(junk["correlation_mask"].mean()) + 0.2
    )
    assert float(particles["imed"].max()) < float(junk["imed"].min())


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    image, model = draw(4, 16), draw(4, 16, seed=1)
    together = image_scores(image, model, radius_px=6.0)
    for i in range(4):
        apart = image_scores(image[i : i + 1], model[i : i + 1], radius_px=6.0)
        for key in KEYS:
            assert float(apart[key]) == pytest.approx(float(together[key][i]), abs=1e-12)


@pytest.mark.parametrize(
    ("n_images", "size_px", "radius_px"), [(0, 16, 6.0), (2, 1, 3.0), (2, 16, 0.0), (2, 16, -1.0)]
)
def test_no_images_one_pixel_and_an_empty_disc_have_no_correlation(n_images, size_px, radius_px):
    found = image_scores(draw(n_images, size_px), draw(n_images, size_px, 1), radius_px=radius_px)
    for key in KEYS:
        assert found[key].shape == (n_images,)
        assert bool(found[key].isfinite().all())
    for key in KEYS[:3]:
        assert found[key].tolist() == [0.0] * n_images


def test_scores_stay_on_their_device():
    image, model = draw(3, 15), draw(3, 15, seed=1)
    expected = image_scores(image, model, radius_px=6.0)
    with OtherDevice():
        found = image_scores(image.to(OTHER), model.to(OTHER), radius_px=6.0)
        assert all(isinstance(found[key], Elsewhere) for key in KEYS)
        found = {key: found[key].cpu() for key in KEYS}
    for key in KEYS:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)
