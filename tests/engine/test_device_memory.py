import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.engine.device_memory import plan_device_memory
from cryorefine.engine.memory import emit_memory
from cryorefine.events import EventLog
from cryorefine.kernels import dispatch
from cryorefine.run.loop import refine
from tests.behaviour.conftest import settings_for, simulate_set
from tests.other_device import OTHER, OtherDevice, frugal_kernels

GB = 10**9

runs = st.fixed_dictionaries(
    {
        "size_px": st.integers(16, 900),
        "searches": st.booleans(),
        "n_particles": st.integers(2, 10**6),
    }
)


@pytest.mark.parametrize(("name", "more"), [("size_px", 2), ("n_particles", 1), ("searches", 1)])
@given(run=runs)
def test_a_larger_run_is_never_predicted_to_need_less_of_a_gpu(run, name, more):
    grown = {**run, name: run[name] + more if type(run[name]) is int else True}
    less, greater = (plan_device_memory(**r, free_bytes=10**15).peak_bytes for r in (run, grown))
    assert greater >= less > 0


@given(run=runs, free=st.integers(0, 10**11))
def test_a_smaller_gpu_gets_smaller_batches_only_when_the_run_would_not_fit(run, free):
    full = plan_device_memory(**run, free_bytes=10**15)
    plan = plan_device_memory(**run, free_bytes=free)
    assert plan.partial_sums == 1
    assert not plan.both_halves
    assert 0 < plan.batch_bytes <= full.batch_bytes
    if full.peak_bytes <= 0.9 * free:
        assert plan == dataclasses.replace(full, free_bytes=free)
    elif plan.peak_bytes > 0.9 * free:  # nothing is left to cut
        assert plan.batch_bytes <= full.batch_bytes / 32


def emitted(*, size_px, free_bytes):
    events = []
    log = EventLog()
    log.subscribe(events.append)
    plan = plan_device_memory(
        size_px=size_px, searches=True, n_particles=10_000, free_bytes=free_bytes
    )
    emit_memory(log, plan, on_gpu=True)
    return plan, events


def test_what_a_gpu_will_hold_is_told():
    plan, (event,) = emitted(size_px=128, free_bytes=8 * GB)
    assert event.kind == "device_memory"
    assert event.predicted_peak_bytes == plan.peak_bytes < 3 * GB
    assert event.free_bytes == 8 * GB


def test_a_run_too_large_for_the_gpu_is_told_with_what_to_do():
    _, (_, warning) = emitted(size_px=512, free_bytes=8 * GB)
    assert warning.kind == "warning"
    for part in ("8.0 GB", "--device cpu", "smaller box"):
        assert part in warning.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("symmetry", "particles", "box_px"), [("c1", 16, 96), ("d7", 16, 96), ("c1", 600, 48)]
)
def test_what_a_run_holds_on_a_device_is_predicted(
    tmp_path, monkeypatch, symmetry, particles, box_px
):
    data = simulate_set(
        tmp_path / "data", particles=particles, box_px=box_px, symmetry=symmetry, snr=1
    )
    settings = settings_for(
        data, particles=data / "truth_particles.star", symmetry=symmetry, alignment="local",
        iterations=1, threads=1, initial_lowpass_angstrom=12.0,
    )  # fmt: skip
    monkeypatch.setattr("cryorefine.run.inputs.device_of_run", lambda *_, **__: OTHER)
    monkeypatch.setattr("cryorefine.run.inputs.device_free_bytes", lambda _: 10**12)
    with OtherDevice() as device:
        monkeypatch.setattr(dispatch, "_twin", lambda _: frugal_kernels(device))
        summary = refine(settings, tmp_path / "run")
    assert 0.7 < device.peak_bytes / summary["device_predicted_peak_bytes"] < 1
