import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryorefine.formats.read import read_particles
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.images import open_images
from tests.builders import (
    line_of,
    loop,
    make_table,
    optics_columns,
    particle_columns,
    refused,
    write_mrc,
    write_particle_star,
)

PER_PARTICLE = (
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_rad",
    "phase_shift_rad",
    "bfactor_A2",
    "ctf_scale",
)


def assert_same_particles(a, b):
    """Compare everything that a file can hold."""
    assert len(a) == len(b)
    assert a.has_pose == b.has_pose
    np.testing.assert_allclose(np.degrees(a.euler_rad), np.degrees(b.euler_rad), rtol=0, atol=1e-6)
    np.testing.assert_allclose(a.shift_A, b.shift_A, rtol=0, atol=1e-6)
    for name in PER_PARTICLE:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-8, atol=1e-6)
    for name in ("optics_index", "half_set", "image_index"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert [a.stacks[i] for i in a.stack_index] == [b.stacks[i] for i in b.stack_index]
    assert a.micrographs == b.micrographs
    np.testing.assert_array_equal(a.micrograph_index, b.micrograph_index)
    assert len(a.optics) == len(b.optics)
    for one, other in zip(a.optics, b.optics, strict=True):
        assert (one.name, one.box_px, one.has_ctf) == (other.name, other.box_px, other.has_ctf)
        for name in ("pixel_A", "voltage_kV", "cs_mm", "amplitude_contrast"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-8, abs=1e-6)
        for name in ("beam_tilt_mrad", "magnification", "odd_zernike", "even_zernike"):
            mine, theirs = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-6)
    for mine, theirs in ((a.extra, b.extra), (a.extra_optics, b.extra_optics)):
        assert list(mine) == list(theirs)
        for label in mine:
            assert mine[label].tolist() == theirs[label].tolist(), label


# Real files


def test_a_relion_31_file_reads_as_its_text_says(shared_data):
    table = read_relion(shared_data / "formats" / "relion31.star")
    assert len(table) == 5
    (group,) = table.optics
    assert (group.name, group.pixel_A, group.box_px) == ("opticsGroup1", 2.806, 256)
    assert (group.voltage_kV, group.cs_mm, group.amplitude_contrast) == (300.0, 0.01, 0.1)
    assert group.has_ctf
    assert not group.has_odd_aberration
    assert table.has_pose
    assert np.degrees(table.euler_rad[0]) == pytest.approx([-102.30296, 82.318041, 124.706463])
    assert np.degrees(table.euler_rad[3]) == pytest.approx([160.041375, 85.685244, 131.553672])
    assert table.shift_A[:2].tolist() == [[0.019324, -0.64686], [-0.25248, 0.403454]]
    assert table.defocus_u_A[0] == 13108.082418
    assert table.defocus_v_A[0] == 12845.582418
    assert table.defocus_angle_rad[0] == pytest.approx(math.radians(-160.39))
    assert table.half_set.tolist() == [1] * 5
    assert table.stacks == (shared_data / "formats" / "relion31.mrcs",)
    assert table.image_index.tolist() == [0, 1, 2, 3, 4]
    assert len(table.micrographs) == 1
    assert table.extra["rlnLogLikeliContribution"][0] == b"2.586789e+05"
    assert table.extra_optics["rlnMicrographOriginalPixelSize"].tolist() == [b"1.403000"]
    assert table.where(0).endswith(f"relion31.star, line {table.lines[0]}")


def test_blocks_may_come_in_either_order(shared_data):
    folder = shared_data / "formats"
    first, second = (read_relion(folder / f"relion31{v}.star") for v in ("", ".v2"))
    assert_same_particles(first, second)


