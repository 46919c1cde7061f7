"""Files that other programs have written: read as they say, and through every format and back."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.formats.losses import FEATURES
from cryorefine.formats.registry import FORMATS, format_of
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.images import open_images
from tests.builders import refused
from tests.formats.sets import assert_same_where_held

READABLE = (
    "aspire_sample.star", "cryosparc_P12_J24_001_particles.cs", "empiar_10076_7.cs",
    "empiar_10076_7.star", "relion31.6opticsgroups.star", "relion31.star", "relion31.v2.star",
    "relion5.star",
)  # fmt: skip
OUT = {"relion": "o.star", "cryosparc": "o.cs", "xmipp": "o.xmd", "cistem": "c.star",
       "cryodrgn": "poses.pkl"}  # fmt: skip


def read(path: Path):
    return format_of(path).read(path, ReadOptions()).table


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("to", OUT)
def test_real_files_come_back_from_every_format_but_for_what_is_listed(
    shared_data, tmp_path, name, to
):
    path = shared_data / "formats" / name
    if name == "aspire_sample.star":  # its stack, which alone tells the box, has another name
        for file, called in ((path, name), (path.with_suffix(".mrcs"), "sample.mrcs")):
            shutil.copy(file, tmp_path / called)
        path = tmp_path / name
    table = read(path)
    one = next(f for f in FORMATS if f.name == to)
    if to == "cryodrgn" and not table.has_pose:
        with refused("no poses"):
            one.write(tmp_path / OUT[to], table)
        return
    lost = one.write(tmp_path / OUT[to], table)
    features = {feature for feature, text in FEATURES.items() if text in lost}
    again = read(tmp_path / OUT[to])
    assert_same_where_held(again, table, features)


def test_cryosparcs_own_particles_are_read_as_their_fields_say(shared_data):
    path = shared_data / "formats" / "cryosparc_P12_J24_001_particles.cs"
    table, fields = read(path), np.load(path)
    assert len(table) == 2019
    assert table.is_inverted
    assert (table.optics[0].pixel_A, table.optics[0].cs_mm) == (2.95, 2.0)
    np.testing.assert_allclose(table.shift_A[0], [11.334375 * 2.95, -1.828125 * 2.95], rtol=1e-6)
    # The matrix of RELION's angles is the inverse of the rotation about the pose's vector.
    vector = fields["alignments3D/pose"].astype(np.float64)
    matrix = matrix_from_euler(torch.from_numpy(table.euler_rad)).numpy()
    axis = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", matrix, axis), axis, atol=1e-6)
    trace = np.trace(matrix, axis1=1, axis2=2)
    np.testing.assert_allclose(trace, 1 + 2 * np.cos(np.linalg.norm(vector, axis=1)), atol=1e-5)
    skew = matrix[:, 1, 2] - matrix[:, 2, 1]  # of the inverse: twice the sine times the axis
    angle = np.linalg.norm(vector, axis=1)
    np.testing.assert_allclose(skew, 2 * np.sin(angle) * axis[:, 0], atol=1e-5)
    np.testing.assert_array_equal(table.half_set, fields["alignments3D/split"] + 1)


def test_a_cs_and_a_star_file_of_the_same_images_agree(shared_data):
    folder = shared_data / "formats"
    cs, star = read(folder / "empiar_10076_7.cs"), read(folder / "empiar_10076_7.star")
    for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_rad", "phase_shift_rad"):
        np.testing.assert_allclose(getattr(cs, name), getattr(star, name), rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(cs.image_index, star.image_index)
    assert cs.stacks == star.stacks
    a, b = cs.optics[0], star.optics[0]
    assert (a.voltage_kV, a.cs_mm, a.amplitude_contrast) == (
        b.voltage_kV, b.cs_mm, b.amplitude_contrast,
    )  # fmt: skip
    assert a.pixel_A == pytest.approx(b.pixel_A, rel=1e-6)
    # What the .cs says of the sign, the images show: the particle is darker than what is about it.
    table, images = open_images(cs)
    white = images.read(np.arange(len(table))).numpy()
    y, x = np.mgrid[:320, :320] - 160
    radius = np.hypot(y, x)
    assert (white[:, radius < 60].mean(1) > white[:, radius > 140].mean(1)).all()
