"""A refinement as a job External of RELION: marks, output nodes, the wish to stop, continuing."""

import json
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cryorefine.interop.relion_job import (
    ABORT_NOW,
    Node,
    job_name,
    mark_as_failed,
    marked_job,
    write_output_nodes,
)
from cryorefine.interop.relion_refinement import refinement_of_job
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion
from cryorefine.settings import load_settings

from .conftest import CALL, JOB, called

ENDS = {f"RELION_JOB_EXIT_{how}" for how in ("SUCCESS", "FAILURE", "ABORTED")}


def marks(job: Path) -> set[str]:
    return {path.name for path in job.iterdir()} & (ENDS | {ABORT_NOW})


def test_a_job_ends_with_one_mark_and_without_those_of_the_job_before(tmp_path):
    for before in ENDS:
        (tmp_path / before).touch()
        with marked_job(tmp_path):
            assert not marks(tmp_path)
        assert marks(tmp_path) == {"RELION_JOB_EXIT_SUCCESS"}
    with pytest.raises(ZeroDivisionError), marked_job(tmp_path):
        raise ZeroDivisionError
    assert marks(tmp_path) == {"RELION_JOB_EXIT_FAILURE"}


def test_the_wish_to_stop_interrupts_the_job_once_and_is_taken_away(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    threading.Timer(0.2, (tmp_path / ABORT_NOW).touch).start()
    ends = []

    def job() -> None:
        try:
            time.sleep(60)
        finally:
            time.sleep(1.5)  # what is still written is not to be stopped by the next look
            ends.append(1)

    with pytest.raises(KeyboardInterrupt, match=ABORT_NOW), marked_job(tmp_path):
        job()
    assert ends == [1]
    assert marks(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_wish_to_stop_that_came_before_the_job_stops_it_at_once(tmp_path):
    (tmp_path / ABORT_NOW).touch()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), marked_job(tmp_path):
        time.sleep(60)
    assert time.monotonic() - begun < 30
    assert marks(tmp_path) == {"RELION_JOB_EXIT_ABORTED"}


def test_a_folder_that_is_none_is_not_marked(tmp_path):
    mark_as_failed(tmp_path / "none")
    mark_as_failed(Path("\0"))
    (tmp_path / "file").touch()
    mark_as_failed(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("folder", ["External/job012/", "./External/job012", "External//job012"])
def test_nodes_begin_with_the_name_of_the_job_however_its_folder_is_written(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    assert job_name(Path(folder)) == "External/job012"
    write_output_nodes(Path(folder), {"run/map.mrc": Node("DensityMap.mrc", 6)})
    table = read_star(Path(folder) / "RELION_OUTPUT_NODES.star")["output_nodes"]
    assert table.text("rlnPipeLineNodeName").tolist() == ["External/job012/run/map.mrc"]
    assert table.text("rlnPipeLineNodeTypeLabel").tolist() == ["DensityMap.mrc"]
    assert table.integers("rlnPipeLineNodeType").tolist() == [6]


def test_a_job_that_has_succeeded_names_files_that_are_there(project, done):
    assert marks(done) == {"RELION_JOB_EXIT_SUCCESS"}
    table = read_star(done / "RELION_OUTPUT_NODES.star")["output_nodes"]
    names = table.text("rlnPipeLineNodeName").tolist()
    assert all((project / name).is_file() for name in names)
    labels = dict(zip(names, table.text("rlnPipeLineNodeTypeLabel"), strict=True))
    numbers = dict(zip(names, table.integers("rlnPipeLineNodeType"), strict=True))
    for name, label, number in (
        ("run/particles.star", "ParticleGroupMetadata.star.relion", 3),
        ("run/map.mrc", "DensityMap.mrc", 6),
        ("run/half1.mrc", "DensityMap.mrc.halfmap", 10),
        ("run/mask.mrc", "Mask3D.mrc", 7),
        ("postprocess.star", "ProcessData.star.relion.postprocess", 14),
    ):
        assert labels[f"{JOB}/{name}"] == label
        assert numbers[f"{JOB}/{name}"] == number
    assert all((done / name).read_text() == "RELION's\n" for name in ("job.star", "run.out"))


def test_the_particles_of_a_job_lead_to_their_images_from_the_project(project, done, monkeypatch):
    monkeypatch.chdir(project)
    block = read_star(done / "run" / "particles.star")["particles"]
    stacks = {name.partition("@")[2] for name in block.text("rlnImageName")}
    assert stacks == {"Extract/job003/particles.mrcs"}
    assert read_relion(done / "run" / "particles.star").has_pose


def test_the_job_gives_what_a_job_post_processing_of_relion_gives(project, done):
    blocks, fsc = read_star(done / "postprocess.star"), read_star(done / "run" / "fsc.star")
    general = blocks["general"]
    for label in ("rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2", "rlnMaskName"):
        name = str(general.text(label)[0])
        assert name.startswith(f"{JOB}/run/")
        assert (project / name).is_file()
    assert general.floats("rlnFinalResolution") == fsc["general"].floats("rlnFinalResolution")
    summary = json.loads((done / "run" / "summary.json").read_text())
    bfactor = general.floats("rlnBfactorUsedForSharpening")[0]
    assert bfactor == pytest.approx(-summary["bfactor_A2"], abs=1e-5)
    for label in (
        "rlnSpectralIndex",
        "rlnResolution",
        "rlnAngstromResolution",
        "rlnFourierShellCorrelationCorrected",
        "rlnFourierShellCorrelationUnmaskedMaps",
        "rlnFourierShellCorrelationMaskedMaps",
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    ):
        np.testing.assert_array_equal(blocks["fsc"].floats(label), fsc["fsc"].floats(label))


def test_a_job_that_has_ended_is_left_as_it_is_when_it_is_run_again(project, done):
    maps = {p.name: p.read_bytes() for p in (done / "run").glob("*.mrc")}
    again = (*CALL[:-1], "2")  # other threads are no reason to go on
    ended = called(project, "relion-job", "--o", f"{JOB}/", *again)
    assert ended.code == 0, ended.err
    assert marks(done) == {"RELION_JOB_EXIT_SUCCESS"}
    assert maps == {p.name: p.read_bytes() for p in (done / "run").glob("*.mrc")}
    assert not (done / "run" / "iteration_002").exists()


@pytest.mark.slow
def test_a_job_that_is_run_again_with_another_option_goes_on(project, done):
    job = project / "External" / "job013"
    shutil.copytree(done, job)
    # As RELION's users may write it.
    more = ("--fsc_criterion", "0.2")
    ended = called(project, "relion-job", "--o", str(job.relative_to(project)), *CALL, *more)
    assert ended.code == 0, ended.err
    assert (job / "run" / "iteration_002").exists()
    assert marks(job) == {"RELION_JOB_EXIT_SUCCESS"}


@pytest.mark.slow
def test_a_job_that_the_user_stops_can_be_run_again_and_ends(project):
    job = project / "External" / "job014"
    job.mkdir(parents=True)

    def stop_when_begun() -> None:
        for _ in range(600):
            if (job / "run" / "iteration_001").exists():
                break
            time.sleep(0.1)
        (job / ABORT_NOW).touch()

    stopper = threading.Thread(target=stop_when_begun)
    stopper.start()
    name = str(job.relative_to(project))
    ended = called(project, "relion-job", "--o", name, *CALL, "--iterations", "500")
    stopper.join()
    assert ended.code == 3, ended.err
    assert "stopped by RELION" in ended.err
    assert marks(job) == {"RELION_JOB_EXIT_ABORTED"}
    assert not (job / "RELION_OUTPUT_NODES.star").exists()
    ended = called(project, "relion-job", "--o", name, *CALL, "--iterations", "1")
    assert ended.code == 0, ended.err
    assert marks(job) == {"RELION_JOB_EXIT_SUCCESS"}
    assert (job / "RELION_OUTPUT_NODES.star").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--in_parts", "none.star"), "none.star"),
        (("--in_mics", "micrographs.star"), "--in-mics"),
        (("--in_parts", "none.star", "--symmetry", "x9"), "x9"),
        (("--iterations", "many"), "many"),
        (("--in_parts", "none.star", "--pipeline_control", "External/job001/"), "External/job001"),
        ((), "--in_parts"),
    ],
)
def test_a_job_that_cannot_be_done_is_marked_as_failed(project, tmp_path, arguments, said):
    (tmp_path / "RELION_JOB_EXIT_SUCCESS").touch()
    ended = called(project, "relion-job", "--o", f"{tmp_path}/", *arguments)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert marks(tmp_path) == {"RELION_JOB_EXIT_FAILURE"}


def test_a_command_of_a_file_does_not_run_in_a_job_unless_it_is_allowed(project, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('post_command = "touch {volume}.was_run"\n')
    job = tmp_path / "job"
    ended = called(project, "relion-job", "--o", str(job), *CALL, "--settings", str(file))
    assert ended.code == 2
    assert "--allow-commands" in ended.err
    assert marks(job) == {"RELION_JOB_EXIT_FAILURE"}
    assert not (job / "run").exists()


def test_a_command_of_a_job_runs_again_only_if_it_is_given_again(done, tmp_path):
    job = tmp_path / "job"
    shutil.copytree(done, job)
    file = job / "run" / "settings.toml"
    file.write_text(file.read_text().replace("# post_command =", 'post_command = "true {volume}"'))
    assert load_settings(file)["post_command"] == "true {volume}"
    same, other = {"post_command": "true {volume}"}, {"post_command": "false {volume}"}
    for values, given, is_allowed in (
        (same, {"post_command"}, True),
        (other, {"post_command"}, True),
        (same, set(), False),  # of a file
        (other, set(), False),
        ({}, set(), False),
    ):
        found = refinement_of_job(job, values, given, allows_commands=False)
        assert isinstance(found, partial)
        assert found.keywords["changes"].allows_commands == is_allowed
