import logging
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.api.inputs import inputs_as_paths
from tests.builders import refused
from tests.crash_points import killed_at

from .conftest import SETTINGS


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_same(a: cr.Refinement, b: cr.Refinement) -> None:
    """Assert that two refinements have the same maps, curves and particles, to the bit."""
    maps = zip((*a.half_maps, a.map, a.mask), (*b.half_maps, b.map, b.mask), strict=True)
    for one, other in maps:
        np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(a.fsc.corrected, b.fsc.corrected)
    for name in ("euler_deg", "shift_A", "sigma_rotation_deg", "score", "weight", "half_set"):
        np.testing.assert_array_equal(getattr(a.particles, name), getattr(b.particles, name))
    # As text: values that do not exist are NaN, which equals nothing.
    assert repr(a.history) == repr(b.history)


def test_objects_give_the_same_bits_as_the_paths_that_they_were_read_from(small, run):
    particles = cr.read_particles(small.output / "particles.star")
    start = cr.read_volume(small.output / "reference.mrc")
    assert_same(cr.refine(particles, start, **SETTINGS), cr.open_run(run).result)


@pytest.mark.slow
def test_a_selection_gives_the_same_bits_as_a_file_of_it(small, tmp_path):
    chosen = small.particles[small.particles.defocus_u_A < 15000]
    assert 20 < len(chosen) < len(small.particles)
    chosen.write(tmp_path / "chosen.star")
    reference = small.output / "reference.mrc"
    settings = {**SETTINGS, "iterations": 1}
    by_path = cr.refine(tmp_path / "chosen.star", reference, **settings)
    by_object = cr.refine(chosen, reference, **settings)
    assert_same(by_object, by_path)
    assert len(by_object.particles) == len(chosen)


def test_the_result_is_that_of_the_run_folder(run):
    result = cr.open_run(run).result
    np.testing.assert_array_equal(result.map.data, cr.read_volume(run / "map.mrc").data)
    np.testing.assert_array_equal(result.half_maps[1].data, cr.read_volume(run / "half2.mrc").data)
    assert result.output == run
    assert result.number == len(result.history) == 2
    assert result.resolution_A == result.history[-1].resolution_A == result.summary["resolution_A"]
    assert result.particles.sigma_rotation_deg.shape == (120,)
    assert result.settings.iterations == 2
    assert result.rejected is None
    assert result.processed_map is None
    assert f"{result.resolution_A:.2f} Å" in repr(result)


def test_without_an_output_nothing_is_left_behind(small, tmp_path, monkeypatch):
    temporary, here = tmp_path / "temporary", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(here)
    result = cr.reconstruct(small.true_particles, symmetry="d2", threads=2)
    assert not any(temporary.iterdir())
    assert not any(here.iterdir())
    # All of it is in memory, and images are where they were.
    assert result.output is None
    assert result.map.size_px == result.half_maps[0].size_px == result.mask.size_px == 32
    assert result.particles[:2].images().shape == (2, 32, 32)
    assert result.fsc.resolution_A() < 20
    assert result.warnings == ()


def test_a_reconstruction_keeps_the_poses(small):
    result = cr.reconstruct(small.true_particles, symmetry="d2", threads=2)
    np.testing.assert_allclose(
        result.particles.rotations, small.true_particles.rotations, atol=1e-6
    )
    agreement = cr.fsc(result.map, small.true_map).resolution_A(0.5)
    assert agreement < 20
    with refused("alignment: ", "Leave it out"):
        cr.reconstruct(small.true_particles, alignment="local")


def test_maps_of_all_kinds_may_be_objects(small):
    z = np.arange(32)[:, None, None]
    upper = cr.Volume(np.broadcast_to(z >= 16, (32, 32, 32)), 5.0)
    result = cr.reconstruct(
        small.true_particles,
        symmetry="d2",
        threads=2,
        post_mask=upper,
        compare_to=small.true_map,
        mask=cr.Volume(np.ones((32, 32, 32)), 5.0),
    )
    np.testing.assert_array_equal(result.processed_map.data, result.map.data * upper.data)
    assert result.fsc.comparison[2] > 0.9
    assert result.mask.data.min() == 1


def test_images_that_cannot_be_used_are_named(small):
    result = cr.reconstruct(small.true_particles, symmetry="d2", threads=2, max_energy=1.4)
    assert 0 < len(result.rejected) < 120
    assert len(result.rejected) + len(result.particles) == 120
    assert "power" in result.rejected.cryorefineRejectedBecause[0]


def test_a_refused_run_leaves_the_folder_as_it_was(small, run, tmp_path):
    before = files_below(run)
    with refused("symmetry", "x9"):
        cr.refine(small.particles, small.reference, symmetry="x9", output=tmp_path / "a" / "new")
    assert not any(tmp_path.iterdir())
    with refused("symmetry", "x9"):
        cr.refine(small.particles, small.reference, symmetry="x9", output=run, overwrite=True)
    with refused(str(run), "output=", "open_run", "overwrite=True"):
        cr.refine(small.particles, small.reference, output=run)
    assert files_below(run) == before


def test_a_folder_that_holds_something_else_is_refused_and_untouched(small, tmp_path):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "particles_mine.star").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    before = files_below(tmp_path)
    with refused("no cryorefine run", "output="):
        cr.refine(small.particles, small.reference, output=tmp_path)
    assert files_below(tmp_path) == before


