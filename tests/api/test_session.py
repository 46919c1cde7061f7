"""A session as somebody types it: from particles to a run, and what is in it."""

import shutil

import pytest

import cryorefine as cr


@pytest.mark.slow
def test_a_session_from_particles_to_a_restored_map(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(small.output / "particles.star", "particles.star")
    shutil.copy(small.output / "particles.mrcs", "particles.mrcs")
    shutil.copy(small.output / "reference.mrc", "start.mrc")

    particles = cr.read_particles("particles.star")
    result = cr.refine(
        particles, cr.read_volume("start.mrc"), symmetry="D2", output="run", progress=True
    )
    assert 10 <= result.resolution_A < 20  # Nyquist is 10 Å
    assert result.map.size_px == 32
    assert [half.voxel_A for half in result.half_maps] == [5.0, 5.0]
    assert result.fsc.corrected.shape == (17,)
    assert result.particles.sigma_rotation_deg.shape == (120,)
    assert "iteration" in "".join(capsys.readouterr())

    run = cr.open_run("run")
    assert len(run.iterations) == len(run.history) > 1

    (h1, h2), m = run.result.half_maps, run.result.mask
    assert cr.fsc(h1, h2, mask=m).resolution_A() == pytest.approx(result.resolution_A)
    found = run.result.particles
    assert cr.reconstruct(found, symmetry="o").map.size_px == 32
    assert cr.project(result.map, found.rotations[:3]).shape == (3, 32, 32)
    assert cr.restore.laplacian(h1, h2, m).map.size_px == 32
    assert cr.convert(found, "found.cs").n_particles == 120
    assert cr.inspect("particles.star").n_particles == 120
