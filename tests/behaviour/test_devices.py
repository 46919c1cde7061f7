"""Whole runs on a device that is not the CPU give what they give on the CPU."""

import pytest
import torch

from cryorefine.kernels import dispatch
from cryorefine.run.loop import refine
from tests.other_device import OTHER, OtherDevice, frugal_kernels

from .agreement import assert_same_result
from .conftest import settings_for, simulate_set

# With given poses, only rounding differs. Where poses are found, rounding decides for one in ten
# whether its climb takes one step more, worth 0.01 of log-likelihood: half maps of few particles
# show it.
MODES = [("none", 1e-4), ("local", 0.05), ("global", 0.05)]


def settings_of(folder, mode, **changes):
    start = {"reference": ()} if mode == "none" else {"initial_lowpass_angstrom": 15.0}
    iterations = None if mode == "none" else 1
    table = "particles.star" if mode == "global" else "truth_particles.star"
    start["particles"] = folder / table
    return settings_for(
        folder, alignment=mode, iterations=iterations, threads=1, **{**start, **changes}
    )


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "data"
    return simulate_set(
        folder, particles=20, box_px=28, pixel_angstrom=6.0, snr=2, per_micrograph=1
    )


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "map_error"), MODES)
def test_a_run_elsewhere_mixes_no_devices_and_gives_the_same_result(
    tiny_set, tmp_path, monkeypatch, mode, map_error
):
    settings = settings_of(tiny_set, mode)
    refine(settings, tmp_path / "cpu")
    monkeypatch.setattr("cryorefine.run.inputs.device_of_run", lambda *_, **__: OTHER)
    monkeypatch.setattr("cryorefine.run.inputs.device_free_bytes", lambda _: 10**12)
    with OtherDevice() as device:
        if mode == "global":
            # A search calls kernels so often that the reference's would take minutes. That those
            # stay on their device is seen in the other modes and in test_device_placement.py.
            monkeypatch.setattr(dispatch, "_twin", lambda _: frugal_kernels(device))
        summary = refine(settings, tmp_path / "other")
    assert summary["device"] == str(OTHER)
    assert_same_result(tmp_path / "other", tmp_path / "cpu", map_error=map_error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize(("mode", "map_error"), MODES)
def test_a_run_on_the_gpu_gives_the_same_result(small_set, tmp_path, mode, map_error):
    refine(settings_of(small_set, mode, device="cpu"), tmp_path / "cpu")
    summary = refine(settings_of(small_set, mode, device="cuda"), tmp_path / "gpu")
    assert summary["device"].startswith("cuda:0")
    assert_same_result(tmp_path / "gpu", tmp_path / "cpu", map_error=map_error)
