import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryorefine.io import open_files
from cryorefine.particles import images as images_module
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.images import open_images
from tests.builders import (
    line_of,
    optics_columns,
    particle_columns,
    refused,
    write_mrc,
    write_particle_star,
)

SIZES = (3, 1, 4)


def value(stack, image):
    """Return what every pixel of an image is set to."""
    return 100.0 * stack + image


def write_stacks(folder: Path, *, box_px: int = 8) -> list[str]:
    """Write three stacks of constant images in several precisions; return all image names."""
    names = []
    for stack, (n, kind, order) in enumerate(zip(SIZES, ("f4", "f2", "i2"), "<<>", strict=True)):
        content = np.arange(n)[:, None, None] + np.full((n, box_px, box_px), 100.0 * stack)
        write_mrc(folder / f"s{stack}.mrcs", content.astype(kind), byte_order=order)
        names += [f"{i + 1:06d}@s{stack}.mrcs" for i in range(n)]
    return names


def table_of(folder, names, optics=None, **changes):
    columns = particle_columns(len(names), rlnImageName=list(names), **changes)
    return read_relion(write_particle_star(folder / "p.star", columns, optics))


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """Eight particles of three stacks in mixed order, two of them one image."""
    folder = tmp_path_factory.mktemp("stacks")
    names = write_stacks(folder)
    order = [7, 0, 3, 2, 6, 0, 4, 1]
    table, source = open_images(table_of(folder, [names[i] for i in order]))
    pairs = [(s, i) for s, n in enumerate(SIZES) for i in range(n)]
    return table, source, np.array([value(*pairs[i]) for i in order])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.integers(0, 7), min_size=1, max_size=20))
def test_images_come_in_the_order_of_the_rows_asked_for(stacks, rows):
    _, source, values = stacks
    images = source.read(np.array(rows))
    assert images.dtype == torch.float32
    assert images.shape == (len(rows), 8, 8)
    expected = np.broadcast_to(values[rows][:, None, None], images.shape)
    np.testing.assert_array_equal(images.numpy(), expected)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(st.integers(0, 7), max_size=20), size=st.integers(1, 25))
def test_batches_together_are_what_read_returns(stacks, rows, size):
    _, source, _ = stacks
    rows = np.array(rows, np.int64)
    batches = list(source.batches(rows, size))
    assert [len(part) for part, _ in batches[:-1]] == [size] * (len(batches) - 1)
    assert np.concatenate([part for part, _ in batches] or [rows]).tolist() == rows.tolist()
    for part, images in batches:
        assert torch.equal(images, source.read(part))


def test_batches_that_nobody_finishes_do_no_harm(stacks):
    _, source, values = stacks
    for _, images in source.batches(np.arange(8), 2):
        assert images[0, 0, 0] == values[0]
        break
    assert source.read(np.array([7]))[0, 0, 0] == values[7]