def test_several_optics_groups_with_aberrations_read_as_their_text_says(shared_data):
    path = shared_data / "formats" / "relion31.6opticsgroups.star"
    table = read_relion(path)
    assert [g.name for g in table.optics] == [f"opticsGroup{i}" for i in (5, 3, 2, 1, 4, 6)]
    assert [g.pixel_A for g in table.optics] == [1.25, 1.24, 1.25, 1.25, 1.24, 1.25]
    assert table.optics[3].cs_mm == 2.6
    group = table.optics[5]
    assert group.beam_tilt_mrad == (-1.28823, 2.446621)
    assert group.magnification == (1.006131, -0.00887, -0.00768, 0.999765)
    assert group.odd_zernike[2] == 9.94459348609
    assert (len(group.odd_zernike), len(group.even_zernike)) == (6, 9)
    assert table.optics_index[0] == 5
    numbers = read_star(path)["particles"].integers("rlnOpticsGroup")
    np.testing.assert_array_equal(table.optics_index + 1, numbers)
    assert sorted(set(table.half_set.tolist())) == [1, 2]
    names = read_star(path)["particles"].text("rlnMicrographName")
    assert [table.micrographs[i] for i in table.micrograph_index] == list(names)


def test_a_relion_5_file_reads_as_its_text_says(shared_data):
    table = read_relion(shared_data / "formats" / "relion5.star")
    (group,) = table.optics
    assert (group.voltage_kV, group.cs_mm, group.pixel_A) == (100.0, 1.6, 0.89)
    assert group.beam_tilt_mrad == (0.043489, 0.014097)
    assert group.odd_zernike[:3] == (0.0680480107376, 0.0982451014894, -1.79877045848)
    assert np.degrees(table.euler_rad[2:4, 0]) == pytest.approx([142.140028, 68.363943])
    assert table.shift_A[2].tolist() == [-3.12578, -1.41031]
    assert [p.name for p in table.stacks] == ["toy_images_a.mrcs", "toy_images_b.mrcs"]
    assert table.stack_index.tolist()[:5] == [0, 1, 0, 0, 1]
    assert table.image_index.tolist()[:5] == [0, 1, 2, 3, 4]


def test_particles_without_poses_are_read_as_such(shared_data):
    table = read_particles(shared_data / "apoferritin_10146" / "particles.star")
    assert len(table) == 1344
    assert not table.has_pose
    assert not table.euler_rad.any()
    assert not table.half_set.any()
    assert len(table.micrographs) == 10
    assert (table.defocus_u_A[0], table.defocus_v_A[0]) == (19900.5, 19049.9)
    checked, images = open_images(table)
    assert checked.optics[0].box_px == 128
    assert images.read(np.array([0, 1343])).shape == (2, 128, 128)


@pytest.mark.parametrize(
    "name", ["relion31.star", "relion31.6opticsgroups.star", "relion5.star", "relion31.v2.star"]
)
def test_real_files_survive_writing_and_reading(shared_data, tmp_path, name):
    table = read_relion(shared_data / "formats" / name)
    write_relion(tmp_path / "out.star", table)
    assert_same_particles(read_relion(tmp_path / "out.star"), table)


def test_one_block_files_of_relion_30_are_read_in_angstroms(shared_data):
    formats = shared_data / "formats"
    table = read_relion(formats / "aspire_sample.star")
    assert len(table) == 17
    assert table.optics[0].pixel_A == pytest.approx(5e4 / 37369.207031, rel=1e-6)
    np.testing.assert_allclose(table.shift_A[1], [-0.0504 * table.optics[0].pixel_A] * 2, rtol=1e-6)
    np.testing.assert_allclose(
        np.degrees(table.euler_rad[0]), [109.186640, 122.200343, 71.118492], rtol=1e-9
    )
    assert table.half_set[0] == 2
    assert "rlnAutopickFigureOfMerit" in table.extra
    group = read_relion(formats / "empiar_10076_7.star").optics[0]
    assert (group.voltage_kV, group.cs_mm, group.amplitude_contrast) == (300.0, 2.7, 0.07)
    assert group.pixel_A == pytest.approx(1.3099979, rel=1e-7)


def test_a_one_block_file_without_amplitude_contrast_is_refused_unless_there_is_no_ctf(shared_data):
    path = shared_data / "formats" / "FinalRefinement-OriginalParticles-PfCRT.star"
    with refused(path.name, "_rlnAmplitudeContrast", "--no-ctf"):
        read_relion(path)
    table = read_relion(path, ctf=False)
    np.testing.assert_allclose(table.shift_A[0], [-0.14063 * 1.035, -0.04688 * 1.035], rtol=1e-6)


