import numpy as np
import pytest

import cryorefine as cr
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion
from tests.builders import optics_columns, particle_columns, refused, write_mrc, write_particle_star


@pytest.fixture
def mixed(tmp_path) -> cr.Particles:
    """Five particles with a column that only others know and one of an earlier run."""
    write_mrc(tmp_path / "stack.mrcs", np.arange(5 * 64, dtype=np.float32).reshape(5, 8, 8))
    columns = particle_columns(
        5,
        rlnClassNumber=[1, 2, 1, 2, 1],
        rlnNote=["a", "b", "c", "d", "e"],
        cryorefineSigmaRotationDeg=[0.5, 1.5, 2.5, 3.5, 4.5],
        rlnDefocusU=["10000.123456789", "10001", "10002", "10003", "10004"],
    )
    return cr.read_particles(write_particle_star(tmp_path / "particles.star", columns))


def test_columns_are_attributes_by_short_name_or_label(mixed):
    np.testing.assert_array_equal(mixed.sigma_rotation_deg, [0.5, 1.5, 2.5, 3.5, 4.5])
    np.testing.assert_array_equal(mixed.rlnClassNumber, [1, 2, 1, 2, 1])
    assert mixed.rlnNote.tolist() == list("abcde")
    assert {"sigma_rotation_deg", "rlnClassNumber"} <= set(mixed.columns) & set(dir(mixed))
    with pytest.raises(AttributeError, match=r"no 'weight'.*columns"):
        mixed.weight  # noqa: B018


def test_what_every_file_says_has_names_with_units(mixed):
    assert mixed.defocus_u_A[0] == 10000.123456789
    np.testing.assert_allclose(mixed.defocus_angle_deg, 30)
    np.testing.assert_array_equal(mixed.pixel_A, 1.5)
    assert mixed.micrographs.tolist() == [
        "mic0.mrc",
        "mic0.mrc",
        "mic1.mrc",
        "mic1.mrc",
        "mic2.mrc",
    ]
    assert set(mixed.optics_group) == {"opticsGroup1"}
    assert not mixed.has_pose
    assert not mixed.is_assigned.any()


def test_euler_angles_and_rotations_are_those_of_the_file(small):
    particles = small.true_particles
    text = read_star(small.output / "truth_particles.star")["particles"]
    np.testing.assert_allclose(particles.euler_deg[:, 1], text.floats("rlnAngleTilt"), atol=1e-9)
    expected = cr.rotations_from_euler(particles.euler_deg)
    np.testing.assert_allclose(particles.rotations, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (2, [2]),
        (-1, [4]),
        (slice(1, 4), [1, 2, 3]),
        ([3, 0], [3, 0]),
        (np.array([True, False, False, True, False]), [0, 3]),
    ],
)
def test_a_selection_has_its_rows_in_all_columns_and_images(mixed, key, rows):
    chosen = mixed[key]
    assert chosen.rlnNote.tolist() == ["abcde"[r] for r in rows]
    np.testing.assert_array_equal(chosen.defocus_u_A, mixed.defocus_u_A[rows])
    np.testing.assert_array_equal(chosen.images(), mixed.images()[rows])
    np.testing.assert_array_equal(mixed.images(key), mixed.images()[rows])


def test_iterating_gives_single_particles_in_order(mixed):
    assert [one.rlnNote[0] for one in mixed] == list("abcde")


@pytest.mark.parametrize("key", [5, [0, 7], np.array([True, False])])
def test_rows_that_are_not_there_are_an_index_error(mixed, key):
    with pytest.raises(IndexError):
        mixed[key]


def test_a_key_that_selects_nothing_sensible_is_a_type_error(mixed):
    with pytest.raises(TypeError, match="row numbers"):
        mixed["rlnNote"]


def test_images_are_those_of_the_stack(mixed):
    expected = np.arange(5 * 64, dtype=np.float32).reshape(5, 8, 8)
    np.testing.assert_array_equal(mixed.images(), expected)


def test_a_written_selection_has_the_text_that_was_read(mixed, tmp_path):
    mixed[[3, 0]].write(tmp_path / "some.star")
    before = read_star(tmp_path / "particles.star")
    after = read_star(tmp_path / "some.star")
    for block, rows in (("optics", [0]), ("particles", [3, 0])):
        assert list(after[block].columns) == list(before[block].columns)
        for label, column in after[block].columns.items():
            assert column.tolist() == before[block].columns[label][rows].tolist(), label


def test_a_file_written_elsewhere_still_leads_to_the_images(mixed, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "other" / "stack.mrcs").write_bytes(b"not these")
    mixed.write(other / "moved.star")
    assert read_relion(other / "moved.star").stacks == (tmp_path / "stack.mrcs",)


def test_images_of_different_sizes_are_refused_together_and_read_apart(tmp_path):
    write_mrc(tmp_path / "a.mrcs", np.zeros((2, 8, 8), np.float32))
    write_mrc(tmp_path / "b.mrcs", np.ones((2, 6, 6), np.float32))
    columns = particle_columns(
        4,
        rlnImageName=["1@a.mrcs", "2@a.mrcs", "1@b.mrcs", "2@b.mrcs"],
        rlnOpticsGroup=[1, 1, 2, 2],
    )
    optics = optics_columns(2, rlnImageSize=[8, 6])
    mixed = cr.read_particles(write_particle_star(tmp_path / "p.star", columns, optics))
    with refused("8", "6", "p.star"):
        mixed.images()
    assert mixed[mixed.optics_group == "opticsGroup2"].images().shape == (2, 6, 6)


def test_nothing_selected_is_neither_read_nor_written(mixed, tmp_path):
    nothing = mixed[mixed.sigma_rotation_deg > 100]
    assert len(nothing) == 0
    with refused("no image"):
        nothing.images()
    with refused("no particles"):
        nothing.write(tmp_path / "none.star")
    with refused("no such folder"):
        mixed.write(tmp_path / "nowhere" / "some.star")


def test_a_file_without_contrast_transfer_is_refused_in_words_of_parameters(tmp_path):
    path = write_particle_star(
        tmp_path / "p.star",
        particle_columns(2, rlnDefocusU=None, rlnDefocusV=None, rlnDefocusAngle=None),
    )
    with refused("CTF columns", "ctf=False"):
        cr.read_particles(path)
    assert len(cr.read_particles(path, ctf=False)) == 2
