"""Everything that a particle file brings along is an input of the run: changed, it is refused."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.lib.recfunctions
import pytest

import cryorefine as cr
from cryorefine.cli.main import main
from cryorefine.events import WarningGiven, read_events
from cryorefine.formats.numpy_pickle import read_arrays, write_arrays
from cryorefine.run.loop import resume
from cryorefine.run.segments import read_segments
from cryorefine.settings import Changes, make_settings
from tests.builders import refused
from tests.robustness.small_set import valid_set

from .conftest import stopped_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a small set that every format holds."""
    plain = valid_set()
    unheld = ("rlnOdd", "rlnEven", "rlnMagMat", "rlnBeamTilt")
    optics = {k: v for k, v in plain.optics.items() if not k.startswith(unheld)}
    particles = {k: v for k, v in plain.particles.items() if k != "rlnCtfBfactor"}
    folder = tmp_path_factory.mktemp("made")
    replace(plain, optics=optics, particles=particles).write(folder)
    return folder


def begin(folder: Path, particles: str, **more: object) -> Path:
    """Return a run that was stopped after the first of two iterations."""
    settings = make_settings({
        "particles": folder / particles, "reference": (folder / "reference.mrc",),
        "alignment": "local", "iterations": 2, "threads": 1, **more,
    })  # fmt: skip
    return stopped_run(settings, folder / "run")


def write_group(folder: Path) -> tuple[str, str]:
    cr.convert(folder / "particles.star", folder / "p.cs")
    whole = np.load(folder / "p.cs")
    (folder / "p.cs").unlink()
    later = ["uid", *(name for name in whole.dtype.names if name.startswith("ctf/"))]
    first = [name for name in whole.dtype.names if name not in later[1:]]
    for names, file in ((first, "J1_particles.cs"), (later, "J1_passthrough_particles.cs")):
        with open(folder / file, "wb") as stream:
            np.save(stream, np.lib.recfunctions.repack_fields(whole[names]), allow_pickle=False)
    files = ("J1_particles.cs", "J1_passthrough_particles.cs")
    lines = [f"  s{i}:\n    metafile: '>{file}'\n" for i, file in enumerate(files)]
    (folder / "J1.csg").write_text("results:\n" + "".join(lines) + "version: v4.5.3\n")
    return "J1.csg", "J1_passthrough_particles.cs"


def write_passthrough(folder: Path) -> tuple[str, str]:
    return "J1_particles.cs", write_group(folder)[1]


def write_pickles(folder: Path) -> tuple[str, str]:
    cr.convert(folder / "particles.star", folder / "a_poses.pkl")
    return "a_poses.pkl", "a_ctf.pkl"


def write_model(folder: Path) -> tuple[str, str]:
    """Write a table of Xmipp, and take the CTF of its first particle to a file that all name."""
    cr.convert(folder / "particles.star", folder / "p.xmd")
    text = (folder / "p.xmd").read_text()
    labels = re.findall(r"^ _(\w+)", text, re.MULTILINE)
    rows = [line.split() for line in text.splitlines() if "@" in line]
    moved = [i for i, label in enumerate(labels) if label.startswith("ctf")]
    lines = [f" _{labels[i]} {rows[0][i]}" for i in moved]
    (folder / "one.ctfparam").write_text("\n".join(["# XMIPP_STAR_1 *", "data_", *lines, ""]))
    kept = [i for i in range(len(labels)) if i not in moved]
    head = ["# XMIPP_STAR_1 *", "data_", "loop_", *(f" _{labels[i]}" for i in kept), " _ctfModel"]
    body = [" ".join([*(row[i] for i in kept), "one.ctfparam"]) for row in rows]
    (folder / "p.xmd").write_text("\n".join([*head, *body, ""]))
    return "p.xmd", "one.ctfparam"


def change_a_number(path: Path) -> None:
    """Change a number of the CTF, and neither the file's size nor its form."""
    if path.suffix == ".pkl":
        [ctf] = read_arrays(path)
        ctf[3, 2] += 8.0  # a defocus
        write_arrays(path, ctf.astype(np.float32))
        return
    content = bytearray(path.read_bytes())
    place = content.rindex(b"5") if path.suffix == ".ctfparam" else len(content) - 40
    content[place] ^= 1
    path.write_bytes(bytes(content))


def begun_with(write, made: Path, folder: Path) -> tuple[Path, Path]:
    """Begin a run of a copy of a set as written; return it and the file beside the particles."""
    shutil.copytree(made, folder)
    particles, other = write(folder)
    return begin(folder, particles), folder / other