def test_rows_of_one_block_are_parted_into_optics_groups_by_their_microscopes(tmp_path):
    columns = particle_columns(
        4, rlnOpticsGroup=None, rlnVoltage=[300, 200, 300, 200], rlnSphericalAberration=2.7,
        rlnAmplitudeContrast=0.1, rlnDetectorPixelSize=5.0, rlnMagnification=[50000] * 4,
        rlnOriginX=2.0, rlnOriginY=-1.0, rlnAngleRot=10, rlnAngleTilt=20, rlnAnglePsi=30,
    )  # fmt: skip
    path = tmp_path / "p.star"
    path.write_text(loop("", columns) + loop("model", {"rlnX": [1]}))
    table = read_relion(path)
    assert [g.voltage_kV for g in table.optics] == [300.0, 200.0]
    assert table.optics_index.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(table.shift_A, [[2.0, -1.0]] * 4)
    write_relion(tmp_path / "again.star", table)
    again = read_relion(tmp_path / "again.star")
    assert_same_particles(again, table)
    assert again.extra_blocks["model"]["rlnX"].tolist() == [b"1"]


def test_a_number_that_is_none_in_one_block_is_refused_by_line(tmp_path):
    columns = particle_columns(
        2, rlnOpticsGroup=None, rlnVoltage=300, rlnSphericalAberration=2.7,
        rlnAmplitudeContrast=0.1, rlnDetectorPixelSize=5.0, rlnMagnification=[50000, "many"],
    )  # fmt: skip
    path = tmp_path / "p.star"
    path.write_text(loop("", columns))
    with refused(f"line {line_of(path, 'many')}, column _rlnMagnification", "'many'"):
        read_relion(path)


# Round trip of anything

angles_deg = st.floats(-360, 360)
small = st.floats(-50, 50)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), n=st.integers(1, 5), n_groups=st.integers(1, 3))
def test_any_table_survives_writing_and_reading(data, n, n_groups, tmp_path):
    def column(values):
        return np.array(data.draw(st.lists(values, min_size=n, max_size=n)))

    zernike = st.lists(small, min_size=6, max_size=6).map(tuple) | st.just(())
    groups = tuple(
        replace(
            make_table(0).optics[0],
            name=f"group {i}",
            pixel_A=data.draw(st.floats(0.3, 10)),
            voltage_kV=data.draw(st.sampled_from([100.0, 200.0, 300.0])),
            cs_mm=data.draw(st.floats(0, 5)),
            amplitude_contrast=data.draw(st.floats(0, 1)),
            beam_tilt_mrad=(data.draw(small), data.draw(small)),
            odd_zernike=data.draw(zernike),
            even_zernike=data.draw(zernike),
            magnification=(1.0, data.draw(st.floats(-0.1, 0.1)), 0.0, 1.02),
        )
        for i in range(n_groups)
    )
    # In order of appearance of the sorted names, as a reader numbers them.
    micrograph = np.unique(column(st.integers(0, 3)), return_inverse=True)[1]
    with_halves = data.draw(st.booleans())
    table = replace(
        make_table(n, micrograph=micrograph.tolist(), optics=groups, folder=tmp_path),
        optics_index=column(st.integers(0, n_groups - 1)).astype(np.int32),
        has_pose=True,
        euler_rad=np.radians(np.stack([column(angles_deg) for _ in range(3)], -1)),
        shift_A=np.stack([column(small), column(small)], -1),
        defocus_u_A=column(st.floats(-1e5, 1e5)),
        defocus_v_A=column(st.floats(-1e5, 1e5)),
        defocus_angle_rad=np.radians(column(angles_deg)),
        phase_shift_rad=np.radians(column(angles_deg)),
        bfactor_A2=column(st.floats(-20, 500)),  # less is refused at the finest pixels
        ctf_scale=column(st.floats(0, 2)),
        half_set=column(st.integers(1, 2)).astype(np.int8) if with_halves else np.zeros(n, np.int8),
        extra={"rlnLucky": np.array([b"1.50", b"a b", b"", b"-7", b"#"][:n])},
    )
    write_relion(tmp_path / "t.star", table)
    assert_same_particles(read_relion(tmp_path / "t.star"), table)


