import numpy as np
import pytest

import cryorefine as cr
from cryorefine.io.star import read_star
from tests.builders import refused


@pytest.fixture
def result(run) -> cr.Refinement:
    return cr.open_run(run).result


def difference(a: cr.Volume, b: cr.Volume) -> float:
    """Norm of the difference over that of the second; phases of a run are randomised otherwise."""
    return float(np.linalg.norm(a.data - b.data) / np.linalg.norm(b.data))


def test_the_fsc_is_the_same_for_objects_paths_and_arrays(run, result):
    half1, half2 = result.half_maps
    objects = cr.fsc(half1, half2, result.mask)
    paths = cr.fsc(run / "half1.mrc", str(run / "half2.mrc"), run / "mask.mrc")
    arrays = cr.fsc(half1.data, half2.data, result.mask.data, voxel_A=half1.voxel_A)
    for curves in (paths, arrays):
        np.testing.assert_array_equal(curves.corrected, objects.corrected)
        np.testing.assert_array_equal(curves.frequency_per_A, objects.frequency_per_A)


def test_the_curves_of_a_result_are_those_of_its_table(run, result, tmp_path):
    result.fsc.write(tmp_path / "fsc.star")
    mine, theirs = (read_star(p / "fsc.star") for p in (tmp_path, run))
    for label, column in theirs["fsc"].columns.items():
        assert mine["fsc"].columns[label].tolist() == column.tolist(), label
    assert result.fsc.resolution_A() == pytest.approx(result.resolution_A)


def test_a_map_correlates_with_itself_and_not_with_noise():
    rng = np.random.default_rng(1)
    a, b = (cr.Volume(rng.normal(size=(24, 24, 24)), 2.0) for _ in range(2))
    np.testing.assert_allclose(cr.fsc(a, a).corrected, 1, atol=1e-5)
    assert cr.fsc(a, a).resolution_A() == pytest.approx(4.0)
    # Noise of 24³ voxels: about ±0.1 at the middle shells, of some 2,000 coefficients.
    assert np.abs(cr.fsc(a, b).corrected[6:]).max() < 0.3


def test_maps_that_do_not_fit_are_refused_by_the_name_of_the_parameter(result):
    half1, half2 = result.half_maps
    small = cr.Volume(half2.data[:16, :16, :16], half2.voxel_A)
    coarse = cr.Volume(half2.data, 2 * half2.voxel_A)
    with refused("half2", "16", "half1"):
        cr.fsc(half1, small)
    with refused("half2", "10", "half1"):
        cr.fsc(half1, coarse)
    with refused("mask", "0 to 1"):
        cr.sharpen(half1, half2, 3 * result.mask.data)
    with refused("half1", "no voxel size"):
        cr.fsc(half1.data, half2.data)


def test_sharpening_undoes_the_fall_off_that_it_is_told(result):
    half1, half2 = result.half_maps
    flat = cr.sharpen(half1, half2, result.mask, bfactor_A2=0)
    assert difference(flat, result.map) < 0.02
    sharp = cr.sharpen(half1, half2, result.mask, bfactor_A2=400)
    ratio = np.abs(np.fft.rfftn(sharp.data)) / np.abs(np.fft.rfftn(flat.data))
    s = 6 / (32 * half1.voxel_A)
    assert ratio[0, 0, 6] == pytest.approx(np.exp(400 / 4 * s**2), rel=1e-3)


def test_a_fall_off_that_is_not_told_is_fitted(result):
    fitted = cr.sharpen(*result.half_maps, result.mask)
    assert difference(fitted, result.sharpened_map) < 0.02


def test_curves_are_written_as_the_suffix_says(result, tmp_path):
    for name in ("fsc.star", "fsc.xml", "fsc.csv"):
        result.fsc.write(tmp_path / name)
    last = f"{result.fsc.corrected[-1]:.6f}"
    assert (tmp_path / "fsc.xml").read_text().startswith("<fsc title=")
    assert f"<y>{last}</y>" in (tmp_path / "fsc.xml").read_text().splitlines()[-2]
    assert (tmp_path / "fsc.csv").read_text().splitlines()[-1].split(",")[3] == last
    assert "data_fsc" in (tmp_path / "fsc.star").read_text()