def test_overwriting_leaves_only_the_inputs_of_the_new_run(small, tmp_path):
    output = tmp_path / "run"
    settings = {"symmetry": "d2", "threads": 2, "output": output}
    cr.reconstruct(small.true_particles[:60], **settings)
    (first,) = (output / "inputs").iterdir()
    cr.reconstruct(small.true_particles, overwrite=True, **settings)
    (second,) = (output / "inputs").iterdir()
    assert first != second
    assert cr.open_run(output).settings.particles == second


def kill_calls(output: Path, *objects: object) -> int:
    """Kill calls that were given objects at each of their changes of files; return how many."""

    def call() -> None:
        with inputs_as_paths(output, {"particles": objects[0], "reference": objects[1:]}):
            os.remove(output / "nothing")  # where the run would begin

    with killed_at(0) as count, suppress(FileNotFoundError):
        call()
    for point in range(1, count.n + 1):
        with killed_at(point), suppress(FileNotFoundError):
            call()
    return count.n


@pytest.mark.slow
def test_what_killed_calls_leave_the_next_run_removes_and_no_file_of_a_user(small, tmp_path):
    output, mine = (
        tmp_path / "run",
        ("particles_mine.star", "mask_0123456789abcdef.txt", ".mine.mrc"),
    )
    half = cr.Volume(small.reference.data / 2, small.reference.voxel_A)
    settings = {"symmetry": "d2", "threads": 2, "output": output}
    assert kill_calls(output, small.particles[:50], small.reference, half) > 12
    for name in mine:
        (output / "inputs" / name).write_text("mine")
    left = {path.name for path in (output / "inputs").iterdir()}
    assert len(left) >= 3 + len(mine)

    def assert_clean() -> None:
        assert {p.name for p in (output / "inputs").iterdir()} == {given.name, *mine}

    result = cr.reconstruct(small.true_particles[:60], **settings)
    given = cr.open_run(output).settings.particles
    assert given.is_file()
    assert_clean()
    for go_on in (
        lambda: cr.open_run(output).resume(),
        lambda: cr.reconstruct(small.true_particles[:60], overwrite=True, **settings),
    ):
        kill_calls(output, small.particles[:50], small.reference, half)
        assert len(list((output / "inputs").iterdir())) > 1 + len(mine)
        go_on()
        assert_clean()
    np.testing.assert_array_equal(cr.open_run(output).result.map.data, result.map.data)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"symmetry": "x9"}, ["symmetry: unknown symmetry"]),
        ({"particle_radius_px": 400}, ["particle_radius_px: ", "radius"]),
        ({"device": "cuda:99"}, ["device='cuda:99'", "device='cpu'"]),
        ({"fourier_padding": 9.0}, ["fourier_padding Input should", "correct the parameters"]),
        ({"radius": 3}, ["radius no such setting"]),
        ({"alignment": "local"}, ["no angles", "reference="]),
        ({"mask": np.ones((32, 32, 32))}, ["mask: ndarray", "cryorefine.Volume"]),
        ({"weight_cost": True, "alignment": "global"}, ["weight_cost=True acts in local"]),
    ],
)
def test_an_error_speaks_of_parameters(small, settings, parts):
    values = {"symmetry": "d2", **settings}
    with pytest.raises(cr.InputError) as caught:
        cr.refine(small.particles, small.output / "reference.mrc", **values)
    text = str(caught.value)
    assert "--" not in text.replace("--index-url", "")
    for part in parts:
        assert part.lower() in text.lower()


def test_what_are_no_particles_is_refused(small):
    with refused("particles: Volume", "cryorefine.Particles"):
        cr.refine(small.reference)
    with refused("reference: int", "cryorefine.Volume"):
        cr.refine(small.particles, 3)
    with refused("no particles"):
        cr.refine(small.particles[:0], small.reference)


def test_warnings_go_to_the_logger_and_into_the_result(small, caplog):
    images_twice = small.true_particles[[*range(60), 0]]
    with caplog.at_level(logging.WARNING, logger="cryorefine"):
        result = cr.reconstruct(images_twice, symmetry="d2", threads=2)
    assert any("repeat an image" in message for message in result.warnings)
    assert [record.getMessage() for record in caplog.records] == list(result.warnings)


def test_progress_is_shown_or_handed_on(small, capsys):
    kinds = []
    cr.reconstruct(
        small.true_particles, symmetry="d2", threads=2, progress=lambda e: kinds.append(e.kind)
    )
    assert kinds[-1] == "end"
    assert "progress" in kinds
    assert capsys.readouterr().out == ""
    cr.reconstruct(small.true_particles, symmetry="d2", threads=2, progress=True)
    assert "iteration   1" in capsys.readouterr().out


def interrupted(event):
    if event.kind == "iteration":
        raise KeyboardInterrupt


def test_an_interrupted_run_without_an_output_says_that_nothing_is_kept(small):
    with pytest.raises(cr.StoppedEarly) as caught:
        cr.refine(small.particles, small.reference, progress=interrupted, **SETTINGS)
    text = str(caught.value)
    assert "output= was not given" in text
    assert "cryorefine-" not in text
