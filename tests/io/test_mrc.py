import bz2
import gzip
import itertools
import os
import resource
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryorefine.io import stack as raw_stack
from cryorefine.io.mrc import read_stack_header, read_volume, write_stack, write_volume
from cryorefine.io.open_files import OpenFiles
from tests.builders import refused, write_mrc

KINDS = {"i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}


def numbers(shape, kind="f4", seed=0):
    """Return values that differ everywhere and fit into a kind of pixel."""
    values = np.random.default_rng(seed).permutation(int(np.prod(shape))) % 250
    return (values - (0 if kind == "u2" else 125)).reshape(shape).astype(kind)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("byte_order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("kind", KINDS)
def test_stacks_of_all_modes_and_byte_orders_hold_their_values(tmp_path, kind, byte_order, size):
    images = numbers((3, size, size), kind)
    header = read_stack_header(write_mrc(tmp_path / "a.mrcs", images, byte_order=byte_order))
    assert header.n_images == 3
    assert header.size_yx_px == (size, size)
    assert header.pixel_A == pytest.approx(1.5)
    np.testing.assert_array_equal(np.asarray(header.read(), np.float32), images.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mrcfile_package_reads_the_same(tmp_path, kind):
    path = write_mrc(tmp_path / "a.mrcs", numbers((2, 5, 6), kind), byte_order=">")
    with mrcfile.open(path) as other:
        np.testing.assert_array_equal(read_stack_header(path).read(), other.data)


@pytest.mark.parametrize("stamp", ["4444", "4441", "1111", "0000", "1144", "ffff"])
@pytest.mark.parametrize("byte_order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("name", [b"MAP ", b"MAP\0", b"\0\0\0\0", b"what"])
def test_headers_of_programs_that_take_liberties_are_read_as_the_mrcfile_package_does(
    tmp_path, name, byte_order, stamp
):
    path = write_mrc(tmp_path / "a.mrc", numbers((5, 5, 5), "u2"), byte_order=byte_order)
    content = bytearray(path.read_bytes())
    content[208:214] = name + bytes.fromhex(stamp)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=True) as other:
            data, voxel_A = np.array(other.data), float(other.voxel_size.x)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    assert volume.voxel_A == pytest.approx(voxel_A)


def test_threads_that_read_headers_leave_the_programs_warnings_alone(tmp_path):
    path = write_mrc(tmp_path / "a.mrcs", numbers((2, 4, 4)))
    content = bytearray(path.read_bytes())
    content[208:212] = b"what"  # which the mrcfile package warns of
    path.write_bytes(content)
    seen, before = set(), list(warnings.filters)

    def read(_):
        read_stack_header(path)
        seen.add(tuple(warnings.filters) == tuple(before))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(400)))
    assert (seen, list(warnings.filters)) == ({True}, before)


@pytest.mark.parametrize("length", [4, 1024, 1331])
def test_images_start_behind_the_extended_header(tmp_path, length):
    images = numbers((2, 4, 4))
    header = read_stack_header(write_mrc(tmp_path / "a.mrcs", images, extended=b"x" * length))
    assert header.offset_bytes == 1024 + length
    np.testing.assert_array_equal(header.read(), images)


def test_height_and_width_are_told_apart(tmp_path):
    header = read_stack_header(write_mrc(tmp_path / "a.mrcs", numbers((1, 4, 6))))
    assert header.size_yx_px == (4, 6)


def test_images_are_read_to_their_places_and_no_others(tmp_path):
    images = numbers((5, 4, 4))
    header = read_stack_header(write_mrc(tmp_path / "a.mrcs", images))
    out = np.full((4, 4, 4), 7, np.float32)
    header.read_images(OpenFiles(), np.array([4, 0, 4]), out, np.array([3, 0, 1]))
    np.testing.assert_array_equal(out, [images[0], images[4], np.full((4, 4), 7), images[4]])


@pytest.mark.parametrize("byte_order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [4, 190])  # more pixels than are converted at a time
def test_chosen_images_are_those_of_the_whole_stack_in_any_precision(
    tmp_path, monkeypatch, kind, byte_order, size
):
    # Some images in several parts.
    monkeypatch.setattr(raw_stack, "_CONVERTED_BYTES", 3 * size * size)
    images = numbers((7, size, size), kind)
    header = read_stack_header(write_mrc(tmp_path / "a.mrcs", images, byte_order=byte_order))
    indices = np.array([6, 1, 2, 3, 4, 0, 3])
    out = np.empty((7, size, size), np.float32)
    header.read_images(OpenFiles(), indices, out, np.arange(7))
    np.testing.assert_array_equal(out, images[indices].astype(np.float32))


def test_all_numbers_of_half_precision_are_those_of_single_precision(tmp_path):
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 256, 256)
    header = read_stack_header(write_mrc(tmp_path / "a.mrcs", values))
    out = np.empty((1, 256, 256), np.float32)
    header.read_images(OpenFiles(), np.array([0]), out, np.array([0]))
    np.testing.assert_array_equal(out, values.astype(np.float32))
    assert np.signbit(out[0, 128, 0])  # minus zero


def test_a_header_without_sampling_says_zero(tmp_path):
    path = write_mrc(tmp_path / "a.mrcs", numbers((2, 4, 4)), pixel_A=0.0)
    assert read_stack_header(path).pixel_A == 0


@pytest.mark.parametrize("pixel_A", [float("nan"), float("inf"), -1.0])
def test_a_senseless_sampling_counts_as_none(tmp_path, pixel_A):
    path = write_mrc(tmp_path / "a.mrcs", numbers((2, 4, 4)), pixel_A=pixel_A)
    assert read_stack_header(path).pixel_A == 0


@pytest.mark.parametrize(("keep", "whole"), [(0, 0), (63, 0), (64, 1), (127, 1), (191, 2)])
def test_a_truncated_stack_is_refused_and_its_whole_images_are_counted(tmp_path, keep, whole):
    path = write_mrc(tmp_path / "a.mrcs", numbers((3, 4, 4)), extended=b"x" * 8)
    path.write_bytes(path.read_bytes()[: 1024 + 8 + keep])
    with refused("a.mrcs: truncated", "3 images of 4×4 pixels", f"{whole} are whole"):
        read_stack_header(path)


def test_bytes_behind_the_last_image_do_no_harm(tmp_path):
    images = numbers((2, 4, 4))
    path = write_mrc(tmp_path / "a.mrcs", images)
    path.write_bytes(path.read_bytes() + b"x" * 10)
    np.testing.assert_array_equal(read_stack_header(path).read(), images)


@pytest.mark.parametrize("size", [0, 1, 1023])
@pytest.mark.parametrize("read", [read_stack_header, read_volume])
def test_a_file_shorter_than_a_header_is_refused(tmp_path, read, size):
    path = tmp_path / "a.mrc"
    path.write_bytes(bytes(size))
    with refused(f"a.mrc: {size} bytes are too few"):
        read(path)


@pytest.mark.parametrize("content", [b"hello world\n" * 200, b"\xff" * 3000])
@pytest.mark.parametrize("read", [read_stack_header, read_volume])
def test_a_file_that_is_not_mrc_is_refused_as_such(tmp_path, read, content):
    path = tmp_path / "a.mrc"
    path.write_bytes(content)
    with refused("a.mrc: not an MRC file"):
        read(path)


def test_a_file_of_zeros_is_refused(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_bytes(bytes(2000))
    with refused("a.mrc: header gives size 0×0×0"):
        read_stack_header(path)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_compressed_file_is_refused_with_advice(tmp_path, compress):
    path = write_mrc(tmp_path / "a.mrc.z", numbers((8, 16, 16)))
    path.write_bytes(compress(path.read_bytes()))
    with refused("a.mrc.z: the file is compressed", "Decompress"):
        read_stack_header(path)


@pytest.mark.parametrize("mode", [3, 4, 101])
def test_other_modes_of_mrc_are_refused_by_number(tmp_path, mode):
    path = write_mrc(tmp_path / "a.mrc", numbers((2, 4, 4)))
    content = bytearray(path.read_bytes())
    content[12:16] = struct.pack("<i", mode)
    path.write_bytes(content)
    with refused(f"a.mrc: MRC mode {mode} is not supported", "float32"):
        read_stack_header(path)


@pytest.mark.parametrize("read", [read_stack_header, read_volume])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, read):
    with refused("gone.mrc: no such"):
        read(tmp_path / "gone.mrc")
    with refused(f"{tmp_path}: is a folder"):
        read(tmp_path)
    with refused("cannot be read"):
        read(tmp_path / ("x" * 300))


@pytest.mark.parametrize("size", [5, 6])
@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3))))
def test_maps_of_any_axis_order_come_out_as_z_y_x(tmp_path, axes, size):
    volume = numbers((size, size, size))
    columns, rows, sections = axes
    stored = volume.transpose([3 - sections, 3 - rows, 3 - columns])
    read = read_volume(write_mrc(tmp_path / "a.mrc", stored, axes=axes))
    np.testing.assert_array_equal(read.data.numpy(), volume)
    assert read.voxel_A == pytest.approx(1.5)
    assert read.size_px == size


