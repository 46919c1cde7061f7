"""Image stacks in other formats than MRC hold the same numbers, at the same places."""

import builtins
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from cryorefine.io.mrc import read_volume
from cryorefine.io.open_files import OpenFiles
from cryorefine.io.open_stack import open_stack
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.images import open_images
from tests.builders import particle_columns, refused, write_particle_star
from tests.io.stack_writers import (
    WRITERS,
    spider_header,
    write_eman,
    write_spider_map,
    write_tiff,
)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("size_px", [5, 24, 100])
def test_any_images_in_any_order_are_those_that_were_written(name, size_px, tmp_path):
    rng = np.random.default_rng(size_px)
    images = rng.standard_normal((7, size_px, size_px)).astype(np.float32)
    path = tmp_path / "images.any"  # what it is shows in the file alone
    WRITERS[name](path, images)
    stack = open_stack(path)
    assert (stack.n_images, stack.size_yx_px) == (7, (size_px, size_px))
    stack = pickle.loads(pickle.dumps(stack))  # as it goes to worker processes
    indices, places = np.array([6, 0, 1, 2, 2]), np.array([1, 0, 4, 2, 3])
    out = np.full((6, size_px, size_px), 9.0, np.float32)
    stack.read_images(OpenFiles(), indices, out, places)
    assert np.array_equal(out[places], images[indices])
    assert (out[5] == 9).all()


def test_images_that_are_not_square_keep_lines_and_columns_apart(tmp_path):
    images = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)
    for name, write in WRITERS.items():
        write(tmp_path / "images", images)
        stack = open_stack(tmp_path / "images")
        assert stack.size_yx_px == (3, 8), name
        out = np.zeros((2, 3, 8), np.float32)
        stack.read_images(OpenFiles(), np.arange(2), out, np.arange(2))
        assert np.array_equal(out, images), name


@pytest.mark.parametrize("name", ["eman", "tiff"])
@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "float64"])
def test_other_precisions_are_converted(name, kind, tmp_path):
    images = np.arange(2 * 6 * 6).reshape(2, 6, 6).astype(kind)
    WRITERS[name](tmp_path / "images", images)
    out = np.zeros((2, 6, 6), np.float32)
    open_stack(tmp_path / "images").read_images(OpenFiles(), np.arange(2), out, np.arange(2))
    assert np.array_equal(out, images.astype(np.float32))


def test_the_header_of_spider_is_as_long_as_whole_lines():
    assert len(spider_header(64, 64, 1, 1, "<")) == 1024
    assert len(spider_header(100, 100, 1, 1, "<")) == 1200


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_spider_map_is_read_with_the_voxel_size_that_is_given(order, tmp_path):
    volume = np.random.default_rng(0).standard_normal((9, 9, 9)).astype(np.float32)
    write_spider_map(tmp_path / "start.vol", volume, order)
    read = read_volume(tmp_path / "start.vol", voxel_A=3.0)
    assert np.array_equal(read.data.numpy(), volume)
    assert read.voxel_A == 3.0
    with refused("start.vol", "no voxel size"):
        read_volume(tmp_path / "start.vol")


def test_the_pixel_size_of_eman_is_that_of_its_header(tmp_path):
    write_eman(tmp_path / "images.hdf", np.zeros((1, 4, 4), np.float32), 1.25)
    assert open_stack(tmp_path / "images.hdf").pixel_A == 1.25


def test_files_that_hold_no_images_are_refused_with_what_they_hold(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["entry/data"] = np.zeros((2, 4, 4))
    with refused("other.h5", "EMAN"):
        open_stack(tmp_path / "other.h5")
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    with refused("colour.tif", "no grey images"):
        open_stack(tmp_path / "colour.tif")
    write_tiff(tmp_path / "sizes.tif", [np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)])
    with refused("sizes.tif", "page 2 has another size"):
        open_stack(tmp_path / "sizes.tif")
    write_spider_map(tmp_path / "map.vol", np.zeros((5, 5, 5), np.float32))
    with refused("map.vol"):
        open_stack(tmp_path / "map.vol")
    with refused("nowhere.mrcs", "no such"):
        open_stack(tmp_path / "nowhere.mrcs")
    with refused("is a folder"):
        open_stack(tmp_path)


@pytest.mark.parametrize(("name", "package"), [("eman", "h5py"), ("tiff", "tifffile")])
def test_a_package_that_is_not_installed_is_asked_for(name, package, tmp_path, monkeypatch):
    WRITERS[name](tmp_path / "images", np.zeros((1, 4, 4), np.float32))
    real = builtins.__import__

    def without(module, *arguments, **more):
        if module == package:
            raise ImportError(module)
        return real(module, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with refused(f"needs the package {package}", "cryorefine[stacks]"):
        open_stack(Path(tmp_path / "images"))


def test_particles_of_several_kinds_of_stacks_are_read_as_one_set(tmp_path):
    rng = np.random.default_rng(3)
    names, written = [], []
    for i, (_, write) in enumerate(sorted(WRITERS.items())):
        images = rng.standard_normal((2, 8, 8)).astype(np.float32)
        write(tmp_path / f"stack{i}.any", images)
        names += [f"1@stack{i}.any", f"2@stack{i}.any"]
        written.append(images)
    columns = particle_columns(len(names), rlnImageName=names)
    table = read_relion(write_particle_star(tmp_path / "p.star", columns, None))
    order = rng.permutation(len(names))
    _, images = open_images(table)
    assert np.array_equal(images.read(order).numpy(), np.concatenate(written)[order])
