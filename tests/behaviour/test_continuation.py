"""A run goes on with other settings, and nothing that was found is lost."""

import json
import shutil
from pathlib import Path

import pytest

import cryorefine as cr
import cryorefine.run.later_segments as later_segments_module
import cryorefine.run.loop as loop_module
import cryorefine.run.running_segment as running_segment_module
import cryorefine.run.segments as segments_module
from cryorefine.cli.main import main
from cryorefine.engine.processes import ProcessEngine
from cryorefine.errors import StoppedEarly
from cryorefine.io.mrc import write_volume
from cryorefine.masks.soft import sphere_mask
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume
from cryorefine.run.segments import read_segments
from cryorefine.settings import (
    Changes,
    RefineSettings,
    load_settings,
)
from cryorefine.storage.layout import committed_iterations
from tests.builders import refused
from tests.run.test_checkpoint import assert_bit_equal

from .continued import contents, records, stop_at, tiny_settings


@pytest.mark.slow
def test_more_iterations_are_made_by_every_kind_of_alignment(run):
    first = records(run)[-1]
    for number, alignment in enumerate(("local", "none", "global", "automatic", "stochastic"), 2):
        summary = resume(run, changes={"alignment": alignment, "iterations": 1})
        assert summary["iterations"] == number
        assert summary["finished"]
        settings = load_settings(run / "settings.toml")
        assert settings["alignment"] == alignment
        assert settings["symmetry"] == "d2"
    assert [r.iteration for r in records(run)] == [1, 2, 3, 4, 5, 6]
    modes = ["global", "local", "none", "global"]
    assert [r.mode for r in records(run)][:4] == modes
    # None of them went back to the resolution of the initial map.
    assert all(r.align_resolution_A < first.align_resolution_A for r in records(run)[1:])
    segments = json.loads((run / "legs.json").read_text())
    assert [segment["first_iteration"] for segment in segments] == [1, 2, 3, 4, 5, 6]
    assert segments[1]["settings"] == {"alignment": "local", "iterations": 1}
    kept = [load_settings(run / f"settings_leg{n:03d}.toml")["alignment"] for n in range(1, 6)]
    assert kept == ["global", "local", "none", "global", "automatic"]
    before = contents(run / "iteration_006")
    assert resume(run)["iterations"] == 6
    assert contents(run / "iteration_006") == before


@pytest.mark.slow
def test_a_run_that_ended_makes_as_many_iterations_again_as_its_settings_say(tiny_set, tmp_path):
    refine(tiny_settings(tiny_set, alignment="global", iterations=2), tmp_path / "run")
    assert resume(tmp_path / "run", changes={"fsc_criterion": 0.5})["iterations"] == 4
    assert load_settings(tmp_path / "run" / "settings.toml")["iterations"] == 2


def test_a_stopped_run_with_an_option_makes_the_iterations_that_were_left(
    tiny_set, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    stop_at(monkeypatch, loop_module, "advance", 2)
    with pytest.raises(StoppedEarly):
        refine(tiny_settings(tiny_set, iterations=3), run)
    monkeypatch.undo()
    assert resume(run, changes={"max_shift_percent": 8.0})["iterations"] == 3
    assert read_segments(run)[1].counts_from == 1


CHANGES = {"alignment": "local", "iterations": 2, "fsc_criterion": 0.3}


@pytest.fixture(scope="module")
def second_segment(global_run, tmp_path_factory) -> Path:
    """The run after a second segment that nothing interrupted."""
    folder = Path(shutil.copytree(global_run, tmp_path_factory.mktemp("second") / "run"))
    resume(folder, changes=CHANGES)
    return folder


def assert_same_end(folder: Path, other: Path):
    assert committed_iterations(folder) == committed_iterations(other) == [0, 1, 2, 3]
    assert_bit_equal(load_state(folder, 3).state, load_state(other, 3).state)
    for name in ("settings.toml", "settings_leg001.toml", "particles.star", "fsc.star"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (loop_module, "advance", 1),
        (loop_module, "advance", 2),
        (running_segment_module, "save_state", 2),
    ],
)
def test_a_second_segment_that_was_stopped_resumes_to_the_same_bits(
    run, second_segment, monkeypatch, module, name, call
):
    stop_at(monkeypatch, module, name, call)
    with pytest.raises(StoppedEarly, match="go on with 'cryorefine resume"):
        resume(run, changes=CHANGES)
    monkeypatch.undo()
    resume(run)
    assert_same_end(run, second_segment)


@pytest.mark.parametrize(
    ("module", "name", "call", "has_begun"),
    [
        (later_segments_module, "begin_segment", 1, False),
        pytest.param(later_segments_module, "save_start", 1, False, marks=pytest.mark.slow),
        pytest.param(later_segments_module, "switch_segment", 1, False, marks=pytest.mark.slow),
        # settings_leg001.toml
        pytest.param(segments_module, "write_text", 1, False, marks=pytest.mark.slow),
        (segments_module, "write_text", 2, False),  # legs.json
        (segments_module, "write_text", 3, True),  # settings.toml
    ],
)
def test_a_kill_between_two_writes_leaves_the_old_segment_or_the_new_one(
    run, second_segment, monkeypatch, module, name, call, has_begun
):
    stop_at(monkeypatch, module, name, call)
    with pytest.raises(StoppedEarly):
        resume(run, changes=CHANGES)
    monkeypatch.undo()
    assert committed_iterations(run) == [0, 1]
    if has_begun:
        resume(run)
    else:
        assert resume(run)["iterations"] == 1
        resume(run, changes=CHANGES)
    assert_same_end(run, second_segment)


