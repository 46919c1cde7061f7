import math

import pytest
import torch

from cryorefine.fourier.fft import image_to_half
from cryorefine.fourier.shell import frequency_radius
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.model.phantom import make_phantom
from cryorefine.model.simulate import SimulationPlan, draw_parameters, simulate_images
from cryorefine.model.simulated_table import simulated_table


@pytest.fixture(scope="module")
def atoms():
    return make_phantom(parse_symmetry("c1"), diameter_A=60.0, seed=0)


def _images(atoms, **options):
    plan = SimulationPlan(box_px=32, pixel_A=4.0, seed=3, **options)
    drawn = draw_parameters(atoms, plan)
    return plan, drawn, torch.cat([x for _, x in simulate_images(atoms, plan, drawn)])


def _power(images):
    """Return the mean power per coefficient by distance from zero, in units of a pixel's."""
    power = image_to_half(images.double()).abs().square().mean(0)
    radius = frequency_radius(32, 2).round().long()
    total = torch.zeros(int(radius.max()) + 1, dtype=torch.float64)
    counts = torch.bincount(radius.flatten(), minlength=len(total))
    return total.index_add(0, radius.flatten(), power.flatten()) / counts / (32 * 32)


@pytest.mark.parametrize("noise", ["white", "coloured", "ice"])
def test_noise_has_the_power_that_its_kind_says(atoms, noise):
    _, _, images = _images(atoms, n_particles=400, snr=0.05, noise=noise, junk_fraction=0.9999)
    found = _power(images)[2:16]
    k_per_A = torch.arange(2, 16).double() / (32 * 4.0)
    wanted = {
        "white": torch.ones_like(k_per_A),
        "coloured": 1 + 3 / (1 + (k_per_A * 40) ** 2),
        "ice": 0.6 + 2 * torch.exp(-k_per_A / 0.03),
    }[noise]
    if noise == "coloured":
        wanted = wanted * float(images.var()) * float(found.mean() / wanted.mean())
        assert float(images.var()) == pytest.approx(1.0, abs=0.02)
    # 400 images, 6 coefficients or more in the smallest shell: 2 % is one standard deviation.
    assert torch.allclose(found, wanted, rtol=0.08)


@pytest.mark.parametrize("noise", ["white", "ice"])
def test_the_signal_to_noise_ratio_is_against_white_noise(atoms, noise):
    plan, drawn, images = _images(atoms, n_particles=64, snr=50.0, noise=noise)
    _, _, only_noise = _images(atoms, n_particles=64, snr=1e-9, noise=noise)
    signal = (images - only_noise).var(dim=(1, 2)).mean()
    assert float(signal) == pytest.approx(plan.snr, rel=0.02)
    assert len(drawn.scale) == 64


def test_a_defocus_error_is_in_the_images_and_not_in_the_particle_file(atoms, tmp_path):
    plan = SimulationPlan(2000, box_px=32, pixel_A=4.0, snr=1.0, defocus_error_A=150.0, seed=1)
    drawn = draw_parameters(atoms, plan)
    table = simulated_table(drawn, tmp_path / "a.mrcs", with_poses=True)
    error = drawn.defocus.u_A.numpy() - table.defocus_u_A
    assert error.std() == pytest.approx(150.0, rel=0.06)
    assert abs(error.mean()) < 15
    assert drawn.defocus.u_A - drawn.defocus.v_A == pytest.approx(plan.astigmatism_A)


def test_a_share_of_the_views_is_preferred_and_the_others_are_even(atoms):
    plan = SimulationPlan(
        4000, box_px=32, pixel_A=4.0, snr=1.0, seed=2,
        pose_axis_tilt_deg=0.0, pose_axis_spread_deg=5.0, pose_axis_fraction=0.8,
    )  # fmt: skip
    rotations = draw_parameters(atoms, plan).rotations
    tilt_deg = torch.rad2deg(torch.acos(rotations[:, 2, 2].clamp(-1, 1)))
    share = float((tilt_deg < 20).double().mean())
    even = (1 - math.cos(math.radians(20))) / 2
    assert share == pytest.approx(0.8 + 0.2 * even, abs=0.03)
    others = rotations[tilt_deg > 90, 2, 2]
    assert float(others.mean()) == pytest.approx(-0.5, abs=0.05)