def test_quality_columns_are_written_last_and_not_carried_into_the_next_run(tmp_path):
    path = write_particle_star(tmp_path / "p.star")
    write_relion(tmp_path / "1.star", read_relion(path), quality={"cryorefineScore": np.ones(2)})
    block = read_star(tmp_path / "1.star")["particles"]
    assert list(block.columns)[-1] == "cryorefineScore"
    assert block.floats("cryorefineScore").tolist() == [1.0, 1.0]
    write_relion(tmp_path / "2.star", read_relion(tmp_path / "1.star"))
    assert "cryorefineScore" not in read_star(tmp_path / "2.star")["particles"]


def test_selected_rows_keep_what_belongs_to_them(tmp_path):
    columns = particle_columns(4, rlnLucky=["a", "b", "c", "d"], rlnRandomSubset=[1, 2, 1, 2])
    path = write_particle_star(tmp_path / "p.star", columns)
    table = read_relion(path)
    some = table.select(np.array([3, 1]))
    assert some.extra["rlnLucky"].tolist() == [b"d", b"b"]
    assert some.defocus_u_A.tolist() == [10003.0, 10001.0]
    assert some.where(0) == f"{path}, line {line_of(path, '000004@')}"
    assert len(table.select(np.zeros(4, bool))) == 0


# What is refused


def test_a_single_particle_is_enough(tmp_path):
    table = read_relion(write_particle_star(tmp_path / "p.star", particle_columns(1)))
    assert len(table) == 1


def test_a_single_particle_may_be_written_without_a_loop(tmp_path):
    columns = particle_columns(1)
    pairs = "\n".join(f"_{label} {values[0]}" for label, values in columns.items())
    path = tmp_path / "p.star"
    path.write_text(loop("optics", optics_columns()) + "data_particles\n" + pairs + "\n")
    table = read_relion(path)
    assert len(table.select(np.array([True]))) == 1
    assert table.where(0) == f"{path}, line {line_of(path, '000001@')}"


def test_no_particles_are_refused(tmp_path):
    with refused("p.star: data_particles has no rows"):
        read_relion(write_particle_star(tmp_path / "p.star", particle_columns(0)))


def test_no_optics_groups_are_refused(tmp_path):
    with refused("p.star: data_optics has no rows"):
        read_relion(write_particle_star(tmp_path / "p.star", optics=optics_columns(0)))


def test_a_missing_image_name_column_is_refused(tmp_path):
    columns = particle_columns(2, rlnImageName=None)
    with refused("p.star: column _rlnImageName is missing"):
        read_relion(write_particle_star(tmp_path / "p.star", columns))


