"""``cryorefine inspect``: what it counts is what the files hold, and its verdict is right."""

import json

import numpy as np
import pytest
import torch

import cryorefine as cr
from cryorefine.io.mrc import read_stack_header, write_stack
from cryorefine.io.star import read_star, write_star
from tests.behaviour.conftest import simulate_set
from tests.interface.test_command_line import run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return simulate_set(
        tmp_path_factory.mktemp("inspect") / "data",
        particles=40, box_px=24, pixel_angstrom=5.0, snr=0.3, per_micrograph=10,
    )  # fmt: skip


def inspected(path, *options):
    """Return what the command says as JSON, which has the same verdict as its exit code."""
    result = run("inspect", path, "--json", *options)
    found = json.loads(result.stdout)
    assert found["exit_code"] == result.returncode
    return found


def changed(data, tmp_path, change):
    """Write a copy of the particle file whose blocks were changed, beside the same stacks."""
    blocks = {
        name: dict(block.columns)
        for name, block in read_star(data / "truth_particles.star").items()
    }
    columns = blocks["particles"]
    names = [str(name.decode() if isinstance(name, bytes) else name)
             for name in columns["rlnImageName"]]  # fmt: skip
    columns["rlnImageName"] = np.array(
        [f"{n.split('@')[0]}@{data / n.split('@')[1]}" for n in names]
    )
    change(columns)
    write_star(tmp_path / "changed.star", blocks)
    return tmp_path / "changed.star"


def test_a_good_file_is_usable_and_its_counts_are_those_of_the_set(data):
    found = inspected(data / "truth_particles.star")
    table = cr.read_particles(data / "truth_particles.star")
    assert found["exit_code"] == 0
    assert found["n_particles"] == 40
    assert found["n_micrographs"] == 4
    assert found["n_without_pose"] == 0
    (optics,) = found["optics"]
    assert (optics["box_px"], optics["pixel_A"], optics["n_particles"]) == (24, 5.0, 40)
    mean_A = (table.defocus_u_A + table.defocus_v_A) / 2
    assert found["ranges"]["defocus_A"] == pytest.approx(
        [mean_A.min(), np.median(mean_A), mean_A.max()]
    )
    assert sum(found["defocus_counts"]) == 40
    assert found["defocus_edges_A"][0] == pytest.approx(mean_A.min())
    assert found["pixels"] is None


def test_a_person_is_shown_the_facts_and_the_verdict(data):
    result = run("inspect", data / "particles.star")
    assert result.returncode == 0
    for text in ("particles  40", "24 px", "5 Å/px", "poses      none", "verdict    usable"):
        assert text in result.stdout


def test_rows_that_repeat_an_image_are_counted_and_warned_of(data, tmp_path):
    def repeat(columns):
        for label in columns:
            columns[label] = np.concatenate([columns[label], columns[label][:3]])

    found = inspected(changed(data, tmp_path, repeat))
    assert found["exit_code"] == 1
    assert found["n_repeated"] == 3
    assert any("3 particles repeat an image" in text for text in found["warnings"])


def test_stacks_that_are_not_there_are_named_and_make_a_file_unusable(data, tmp_path):
    def elsewhere(columns):
        columns["rlnImageName"] = np.array(
            [f"1@nowhere{i % 8}.mrcs" for i in range(len(columns["rlnImageName"]))]
        )

    path = changed(data, tmp_path, elsewhere)
    found = inspected(path)
    assert found["exit_code"] == 2
    assert found["n_unreadable_stacks"] == 8
    assert "nowhere0.mrcs" in found["errors"][0]
    assert "(5 particles)" in found["errors"][0]
    assert found["errors"][-1].startswith("3 more stacks")
    # What could be read is shown all the same.
    assert found["n_particles"] == 40
    assert "not usable" in run("inspect", path).stdout


def test_a_scan_finds_images_without_numbers_and_images_of_one_value(data, tmp_path):
    stack = read_stack_header(data / "particles.mrcs")
    images = torch.from_numpy(stack.read().astype(np.float32))
    images[7] = 2.0
    images[8] = 0.0
    images[3] = 0.5
    write_stack(tmp_path / "bad.mrcs", images, 5.0, half=False)
    header = read_stack_header(tmp_path / "bad.mrcs")
    with open(tmp_path / "bad.mrcs", "r+b") as file:
        file.seek(header.offset_bytes + 3 * header.image_bytes)
        file.write(np.array([np.nan], header.dtype).tobytes())

    def other_stack(columns):
        columns["rlnImageName"] = np.array([f"{i + 1}@bad.mrcs" for i in range(40)])

    path = changed(data, tmp_path, other_stack)
    assert inspected(path)["exit_code"] == 0  # nobody looked
    found = inspected(path, "--scan")
    assert found["exit_code"] == 1
    assert found["pixels"]["n_images"] == 40
    assert (found["pixels"]["n_not_finite"], found["pixels"]["n_constant"]) == (1, 2)
    assert any("4@bad.mrcs" in text for text in found["warnings"])


def test_half_sets_that_a_refinement_refuses_are_told_of(data, tmp_path):
    def some(columns):
        half = np.arange(40) % 2 + 1
        half[:4] = 0
        columns["rlnRandomSubset"] = half

    found = inspected(changed(data, tmp_path, some))
    assert found["half_sets"] == [18, 18, 4]
    assert any("4 particles have no half set" in text for text in found["warnings"])


def test_what_is_no_particle_file_is_not_usable_and_no_traceback(data, tmp_path):
    (tmp_path / "text.star").write_text("not a table\n")
    for path in (tmp_path / "text.star", tmp_path / "none.star", data / "reference.mrc", tmp_path):
        found = inspected(path)
        assert found["exit_code"] == 2
        assert found["errors"]
        assert run("inspect", path).returncode == 2


def test_numbers_of_an_earlier_run_and_columns_that_nobody_reads_are_listed(data, tmp_path):
    def valued(columns):
        columns["cryorefineGreyScale"] = np.full(40, 1.1)
        columns["rlnClassNumber"] = np.ones(40, int)

    found = inspected(changed(data, tmp_path, valued))
    assert "cryorefineGreyScale" in found["earlier"]
    assert "rlnClassNumber" in found["columns"]
