"""A project folder of RELION with a small set, and one job done in it."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import cryorefine as cr
from cryorefine.cli.main import main

JOB = Path("External") / "job012"
CALL = (
    "--in_parts", "Extract/job003/particles.star", "--in_3dref", "Import/job001/reference.mrc",
    "--symmetry", "d2", "--iterations", "1", "--alignment", "global", "--j", "1",
)  # fmt: skip
"""Options as RELION gives them, and parameters as its user does."""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: object
    out: str
    err: str


Job = Callable[..., Ended]


def made_project(folder: Path) -> Path:
    """Make a project of 48 particles whose names begin in the project's folder."""
    (folder / "Import").mkdir(parents=True)
    extracted = folder / "Extract" / "job003"
    extracted.parent.mkdir()
    cr.simulate(
        output=extracted, particles=48, box_px=24, pixel_angstrom=7.0, symmetry="d2", snr=0.4,
        per_micrograph=8, diameter_angstrom=100, seed=3,
    )  # fmt: skip
    (folder / "Import" / "job001").mkdir()
    (extracted / "reference.mrc").rename(folder / "Import" / "job001" / "reference.mrc")
    star = extracted / "particles.star"
    star.write_text(star.read_text().replace("@particles.mrcs", "@Extract/job003/particles.mrcs"))
    return folder


def called(project: Path, *arguments: str) -> Ended:
    """Run the command line in a project's folder."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(project),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        main(list(arguments))
    return Ended(stop.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return made_project(tmp_path_factory.mktemp("relion") / "a project")


@pytest.fixture(scope="module")
def done(project) -> Path:
    """The folder of a job that has succeeded, with files of RELION in it from the beginning."""
    job = project / JOB
    job.mkdir(parents=True)
    for name in ("job.star", "run.out", "run.err"):
        (job / name).write_text("RELION's\n")
    ended = called(project, "relion-job", "--o", f"{JOB}/", *CALL)
    assert ended.code == 0, ended.err
    return job