def test_a_command_that_is_given_again_before_an_iteration_begins_the_same_segment(
    run, second_segment, monkeypatch
):
    stop_at(monkeypatch, loop_module, "advance", 1)
    with pytest.raises(StoppedEarly):
        resume(run, changes=CHANGES)
    monkeypatch.undo()
    resume(run, changes=CHANGES)
    assert_same_end(run, second_segment)


def test_all_problems_are_told_at_once_and_the_run_is_untouched(run, tmp_path):
    before = contents(run)
    changes = {"seed": 5, "reference": ("other.mrc",), "dropout": 7, "min_tilt_deg": -1}
    with refused("--seed", "--reference cannot", "--dropout", "--min-tilt-deg", "percentile 101"):
        resume(run, changes=Changes(changes, keep_above_percentile=101))
    with refused("no such setting"):
        resume(run, changes={"colour": "red"})
    with refused(str(tmp_path / "gone.star")):
        resume(run, changes={"particles": tmp_path / "gone.star"})
    with refused("no such"):
        resume(run, changes={"mask": tmp_path / "gone.mrc"})
    assert contents(run) == before


def test_overwriting_a_run_forgets_its_segments(tiny_set, run):
    resume(run, changes={"alignment": "none"})
    refine(tiny_settings(tiny_set, iterations=1), run, overwrite=True)
    assert len(read_segments(run)) == 1
    assert not list(run.glob("settings_leg*"))
    assert not list(run.glob("leg_*"))
    assert resume(run)["iterations"] == 1


@pytest.mark.slow
def test_the_command_line_has_an_option_for_every_setting(run, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--alignment", "local", "--iterations", "1", "--no-ctf"])
    assert stop.value.code == 0
    settings = load_settings(run / "settings.toml")
    assert (settings["alignment"], settings["iterations"], settings["ctf"]) == ("local", 1, False)
    assert "resuming after iteration 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["resume", "--help"])
    text = capsys.readouterr().out
    for name in RefineSettings.model_fields:
        assert "--" + name.replace("_", "-") in text or f"no-{name}" in text, name
    assert "--keep-above-percentile" in text
    assert "all other settings stay" in " ".join(text.split())
    with pytest.raises(SystemExit) as stop:
        main(["resume", str(run), "--seed", "3"])
    assert stop.value.code == 2


def commanded(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(str(stop.value.code))


@pytest.mark.slow
def test_what_was_given_is_taken_back_by_the_command_and_from_python(run, tiny_set, capsys):
    mask = tiny_set / "mask.mrc"
    if not mask.exists():
        write_volume(mask, sphere_mask(32, 12.0), 5.4)
    resume(run, changes={
        "mask": mask, "particle_radius_px": 9.0, "resolution_offset_angstrom": 4.0,
        "reference_command": "true {volume}", "max_angle_change_deg": 2.0, "iterations": 1,
        "alignment": "local",
    })  # fmt: skip
    assert load_state(run, 2).constants.radius_px == 9.0
    taken = ("mask", "--particle-radius-px", "resolution_offset_angstrom", "reference-command")
    options = [word for name in taken for word in ("--unset", name)]
    assert commanded("resume", str(run), *options) == 0  # no --allow-commands is needed any more
    settings = load_settings(run / "settings.toml")
    assert not {"mask", "particle_radius_px", "reference_command"} & settings.keys()
    assert settings["max_angle_change_deg"] == 2.0
    assert load_state(run, 3).constants.radius_px > 10.0
    done = cr.open_run(run).resume(max_angle_change_deg=None)
    assert done.settings.max_angle_change_deg is None
    before = contents(run)
    assert commanded("resume", str(run), "--unset", "colour") == 2
    assert "no such setting: 'colour'" in capsys.readouterr().err
    assert commanded("resume", str(run), "--unset", "mask", "--mask", str(mask)) == 2
    assert "--mask is given as well" in capsys.readouterr().err
    assert commanded("resume", str(run), "--unset", "particles") == 2
    assert contents(run) == before


def test_a_settings_file_changes_what_it_names_and_its_commands_are_shown(run, tmp_path, capsys):
    proof, file = tmp_path / "proof", tmp_path / "more.toml"
    own = (run / "settings.toml").read_text()
    assert commanded("resume", str(run), "--settings", str(run / "settings.toml")) == 0
    assert committed_iterations(run) == [0, 1]  # its own say nothing new
    file.write_text(own.replace('alignment = "global"', 'alignment = "local"'))
    assert "local" in file.read_text()
    with open(file, "a", encoding="utf-8") as more:
        more.write(f'reference_command = "touch {proof}"\nfsc_criterion = 0.4\n')
    text = file.read_text().replace("fsc_criterion = 0.143\n", "", 1)
    file.write_text(text)
    words = ("resume", str(run), "--settings", str(file), "--fsc-criterion", "0.3")
    assert commanded(*words) == 2
    assert f"touch {proof}" in capsys.readouterr().err
    assert commanded(*words, "--allow-commands") == 0
    settings = load_settings(run / "settings.toml")
    assert settings["alignment"] == "local"
    assert settings["fsc_criterion"] == 0.3
    assert read_segments(run)[1].settings.keys() == {
        "alignment", "reference_command", "fsc_criterion",
    }  # fmt: skip
    assert proof.exists()


@pytest.mark.slow
def test_a_segment_begins_its_worker_processes_once(run, monkeypatch):
    begun = []
    original = ProcessEngine.__init__

    def counted(self, *args, **kwargs):
        begun.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(ProcessEngine, "__init__", counted)
    resume(run, changes={"alignment": "none", "workers": 1})
    assert begun == [1]