@pytest.mark.parametrize("axes", [(0, 0, 0), (1, 1, 3)])
def test_senseless_axis_numbers_count_as_the_usual_order(tmp_path, axes):
    volume = numbers((4, 4, 4))
    read = read_volume(write_mrc(tmp_path / "a.mrc", volume, axes=axes))
    np.testing.assert_array_equal(read.data.numpy(), volume)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_all_modes_are_read_as_float32(tmp_path, kind):
    volume = numbers((4, 4, 4), kind)
    read = read_volume(write_mrc(tmp_path / "a.mrc", volume, byte_order=">"))
    assert read.data.dtype == torch.float32
    np.testing.assert_array_equal(read.data.numpy(), volume.astype(np.float32))


@pytest.mark.parametrize("shape", [(4, 4, 5), (4, 5, 4), (5, 4, 4), (1, 4, 4)])
def test_a_map_that_is_not_a_cube_is_refused(tmp_path, shape):
    nz, ny, nx = shape
    with refused(f"a.mrc: the map is not cubic ({nx}×{ny}×{nz} voxels)"):
        read_volume(write_mrc(tmp_path / "a.mrc", numbers(shape)))


def test_a_map_without_voxel_size_is_refused_unless_it_is_given(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", numbers((4, 4, 4)), pixel_A=0.0)
    with refused("a.mrc: the header has no voxel size", "Set it in the header."):
        read_volume(path)
    with refused("a.mrc: the header has no voxel size", "or give --reference-voxel-angstrom"):
        read_volume(path, voxel_option="--reference-voxel-angstrom")
    assert read_volume(path, voxel_A=2.5).voxel_A == 2.5


def test_voxels_that_are_not_cubes_are_refused_unless_their_size_is_given(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(numbers((4, 4, 4)).astype(np.float32))
        file.voxel_size = (2.0, 2.0, 2.5)
    with refused("a.mrc: voxels of 2 × 2 × 2.5 Å are not cubes", "Resample"):
        read_volume(tmp_path / "a.mrc")
    assert read_volume(tmp_path / "a.mrc", voxel_A=2.0).voxel_A == 2.0


def test_a_given_voxel_size_wins_over_the_header(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", numbers((4, 4, 4)), pixel_A=1.0)
    assert read_volume(path, voxel_A=2.5).voxel_A == 2.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_with_a_value_that_is_not_finite_is_refused(tmp_path, value):
    volume = numbers((4, 4, 4))
    volume[1, 2, 3] = value
    with refused("a.mrc: the map holds NaN or infinite values"):
        read_volume(write_mrc(tmp_path / "a.mrc", volume))


def test_a_truncated_map_is_refused(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", numbers((4, 4, 4)))
    path.write_bytes(path.read_bytes()[:-1])
    with refused("a.mrc: truncated"):
        read_volume(path)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(size=st.integers(1, 9), voxel_A=st.floats(0.1, 20), seed=st.integers(0, 2**31))
def test_written_maps_read_back_bit_by_bit_with_their_voxel_size(tmp_path, size, voxel_A, seed):
    volume = torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))
    write_volume(tmp_path / "a.mrc", volume, voxel_A)
    read = read_volume(tmp_path / "a.mrc")
    assert torch.equal(read.data, volume)
    assert read.voxel_A == pytest.approx(voxel_A, rel=1e-6)


def test_a_double_or_strided_map_is_written_as_float32(tmp_path):
    volume = torch.randn(4, 4, 4, dtype=torch.float64).permute(2, 0, 1)
    write_volume(tmp_path / "a.mrc", volume, 1.0)
    assert torch.equal(read_volume(tmp_path / "a.mrc").data, volume.float())


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_written_stacks_read_back_in_their_precision(tmp_path, half, size, n):
    images = torch.randn(n, size, size, generator=torch.Generator().manual_seed(0))
    write_stack(tmp_path / "a.mrcs", images, 1.25, half=half)
    header = read_stack_header(tmp_path / "a.mrcs")
    assert header.n_images == n
    assert header.dtype == (np.float16 if half else np.float32)
    assert header.pixel_A == pytest.approx(1.25)
    np.testing.assert_array_equal(header.read(), images.numpy().astype(header.dtype))
    with mrcfile.open(tmp_path / "a.mrcs") as other:
        assert (other.header.ispg, other.header.mz) == (0, 1)  # images, not a volume


def test_written_files_satisfy_the_mrcfile_validator(tmp_path):
    write_volume(tmp_path / "a.mrc", torch.randn(6, 6, 6), 1.5)
    write_stack(tmp_path / "a.mrcs", torch.randn(2, 6, 6), 1.5, half=True)
    assert mrcfile.validate(tmp_path / "a.mrc")
    assert mrcfile.validate(tmp_path / "a.mrcs")


def test_a_failure_while_writing_leaves_the_old_map(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.mrc"
    write_volume(path, torch.ones(4, 4, 4), 1.0)
    monkeypatch.setattr("cryorefine.io.atomic.os.replace", broken)
    with pytest.raises(OSError, match="No space left"):
        write_volume(path, torch.zeros(4, 4, 4), 1.0)
    monkeypatch.undo()
    assert torch.equal(read_volume(path).data, torch.ones(4, 4, 4))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "voxel_A"), [("EMD-3197.map", 11.4), ("betaGal.mrc", 3.54)])
def test_real_maps_read_as_the_mrcfile_package_reads_them(shared_data, name, voxel_A):
    path = shared_data / "maps" / name
    volume = read_volume(path)
    with mrcfile.open(path, permissive=True) as other:
        np.testing.assert_array_equal(volume.data.numpy(), other.data)
    assert volume.voxel_A == pytest.approx(voxel_A, rel=1e-4)


def test_real_float16_particles_are_read(shared_data):
    header = read_stack_header(shared_data / "apoferritin_10146" / "particles.mrcs")
    assert (header.n_images, header.size_yx_px, header.dtype) == (1344, (128, 128), np.float16)
    assert header.pixel_A == pytest.approx(1.5)
    assert np.isfinite(header.read()[-1]).all()


def test_a_map_that_finds_no_room_leaves_no_file_open(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    before = len(os.listdir("/dev/fd"))
    try:
        with pytest.raises(OSError, match=r"map\.mrc") as held:
            write_volume(tmp_path / "map.mrc", torch.ones(16, 16, 16), 1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert held.tb is not None  # who looks at the error keeps all that it came through
    assert len(os.listdir("/dev/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    for read in (read_volume, read_stack_header):
        with refused("pipe.mrc: is a pipe or a device"):
            read(tmp_path / "pipe.mrc")
