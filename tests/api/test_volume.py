import numpy as np
import pytest

import cryorefine as cr
from tests.builders import refused, write_mrc


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("voxel_A", [1.0825, 1.7329, 0.8331, 3.6])
def test_a_map_comes_back_to_the_bit_from_the_file_that_it_is_written_to(values, tmp_path, voxel_A):
    first = cr.read_volume(write_mrc(tmp_path / "a.mrc", values, pixel_A=voxel_A))
    first.write(tmp_path / "b.mrc")
    again = cr.read_volume(tmp_path / "b.mrc")
    np.testing.assert_array_equal(again.data, values)
    assert again.voxel_A == first.voxel_A
    assert first.voxel_A == pytest.approx(voxel_A, rel=1e-6)


def test_a_map_is_an_array_to_numpy_and_takes_arrays_of_any_number(values):
    volume = cr.Volume(values.astype(np.float64), 2)
    assert volume.data.dtype == np.float32
    assert volume.size_px == 6
    assert np.asarray(volume).shape == (6, 6, 6)
    assert np.sum(volume) == pytest.approx(values.sum(), abs=1e-4)


def test_what_is_no_map_is_refused_by_the_name_of_the_parameter(values, tmp_path):
    with refused("data", "(6, 6, 5)"):
        cr.Volume(values[:, :, :5], 1.0)
    with refused("data", "NaN"):
        cr.Volume(np.full((4, 4, 4), np.nan), 1.0)
    with refused("voxel_A", "positive"):
        cr.Volume(values, 0)
    with refused("no such folder"):
        cr.Volume(values, 1.0).write(tmp_path / "nowhere" / "a.mrc")


def test_a_header_without_a_voxel_size_asks_for_the_parameter(values, tmp_path):
    path = write_mrc(tmp_path / "a.mrc", values, pixel_A=0.0)
    with refused("voxel_A="):
        cr.read_volume(path)
    assert cr.read_volume(path, voxel_A=2.5).voxel_A == 2.5