def test_what_is_read_may_be_changed_without_changing_the_file(stacks):
    _, source, values = stacks
    source.read(np.array([0])).zero_()
    assert source.read(np.array([0]))[0, 0, 0] == values[0]


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that are opened to read images, in order."""
    names: list[str] = []
    original = open_files.OpenFile.__init__

    def noted(self, path: Path) -> None:
        names.append(path.name)
        original(self, path)

    monkeypatch.setattr(open_files.OpenFile, "__init__", noted)
    return names


def test_stacks_are_opened_only_when_they_are_read_and_only_once(tmp_path, opened):
    _, source = open_images(table_of(tmp_path, write_stacks(tmp_path)))
    assert opened == []
    source.read(np.array([3]))
    source.read(np.array([3]))
    assert opened == ["s1.mrcs"]
    source.read(np.arange(8))
    assert sorted(opened) == ["s0.mrcs", "s1.mrcs", "s2.mrcs"]


def test_the_stack_that_was_read_least_recently_is_let_go_first(tmp_path, monkeypatch, opened):
    monkeypatch.setattr(open_files, "_MAX_OPEN", 2)
    _, source = open_images(table_of(tmp_path, write_stacks(tmp_path)))
    in_stack = {0: 0, 1: 3, 2: 4}
    for stack in (0, 1, 0, 2, 0, 1):
        source.read(np.array([in_stack[stack]]))
    assert opened == ["s0.mrcs", "s1.mrcs", "s2.mrcs", "s1.mrcs"]


@pytest.mark.parametrize("most", [1, 2])
def test_more_stacks_than_may_be_open_are_read_all_the_same(tmp_path, monkeypatch, most):
    monkeypatch.setattr(open_files, "_MAX_OPEN", most)
    _, source = open_images(table_of(tmp_path, write_stacks(tmp_path)))
    rows = np.array([0, 7, 3, 1, 4, 2])
    for _ in range(2):
        assert source.read(rows)[:, 0, 0].tolist() == [0.0, 203.0, 100.0, 1.0, 200.0, 2.0]


def test_a_selection_of_particles_reads_its_own_images(stacks):
    table, source, values = stacks
    chosen = images_module.ImageSource(table.select(np.array([6, 2])), source.headers)
    assert chosen.read(np.array([0, 1]))[:, 0, 0].tolist() == [values[6], values[2]]


@pytest.mark.parametrize("box_px", [7, 8])
def test_a_box_size_that_the_file_lacks_is_taken_from_the_stack(tmp_path, box_px):
    names = write_stacks(tmp_path, box_px=box_px)
    table, source = open_images(table_of(tmp_path, names, optics_columns(1, rlnImageSize=None)))
    assert table.optics[0].box_px == box_px
    assert source.read(np.array([0])).shape == (1, box_px, box_px)


def test_a_missing_stack_names_the_line_that_asks_for_it(tmp_path):
    names = [*write_stacks(tmp_path), "000001@gone.mrcs"]
    table = table_of(tmp_path, names)
    line = line_of(tmp_path / "p.star", "gone.mrcs")
    with refused(f"{tmp_path / 'gone.mrcs'}", "no such", f"p.star, line {line}"):
        open_images(table)


def test_a_damaged_stack_names_the_line_that_asks_for_it(tmp_path):
    names = write_stacks(tmp_path)
    path = tmp_path / "s1.mrcs"
    path.write_bytes(path.read_bytes()[:-1])
    table = table_of(tmp_path, names)
    line = line_of(tmp_path / "p.star", "s1.mrcs")
    with refused("s1.mrcs", "truncated", f"p.star, line {line}"):
        open_images(table)


def test_an_image_number_beyond_the_end_of_its_stack_is_refused_by_line(tmp_path):
    table = table_of(tmp_path, [*write_stacks(tmp_path), "000002@s1.mrcs"])
    line = line_of(tmp_path / "p.star", "000002@s1.mrcs")
    with refused(f"p.star, line {line}, column _rlnImageName", "image 2 is beyond", "has 1 images"):
        open_images(table)


def test_the_last_image_of_a_stack_is_not_beyond_its_end(tmp_path):
    write_stacks(tmp_path)
    _, source = open_images(table_of(tmp_path, ["000004@s2.mrcs"]))
    assert source.read(np.array([0]))[0, 0, 0] == value(2, 3)


def test_images_that_are_not_square_are_refused(tmp_path):
    write_mrc(tmp_path / "s.mrcs", np.zeros((2, 6, 8), "f4"))
    with refused("s.mrcs: images of 8×6 pixels are not square"):
        open_images(table_of(tmp_path, ["000001@s.mrcs"]))


@pytest.mark.parametrize("size_in_file", [8, None])
def test_images_of_another_box_in_an_optics_group_are_refused_by_line(tmp_path, size_in_file):
    names = write_stacks(tmp_path)
    write_mrc(tmp_path / "other.mrcs", np.zeros((1, 10, 10), "f4"))
    optics = optics_columns(1, rlnImageSize=size_in_file, rlnOpticsGroupName="mine")
    table = table_of(tmp_path, [*names, "000001@other.mrcs"], optics)
    line = line_of(tmp_path / "p.star", "other.mrcs")
    with refused(f"line {line}", "other.mrcs", "images of 10 pixels", "'mine'", "have 8"):
        open_images(table)


def test_images_of_another_box_in_a_group_of_their_own_are_fine(tmp_path):
    names = write_stacks(tmp_path)
    write_mrc(tmp_path / "other.mrcs", np.zeros((1, 10, 10), "f4"), pixel_A=1.2)
    optics = optics_columns(2, rlnImageSize=[8, 10], rlnImagePixelSize=[1.5, 1.2])
    groups = [1] * len(names) + [2]
    table = table_of(tmp_path, [*names, "000001@other.mrcs"], optics, rlnOpticsGroup=groups)
    table, source = open_images(table)
    assert [g.box_px for g in table.optics] == [8, 10]
    assert source.read(np.array([len(names)])).shape == (1, 10, 10)


def two_pixel_sizes(folder, first_A, second_A):
    for name, pixel_A in (("a", first_A), ("b", second_A)):
        write_mrc(folder / f"{name}.mrcs", np.zeros((1, 8, 8), "f4"), pixel_A=pixel_A)
    return table_of(folder, ["000001@a.mrcs", "000001@b.mrcs"])


def test_headers_of_other_pixel_sizes_in_an_optics_group_are_refused(tmp_path):
    with refused("opticsGroup1", "1.5 Å", "a.mrcs", "1.6 Å", "b.mrcs", "group of their own"):
        open_images(two_pixel_sizes(tmp_path, 1.5, 1.6))


@pytest.mark.parametrize("second_A", [0.0, 1.505], ids=["none", "rounded"])
def test_headers_without_or_with_rounded_pixel_sizes_are_accepted(tmp_path, second_A):
    table, _ = open_images(two_pixel_sizes(tmp_path, 1.5, second_A))
    assert len(table) == 2


@pytest.mark.parametrize(("size_in_file", "box_px"), [(None, 8), ([8, 10], 10)])
def test_an_optics_group_without_particles_is_kept_and_has_a_box(tmp_path, size_in_file, box_px):
    optics = optics_columns(2, rlnImageSize=size_in_file)
    table, _ = open_images(table_of(tmp_path, write_stacks(tmp_path), optics))
    assert [g.box_px for g in table.optics] == [8, box_px]


def test_a_pickled_source_opens_the_files_anew_and_reads_the_same(stacks, opened):
    _, source, values = stacks
    source.read(np.arange(8))
    opened.clear()
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(np.arange(8))[:, 0, 0].tolist() == values.tolist()
    assert len(opened) == 3


@pytest.mark.parametrize("box_px", [8, 96])
def test_a_stack_that_is_cut_short_while_it_is_read_is_refused_by_its_name(tmp_path, box_px):
    names = write_stacks(tmp_path, box_px=box_px)
    _, source = open_images(table_of(tmp_path, names, optics_columns(rlnImageSize=box_px)))
    source.read(np.arange(8))
    os.truncate(tmp_path / "s2.mrcs", 1024 + 2 * box_px**2 + 5)
    with refused("s2.mrcs: truncated", f"4 images of {box_px}×{box_px} pixels, 1 are whole"):
        source.read(np.arange(8))
    os.truncate(tmp_path / "s2.mrcs", 0)
    with refused("s2.mrcs: truncated", "0 are whole"):
        list(source.batches(np.arange(8), 3))


def test_a_stack_that_ends_within_a_read_is_refused_and_never_half_read(stacks, monkeypatch):
    _, source, _ = stacks
    monkeypatch.setattr(open_files.OpenFile, "size_bytes", 1 << 40)  # as it was a moment ago
    monkeypatch.setattr(os, "preadv", lambda *_: 0, raising=False)
    with refused("s2.mrcs: ended too early while it was read", "resume"):
        source.read(np.array([0]))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_file_that_is_lost_while_it_is_read_is_refused_by_its_name(stacks, monkeypatch, number):
    def lost(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    _, source, _ = stacks
    monkeypatch.setattr(os, "preadv", lost, raising=False)
    with refused(f"s2.mrcs: cannot be read any more ({os.strerror(number)})", "resume"):
        source.read(np.array([0]))


def test_a_file_that_vanished_before_it_was_opened_is_refused_by_its_name(tmp_path):
    _, source = open_images(table_of(tmp_path, write_stacks(tmp_path)))
    (tmp_path / "s1.mrcs").unlink()
    with refused("s1.mrcs: cannot be read any more (No such file"):
        source.read(np.array([3]))