@pytest.mark.parametrize("write", [write_group, write_passthrough, write_pickles, write_model])
def test_what_belongs_to_a_particle_file_may_not_change_before_a_run_goes_on(
    made, tmp_path, write, capsys
):
    run, other = begun_with(write, made, tmp_path / "set")
    kept = other.read_bytes()
    change_a_number(other)
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run)])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "inputs have changed" in told
    assert str(other) in told
    other.write_bytes(kept)
    assert resume(run)["iterations"] == 2


def write_scores(folder: Path) -> tuple[str, str]:
    """Write a .cs, and beside it a passthrough of values that no refinement needs."""
    cr.convert(folder / "particles.star", folder / "J1_particles.cs")
    write_scores_beside(folder)
    return "J1_particles.cs", "J1_passthrough_particles.cs"


def write_scores_beside(folder: Path) -> None:
    uid = np.load(folder / "J1_particles.cs")["uid"]
    later = np.zeros(len(uid), [("uid", uid.dtype), ("pick_stats/ncc_score", "<f4")])
    later["uid"] = uid
    with open(folder / "J1_passthrough_particles.cs", "wb") as stream:
        np.save(stream, later, allow_pickle=False)


@pytest.mark.parametrize(
    "write", [write_group, write_passthrough, write_scores, write_pickles, write_model]
)
@pytest.mark.parametrize("more", [{}, {"iterations": 1}])
def test_what_belongs_to_a_particle_file_may_not_be_gone_when_a_run_goes_on(
    made, tmp_path, write, more
):
    run, other = begun_with(write, made, tmp_path / "set")
    other.rename(other.with_name("kept"))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with refused(f"inputs have changed since the run read them: {other} cannot be found"):
        resume(run, changes=more)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    other.with_name("kept").rename(other)
    assert resume(run)["iterations"] == 2


def test_a_file_that_is_gone_from_beside_the_particles_can_be_accepted(made, tmp_path):
    folder = tmp_path / "set"
    run, other = begun_with(write_scores, made, folder)
    other.unlink()
    accepted = Changes({}, accepts_changed_inputs=True)
    assert resume(run, changes=accepted)["iterations"] == 2
    assert len(read_segments(run)) == 2
    told = [e.message for e in read_events(run / "events.jsonl") if isinstance(e, WarningGiven)]
    assert any(f"{other} cannot be found" in message for message in told)
    assert resume(run)["iterations"] == 2  # it is no input of the run any more


def test_another_particle_file_needs_nothing_that_lay_beside_the_one_before(made, tmp_path):
    folder = tmp_path / "set"
    run, other = begun_with(write_scores, made, folder)
    other.unlink()
    resume(run, changes={"particles": str(folder / "particles.star"), "iterations": 1})
    assert len(read_segments(run)) == 2


def test_a_file_that_comes_to_lie_beside_the_particles_is_named_and_becomes_an_input_if_accepted(
    made, tmp_path
):
    folder = tmp_path / "set"
    shutil.copytree(made, folder)
    cr.convert(folder / "particles.star", folder / "J1_particles.cs")
    run = begin(folder, "J1_particles.cs")
    write_scores_beside(folder)
    with refused("inputs have changed", f"{folder / 'J1_passthrough_particles.cs'} is read now"):
        resume(run)
    accepted = Changes({}, accepts_changed_inputs=True)
    assert resume(run, changes=accepted)["iterations"] == 2
    assert len(read_segments(run)) == 2
    assert resume(run)["iterations"] == 2  # nothing has changed since


def test_stacks_that_were_moved_are_found_where_the_run_was_told_and_where_it_is_told_later(
    made, tmp_path
):
    folder, first, second = tmp_path / "set", tmp_path / "first", tmp_path / "second"
    shutil.copytree(made, folder)
    first.mkdir()
    shutil.move(folder / "stack.mrcs", first / "stack.mrcs")
    shutil.copytree(folder, tmp_path / "other")
    run = begin(folder, "particles.star", image_root=first)
    again = begin(tmp_path / "other", "particles.star", image_root=first)
    assert resume(run)["iterations"] == 2  # not told again
    first.rename(second)
    with refused("stack.mrcs"):
        resume(again)
    assert resume(again, changes={"image_root": str(second)})["iterations"] == 2
    assert len(read_segments(again)) == 2
    assert cr.open_run(again).settings.image_root == second
