"""What cryoDRGN and recovar are handed of a run."""

import shlex
import shutil

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.formats.cryodrgn import CryodrgnFormat
from cryorefine.formats.numpy_pickle import read_arrays
from cryorefine.io.star import read_star, write_star
from cryorefine.particles.formats.read_options import ReadOptions
from tests.builders import refused

from .conftest import called


@pytest.fixture
def run(done, tmp_path):
    """A copy of a run, whose images lie where no path has a blank."""
    folder = tmp_path / "run"
    shutil.copytree(done / "run", folder)
    images = done.parents[1] / "Extract" / "job003" / "particles.mrcs"
    shutil.copyfile(images, tmp_path / "particles.mrcs")
    for star in folder.rglob("*.star"):
        text = star.read_text()
        star.write_text(text.replace("Extract/job003/particles.mrcs", f"{tmp_path}/particles.mrcs"))
    return folder


def columns_changed(run, **columns):
    """Give all rows of a run's newest particle file other values; some by row number."""
    star = sorted(run.glob("iteration_*"))[-1] / "particles.star"
    blocks = {name: dict(block.columns) for name, block in read_star(star).items()}
    for label, values in columns.items():
        blocks["particles"][label] = np.array(values)
    write_star(star, blocks)


@pytest.mark.parametrize("program", ["cryodrgn", "recovar"])
def test_the_files_hold_the_poses_of_the_run(run, program, tmp_path):
    done = cr.export(run, program, tmp_path / "out")
    particles = cr.open_run(run).result.particles
    again = CryodrgnFormat().read(tmp_path / "out" / "poses.pkl", ReadOptions()).table
    assert (done.n_particles, done.n_left_out) == (len(particles), 0)
    np.testing.assert_allclose(np.rad2deg(again.euler_rad), particles.euler_deg, atol=1e-3)
    np.testing.assert_allclose(again.shift_A, particles.shift_A, atol=1e-3)
    np.testing.assert_allclose(again.defocus_u_A, particles.defocus_u_A, rtol=1e-6)
    assert {path.name for path in done.files} == {"poses.pkl", "ctf.pkl", "particles.star"}
    assert done.mask.is_file()
    assert all(path.is_file() for path in done.half_maps)
    assert done.mask.parent == run


def test_images_are_listed_by_paths_that_lead_to_them_from_anywhere(run, tmp_path):
    cr.export(run, "cryodrgn", tmp_path / "out")
    names = read_star(tmp_path / "out" / "particles.star")[""].text("rlnImageName")
    assert {name.partition("@")[2] for name in names} == {str(tmp_path / "particles.mrcs")}


def test_the_command_names_the_files_and_survives_a_shell(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cr.export("run", "cryodrgn", "a folder; 'odd'")
    words = shlex.split(done.command)
    assert words[:2] == ["cryodrgn", "train_vae"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert words[2] == "a folder; 'odd'/particles.star"
    assert given["--poses"] == "a folder; 'odd'/poses.pkl"
    assert given["--ctf"] == "a folder; 'odd'/ctf.pkl"
    assert int(given["--zdim"]) > 0
    words = shlex.split(cr.export("run", "recovar", "b").command)
    assert words[:3] == ["recovar", "pipeline", "b/particles.star"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given == {
        "--poses": "b/poses.pkl",
        "--ctf": "b/ctf.pkl",
        "--mask": "run/mask.mrc",
        "-o": "b/recovar",
    }


def test_particles_in_no_map_and_without_pose_are_left_out(run, tmp_path):
    n = len(cr.open_run(run).result.particles)
    in_maps, assigned = np.ones(n, int), np.ones(n, int)
    in_maps[:5], assigned[4:8] = 0, 0
    star = sorted(run.glob("iteration_*"))[-1] / "particles.star"
    block = read_star(star)["particles"]
    angles = {
        f"rlnAngle{name}": np.where(assigned, block.floats(f"rlnAngle{name}"), 0.0)
        for name in ("Rot", "Tilt", "Psi")
    }
    columns_changed(run, cryorefineIsInMaps=in_maps, cryorefineIsAssigned=assigned, **angles)
    done = cr.export(run, "recovar", tmp_path / "out")
    assert (done.n_particles, done.n_left_out) == (n - 8, 8)
    assert read_arrays(tmp_path / "out" / "poses.pkl")[0].shape == (n - 8, 3, 3)
    columns_changed(run, cryorefineIsInMaps=np.zeros(n, int))
    with refused("in the maps"):
        cr.export(run, "recovar", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_black_particles_are_told_of_in_the_command(run, tmp_path):
    for file in run.rglob("settings.toml"):
        text = file.read_text().replace("# invert_contrast =", "invert_contrast = true")
        assert "invert_contrast = true" in text
        file.write_text(text)
    words = shlex.split(cr.export(run, "cryodrgn", tmp_path / "a").command)
    assert "--uninvert-data" in words
    words = shlex.split(cr.export(run, "recovar", tmp_path / "b").command)
    assert words[words.index("--uninvert-data") + 1] == "true"


def test_stacks_whose_path_the_programs_would_cut_are_refused(done, tmp_path, monkeypatch):
    monkeypatch.chdir(done.parents[1])  # "a project"
    with refused("' '", "recovar"):
        cr.export(done / "run", "recovar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_folder_is_replaced_only_when_asked_and_only_if_it_is_an_export(
    run, tmp_path
):
    out = tmp_path / "out"
    cr.export(run, "cryodrgn", out)
    with refused("already", "overwrite"):
        cr.export(run, "cryodrgn", out)
    (out / "poses.pkl").write_bytes(b"old")
    cr.export(run, "cryodrgn", out, overwrite=True)
    assert len(read_arrays(out / "poses.pkl")) == 2
    other = tmp_path / "other"
    other.mkdir()
    (other / "particles.star").write_text("mine")
    with refused("something else"):
        cr.export(run, "cryodrgn", other, overwrite=True)
    assert (other / "particles.star").read_text() == "mine"


def test_the_command_line_says_where_all_is_and_what_comes_next(run, tmp_path):
    ended = called(tmp_path, "export", "run", "--for", "recovar", "--output", "out")
    assert ended.code == 0, ended.err
    lines = dict(line.split(maxsplit=1) for line in ended.out.splitlines()[-3:] if line)
    assert lines["mask"] == "run/mask.mrc"
    assert lines["half"] == "maps   run/half1.mrc run/half2.mrc"
    assert lines["next"].startswith("recovar pipeline out/particles.star")
    ended = called(tmp_path, "export", "none", "--for", "recovar", "--output", "x")
    assert ended.code == 2
    assert not (tmp_path / "x").exists()