@pytest.mark.parametrize("label", ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"])
def test_missing_ctf_columns_are_refused_unless_there_is_no_ctf(tmp_path, label):
    path = write_particle_star(tmp_path / "p.star", particle_columns(2, **{label: None}))
    with refused(f"p.star: CTF columns are missing: _{label}", "--no-ctf"):
        read_relion(path)
    table = read_relion(path, ctf=False)
    assert not table.optics[0].has_ctf
    assert not table.defocus_u_A.any()


@pytest.mark.parametrize("label", ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"])
def test_missing_ctf_columns_of_the_optics_are_refused(tmp_path, label):
    path = write_particle_star(tmp_path / "p.star", optics=optics_columns(1, **{label: None}))
    with refused(f"p.star: CTF columns are missing: _{label}"):
        read_relion(path)


def test_all_missing_ctf_columns_are_listed_at_once(tmp_path):
    path = write_particle_star(
        tmp_path / "p.star",
        particle_columns(2, rlnDefocusU=None),
        optics_columns(1, rlnVoltage=None),
    )
    with refused("_rlnDefocusU, _rlnVoltage"):
        read_relion(path)


def test_ctf_columns_that_are_to_be_ignored_travel_unchanged(tmp_path):
    ctf = {
        "rlnDefocusU": [1.25, 2.5],
        "rlnPhaseShift": ["90", "91"],
        "rlnCtfBfactor": ["7", "8"],
        "rlnCtfScalefactor": ["0.9", "0.8"],
    }
    path = write_particle_star(tmp_path / "p.star", particle_columns(2, **ctf))
    table = read_relion(path, ctf=False)
    assert not table.bfactor_A2.any()
    assert table.ctf_scale.tolist() == [1.0, 1.0]
    write_relion(tmp_path / "out.star", table)
    block = read_star(tmp_path / "out.star")["particles"]
    for label, values in ctf.items():
        assert list(block.text(label)) == [str(v) for v in values]


def test_an_undefined_optics_group_is_refused_by_line(tmp_path):
    columns = particle_columns(3, rlnOpticsGroup=[1, 7, 1])
    path = write_particle_star(tmp_path / "p.star", columns)
    line = line_of(path, "000002@")
    with refused(f"{path}, line {line}, column _rlnOpticsGroup: optics group 7 is not in"):
        read_relion(path)


def test_an_optics_group_defined_twice_is_refused_by_line(tmp_path):
    optics = optics_columns(2, rlnOpticsGroup=[1, 1], rlnOpticsGroupName=["one", "two"])
    path = write_particle_star(tmp_path / "p.star", optics=optics)
    with refused(f"{path}, line {line_of(path, 'two')}", "optics group 1 is defined twice"):
        read_relion(path)


def test_particles_that_do_not_say_which_of_two_groups_is_theirs_are_refused(tmp_path):
    columns = particle_columns(2, rlnOpticsGroup=None)
    with refused("p.star: column _rlnOpticsGroup is missing"):
        read_relion(write_particle_star(tmp_path / "p.star", columns, optics_columns(2)))
    table = read_relion(write_particle_star(tmp_path / "p.star", columns, optics_columns(1)))
    assert table.optics_index.tolist() == [0, 0]


def test_optics_groups_may_have_any_numbers_in_any_order(tmp_path):
    optics = optics_columns(3, rlnOpticsGroup=[30, 2, 11], rlnOpticsGroupName=["a", "b", "c"])
    columns = particle_columns(4, rlnOpticsGroup=[2, 11, 30, 2])
    table = read_relion(write_particle_star(tmp_path / "p.star", columns, optics))
    assert [table.optics[i].name for i in table.optics_index] == ["b", "c", "a", "b"]


@pytest.mark.parametrize(
    ("label", "correction"),
    [
        ("rlnCtfDataAreCtfPremultiplied", "premultiplied"),
        ("rlnCtfDataArePhaseFlipped", "phase_flipped"),
    ],
)
def test_what_was_done_to_images_is_read_and_written(tmp_path, label, correction):
    optics = optics_columns(2, rlnOpticsGroupName=["one", "two"], **{label: [0, 1]})
    columns = particle_columns(4, rlnOpticsGroup=[1, 2, 1, 2])
    table = read_relion(write_particle_star(tmp_path / "p.star", columns, optics))
    assert [group.correction for group in table.optics] == ["none", correction]
    write_relion(tmp_path / "again.star", table)
    assert [g.correction for g in read_relion(tmp_path / "again.star").optics] == [
        "none",
        correction,
    ]
    without_ctf = read_relion(tmp_path / "again.star", ctf=False)
    assert {group.correction for group in without_ctf.optics} == {"none"}


def test_subtomograms_are_refused(tmp_path):
    optics = optics_columns(1, rlnImageDimensionality=3)
    with refused("only 2D images"):
        read_relion(write_particle_star(tmp_path / "p.star", optics=optics))


def test_an_optics_group_without_a_pixel_size_is_refused(tmp_path):
    path = write_particle_star(
        tmp_path / "p.star", optics=optics_columns(1, rlnImagePixelSize=None)
    )
    with refused(f"{path}, optics group 1, column _rlnImagePixelSize: no positive pixel size"):
        read_relion(path)


@pytest.mark.parametrize("pixel_A", [0, -1.5, 1e308])
def test_an_impossible_pixel_size_is_refused_by_line(tmp_path, pixel_A):
    path = write_particle_star(
        tmp_path / "p.star", optics=optics_columns(1, rlnImagePixelSize=pixel_A)
    )
    line = line_of(path, "opticsGroup1")
    with refused(f"{path}, line {line}, column _rlnImagePixelSize: '{pixel_A}' is not in"):
        read_relion(path)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("rlnAmplitudeContrast", -0.1),
        ("rlnAmplitudeContrast", 1.1),
        ("rlnVoltage", 0),
        ("rlnVoltage", -300),
    ],
)
def test_impossible_optics_are_refused_by_line(tmp_path, label, value):
    names = ["one", "two"]
    optics = optics_columns(2, rlnOpticsGroupName=names, **{label: [0.5, value]})
    path = write_particle_star(tmp_path / "p.star", optics=optics)
    with refused(f"{path}, line {line_of(path, 'two')}, column _{label}", f"{value:g}"):
        read_relion(path)


