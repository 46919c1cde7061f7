"""A run does not go on with other inputs, or with commands of a file, unless its user says so."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import cryorefine as cr
from cryorefine.cli.main import main
from cryorefine.events import WarningGiven, read_events
from cryorefine.io.mrc import read_stack_header, write_stack
from cryorefine.run.loop import resume
from cryorefine.run.segments import read_segments
from cryorefine.settings import Changes, make_settings
from cryorefine.storage.layout import committed_iterations
from tests.builders import refused

from .conftest import simulate_set, stopped_run


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a set and, in ``run``, a run of it after one iteration of two."""
    folder = tmp_path_factory.mktemp("made")
    data = simulate_set(
        folder / "data",
        particles=32, box_px=24, pixel_angstrom=7.0, per_micrograph=8, snr=0.5,
        diameter_angstrom=110,
    )  # fmt: skip
    settings = make_settings({
        "particles": data / "particles.star", "reference": (data / "reference.mrc",),
        "alignment": "global", "iterations": 2, "threads": 1,
    })  # fmt: skip
    stopped_run(settings, folder / "run")
    return folder


@pytest.fixture
def begun(made) -> Iterator[Path]:
    """The same, to be changed, at the same paths."""
    kept = made.with_name(made.name + "_kept")
    shutil.copytree(made, kept)
    yield made
    shutil.rmtree(made)
    shutil.move(kept, made)


def in_text(old: str, new: str):
    def change(folder: Path) -> None:
        path = folder / "data" / "particles.star"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def reverse_images(folder: Path) -> None:
    path = folder / "data" / "particles.mrcs"
    images = np.array(read_stack_header(path).read(), dtype=np.float32)
    write_stack(path, torch.from_numpy(images[::-1].copy()), 7.0, half=False)


def one_byte(name: str):
    def change(folder: Path) -> None:
        path = folder / "data" / name
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)

    return change


CHANGES = {
    "images": (reverse_images, "particles.mrcs"),
    "one pixel": (one_byte("particles.mrcs"), "particles.mrcs"),
    "initial map": (one_byte("reference.mrc"), "reference.mrc"),
    "voltage": (in_text(" 300.000000 ", " 200.000000 "), "particles.star"),
    "spherical aberration": (in_text(" 2.700000 ", " 2.600000 "), "particles.star"),
    "pixel size": (in_text(" 7.000000 ", " 7.100000 "), "particles.star"),
}


def contents(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_input_is_named_and_refused(begun, what, capsys):
    change, name = CHANGES[what]
    change(begun)
    before = contents(begun / "run")
    for more in ([], ["--iterations", "1"]):
        with pytest.raises(SystemExit) as stop:
            main(["resume", str(begun / "run"), *more])
        assert stop.value.code == 2
        text = capsys.readouterr().err
        if what != "pixel size":  # the stack's header tells of that first
            assert "have changed" in text
            assert "--accept-changed-inputs" in text
        assert str(begun / "data" / name) in text or what == "pixel size"
    assert contents(begun / "run") == before


def test_inputs_that_were_touched_or_copied_are_the_same(begun):
    for path in (begun / "data").iterdir():
        os.utime(path, ns=(1, 1))
    assert resume(begun / "run")["iterations"] == 2
    assert len(read_segments(begun / "run")) == 1


def test_accepted_inputs_are_read_anew_and_become_those_of_the_run(begun):
    run = begun / "run"
    reverse_images(begun)
    with pytest.raises(cr.InputError, match="accept_changed_inputs=True"):
        cr.open_run(run).resume()
    assert cr.open_run(run).resume(accept_changed_inputs=True).number == 2
    assert len(read_segments(run)) == 2
    told = [e.message for e in read_events(run / "events.jsonl") if isinstance(e, WarningGiven)]
    assert any("goes on with inputs that have changed" in message for message in told)
    assert resume(run)["iterations"] == 2  # nothing has changed since
    assert resume(run, changes=Changes({}, accepts_changed_inputs=True))["iterations"] == 2
    assert len(read_segments(run)) == 2


def test_a_run_without_a_manifest_goes_on_and_says_what_it_cannot_know(begun):
    run = begun / "run"
    (run / "manifest.json").unlink()
    assert resume(run)["iterations"] == 2
    told = [e.message for e in read_events(run / "events.jsonl") if isinstance(e, WarningGiven)]
    assert any("whether inputs have changed is unknown" in message for message in told)


def add_command(run: Path, proof: Path) -> None:
    path = run / "settings.toml"
    text = path.read_text()
    assert "# reference_command =\n" in text
    path.write_text(
        text.replace("# reference_command =\n", f'reference_command = "touch {proof}"\n')
    )


@pytest.mark.slow
def test_a_command_of_a_run_folder_runs_only_when_it_is_allowed(begun, tmp_path, capsys):
    run, proof = begun / "run", tmp_path / "proof"
    add_command(run, proof)
    before = contents(run)
    for more in ([], ["--iterations", "1"]):
        with pytest.raises(SystemExit) as stop:
            main(["resume", str(run), *more])
        assert stop.value.code == 2
        text = capsys.readouterr().err
        assert f"--reference-command 'touch {proof}'" in text
        assert "--allow-commands" in text
    with refused("'touch", "allow_commands=True"):
        cr.open_run(run).resume()
    assert not proof.exists()
    assert contents(run) == before
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--allow-commands"])
    assert stop.value.code == 0
    assert proof.exists()
    assert f"touch {proof}" in "".join(capsys.readouterr())


def test_a_command_that_is_given_needs_no_leave_and_gives_none_to_others(begun, tmp_path):
    run, proof, own = begun / "run", tmp_path / "proof", tmp_path / "own"
    add_command(run, proof)
    with refused("'touch"):
        resume(run, changes={"post_command": f"touch {own}"})
    resume(run, changes={"reference_command": f"touch {own}", "iterations": 1})
    assert own.exists()
    assert not proof.exists()


def test_a_command_of_a_settings_file_runs_only_when_it_is_allowed(begun, tmp_path, capsys):
    proof, file = tmp_path / "proof", tmp_path / "s.toml"
    file.write_text(f'post_command = "touch {proof}"\niterations = 1\nalignment = "global"\n')
    data = begun / "data"
    command = ["refine", str(data / "particles.star"), "--reference", str(data / "reference.mrc"),
               "--settings", str(file), "--output", str(tmp_path / "run")]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert f"--post-command 'touch {proof}'" in text
    assert "s.toml" in text
    assert not proof.exists()
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as stop:
        main([*command, "--allow-commands"])
    assert stop.value.code == 0
    assert f"touch {proof}" in capsys.readouterr().out
    assert proof.exists()
    assert committed_iterations(tmp_path / "run") == [0, 1]
