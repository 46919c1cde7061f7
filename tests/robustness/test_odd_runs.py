"""Run folders with well-formed but odd files: used, or refused in one line; never a traceback."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cryorefine as cr
from cryorefine.errors import InputError
from cryorefine.report.build import write_report
from cryorefine.run.checkpoint import committed_iterations, load_measurements, load_state
from cryorefine.run.loop import resume
from tests.robustness.judged import (
    Served,
    case_count,
    problem_of_call,
    problem_of_command,
    served,
)
from tests.robustness.odd_runs import RECORDS, odd_arrays, odd_record, write_npz
from tests.robustness.small_set import valid_set

FUZZED = {
    "deadline": None, "derandomize": True, "database": None,
    "suppress_health_check": list(HealthCheck),
}  # fmt: skip


@pytest.fixture(scope="module")
def commands() -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def made(commands, tmp_path_factory) -> Path:
    """A run folder that is finished, of given poses."""
    folder = tmp_path_factory.mktemp("made")
    star = valid_set().write(folder / "data")
    ended = commands.run("reconstruct", star, "--output", folder / "run", "--threads", 1)
    assert (ended.code, problem_of_command(ended)) == (0, "")
    return folder / "run"


@pytest.fixture(scope="module")
def whole(made) -> dict[str, np.ndarray]:
    with np.load(made / "iteration_001" / "state.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory) -> Path:
    """A copy to be changed; ``renewed`` makes it what it was."""
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("odd") / "run"))


def renewed(made: Path, run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(made, run)


def looked_at(run: Path) -> None:
    """Ask an opened run for all that is not images or maps."""
    opened = cr.open_run(run)
    for ask in (
        lambda: repr(opened), lambda: opened.history, lambda: opened.settings,
        lambda: opened.is_finished, lambda: opened.result.warnings, lambda: opened.result.fsc,
        lambda: [i.resolution_A for i in opened.iterations],
    ):  # fmt: skip
        with contextlib.suppress(InputError):
            ask()


def resumed(run: Path) -> None:
    """Resume a run that is finished, and say so if it is not what it should be."""
    summary = resume(run)
    assert summary["resolution_A"] is None or 0 < summary["resolution_A"] < 1e6, summary
    assert summary["n_half1"] + summary["n_half2"] == summary["n_used"], summary


@given(data=st.data())
@settings(max_examples=case_count(40), **FUZZED)
def test_odd_arrays_of_a_checkpoint_are_read_or_refused(run, whole, data):
    path = run / "iteration_001" / "state.npz"
    write_npz(path, odd_arrays(data.draw, whole))

    def read() -> None:
        checkpoint = load_state(run, 1)
        load_measurements(run, 1)
        poses = checkpoint.state.poses
        assert poses is not None
        assert torch.isfinite(poses.rotations).all()
        assert set(checkpoint.constants.half.tolist()) <= {1, 2}

    assert problem_of_call(read) == ""


@given(data=st.data())
@settings(max_examples=case_count(2, share=10), **FUZZED)
def test_a_run_goes_on_from_an_odd_checkpoint_or_refuses_it(commands, made, run, whole, data):
    renewed(made, run)
    write_npz(run / "iteration_001" / "state.npz", odd_arrays(data.draw, whole))
    more = data.draw(st.sampled_from([(), ("--alignment", "local", "--iterations", 1)]))
    ended = commands.run("resume", run, *more, limit_s=120)
    assert problem_of_command(ended) == ""
    assert committed_iterations(run)[-1] == (2 if more and ended.code == 0 else 1)


@given(data=st.data())
@settings(max_examples=case_count(8), **FUZZED)
def test_odd_records_of_a_run_are_read_or_refused(made, run, data):
    name = data.draw(st.sampled_from(RECORDS))
    path, text = run / name, (made / name).read_text()
    path.write_text(odd_record(data.draw, name, text), errors="surrogatepass")
    try:
        assert problem_of_call(lambda: looked_at(run)) == ""
        assert problem_of_call(lambda: resumed(run)) == ""
    finally:
        renewed(made, run)


@given(data=st.data())
@settings(max_examples=case_count(2, share=5), **FUZZED)
def test_odd_records_of_a_run_are_reported(made, run, data):
    name = data.draw(st.sampled_from(RECORDS))
    path, text = run / name, (made / name).read_text()
    path.write_text(odd_record(data.draw, name, text), errors="surrogatepass")
    try:
        assert problem_of_call(lambda: write_report(run)) == ""
        assert "<script" not in (run / "report.html").read_text()
    finally:
        renewed(made, run)