@pytest.mark.parametrize("text", ["0.1,0.2", "[0.1;0.2]", "77", "[NaN]", "[1e999]", '{"a":1}'])
def test_a_malformed_list_of_zernike_coefficients_is_refused_by_line(tmp_path, text):
    optics = optics_columns(1, rlnOddZernike=[text])
    path = write_particle_star(tmp_path / "p.star", optics=optics)
    with refused(f"{path}, line {line_of(path, text)}, column _rlnOddZernike: '{text}'"):
        read_relion(path)


@pytest.mark.parametrize("value", [-1, 3, 100, "1.5", "half"])
def test_a_half_set_other_than_1_or_2_is_refused_by_line(tmp_path, value):
    path = write_particle_star(
        tmp_path / "p.star", particle_columns(3, rlnRandomSubset=[1, 2, value])
    )
    line = line_of(path, "000003@")
    with refused(f"{path}, line {line}, column _rlnRandomSubset", str(value)):
        read_relion(path)


def test_images_numbered_from_0_are_refused_by_line(tmp_path):
    names = ["000001@s.mrcs", "000000@s.mrcs"]
    path = write_particle_star(tmp_path / "p.star", particle_columns(2, rlnImageName=names))
    with refused(f"{path}, line {line_of(path, '000000@')}, column _rlnImageName", "from 1"):
        read_relion(path)


@pytest.mark.parametrize("name", ["s.mrcs", "@s.mrcs", "a@s.mrcs", "1.0@s.mrcs", "-1@s.mrcs", "²@s",
                                  "99999999999999999999@s.mrcs"])  # fmt: skip
def test_a_malformed_image_name_is_refused_by_line(tmp_path, name):
    columns = particle_columns(2, rlnImageName=["000001@s.mrcs", name])
    path = write_particle_star(tmp_path / "p.star", columns)
    line = line_of(path, "mic0.mrc 1 10001")
    with refused(f"{path}, line {line}, column _rlnImageName: '{name}' is not of the form"):
        read_relion(path)


def test_a_value_that_is_not_a_number_is_refused_by_line_and_column(tmp_path):
    columns = particle_columns(3, rlnDefocusV=["1", "nan", "2"])
    path = write_particle_star(tmp_path / "p.star", columns)
    with refused(f"{path}, line {line_of(path, 'nan')}, column _rlnDefocusV: 'nan'"):
        read_relion(path)


def test_an_unknown_kind_of_particle_file_is_refused_with_those_that_are_known(tmp_path):
    with refused("particles.txt", "'.txt'", "*.star"):
        read_particles(tmp_path / "particles.txt")


def test_the_suffix_of_a_particle_file_may_be_in_capitals(tmp_path):
    assert len(read_particles(write_particle_star(tmp_path / "P.STAR"))) == 2


# Where stacks are


def project(tmp_path):
    """Make a project folder as RELION has it: image names start at the project."""
    job = tmp_path / "project" / "Extract" / "job1"
    job.mkdir(parents=True)
    write_mrc(job / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    columns = particle_columns(2, stack="Extract/job1/stack.mrcs")
    return tmp_path / "project", write_particle_star(job / "p.star", columns)


def test_image_names_are_found_from_the_project_folder_above_the_file(tmp_path, monkeypatch):
    folder, path = project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_relion(path).stacks == (folder / "Extract" / "job1" / "stack.mrcs",)


def test_image_names_are_found_beside_the_file_before_anywhere_else(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for folder in (tmp_path, tmp_path / "a"):
        write_mrc(folder / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    monkeypatch.chdir(tmp_path)
    assert read_relion(write_particle_star(tmp_path / "a" / "p.star")).stacks == (
        tmp_path / "a" / "stack.mrcs",
    )


def test_image_names_are_found_from_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_mrc(tmp_path / "b" / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    path = write_particle_star(tmp_path / "a" / "p.star")
    monkeypatch.chdir(tmp_path / "b")
    assert read_relion(path).stacks == (tmp_path / "b" / "stack.mrcs",)


def test_absolute_image_names_are_taken_as_they_are(tmp_path):
    columns = particle_columns(2, stack="/far/away.mrcs")
    table = read_relion(write_particle_star(tmp_path / "p.star", columns))
    assert [str(p) for p in table.stacks] == ["/far/away.mrcs"]


def test_names_that_lead_from_the_working_folder_are_written_as_they_were(tmp_path, monkeypatch):
    folder, path = project(tmp_path)
    monkeypatch.chdir(folder)
    (folder / "Refine").mkdir()
    write_relion(folder / "Refine" / "out.star", read_relion(path))
    names = read_star(folder / "Refine" / "out.star")["particles"].text("rlnImageName")
    assert list(names) == ["000001@Extract/job1/stack.mrcs", "000002@Extract/job1/stack.mrcs"]


def test_names_that_lead_from_the_output_folder_are_written_as_they_were(tmp_path, monkeypatch):
    folder, path = project(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_relion(folder / "out.star", read_relion(path))
    names = read_star(folder / "out.star")["particles"].text("rlnImageName")
    assert names[0] == "000001@Extract/job1/stack.mrcs"


def test_names_that_lead_nowhere_from_the_output_become_absolute(tmp_path, monkeypatch):
    folder, path = project(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_relion(tmp_path / "elsewhere" / "out.star", read_relion(path))
    names = read_star(tmp_path / "elsewhere" / "out.star")["particles"].text("rlnImageName")
    stack = folder / "Extract" / "job1" / "stack.mrcs"
    assert list(names) == [f"000001@{stack}", f"000002@{stack}"]


def test_a_name_that_leads_to_another_file_from_the_working_folder_becomes_absolute(
    tmp_path, monkeypatch
):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_mrc(folder / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    path = write_particle_star(tmp_path / "a" / "p.star")
    monkeypatch.chdir(tmp_path / "b")
    write_relion(tmp_path / "out.star", read_relion(path))
    assert read_relion(tmp_path / "out.star").stacks == (tmp_path / "a" / "stack.mrcs",)


def test_a_name_that_leads_to_another_file_beside_the_output_becomes_absolute(
    tmp_path, monkeypatch
):
    for folder in (tmp_path, tmp_path / "run"):
        folder.mkdir(exist_ok=True)
        write_mrc(folder / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    monkeypatch.chdir(tmp_path)
    write_relion(
        tmp_path / "run" / "out.star", read_relion(write_particle_star(tmp_path / "p.star"))
    )
    assert read_relion(tmp_path / "run" / "out.star").stacks == (tmp_path / "stack.mrcs",)


def test_one_stack_under_two_names_is_one_stack(tmp_path):
    write_mrc(tmp_path / "stack.mrcs", np.zeros((2, 8, 8), "f4"))
    names = ["000001@stack.mrcs", f"000001@{tmp_path}/stack.mrcs", "000002@./stack.mrcs"]
    path = write_particle_star(tmp_path / "p.star", particle_columns(3, rlnImageName=names))
    table = read_relion(path)
    assert table.stacks == (tmp_path / "stack.mrcs",)
    assert table.stack_index.tolist() == [0, 0, 0]
    write_relion(tmp_path / "out.star", table)
    assert_same_particles(read_relion(tmp_path / "out.star"), table)
