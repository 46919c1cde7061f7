"""Damaged image stacks of every format: each is read or refused in one line, in little memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cryorefine.errors import InputError
from cryorefine.io.open_files import OpenFiles
from cryorefine.io.open_stack import open_stack
from tests.builders import refused
from tests.io.stack_writers import WRITERS, write_eman, write_tiff
from tests.robustness.damage import damaged_bytes
from tests.robustness.judged import case_count, problem_of_call, within

_MAX_BYTES = 50e6
"""Of memory while a file of a few kilobytes is read."""

_LIMIT_S = 60
"""For a file that takes a hundredth of a second on an idle machine."""

IMAGES = np.random.default_rng(1).standard_normal((5, 8, 8)).astype(np.float32)


def read_some(path: Path) -> None:
    """Read the first image, the last and one between."""
    stack = open_stack(path)
    out = np.zeros((1, *stack.size_yx_px), np.float32)
    for index in {0, stack.n_images // 2, stack.n_images - 1}:
        stack.read_images(OpenFiles(), np.array([index]), out, np.array([0]))


def read_all(path: Path) -> np.ndarray:
    stack = open_stack(path)
    out = np.zeros((stack.n_images, *stack.size_yx_px), np.float32)
    indices = np.arange(stack.n_images)
    stack.read_images(OpenFiles(), indices, out, indices)
    return out


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_stacks_are_read_or_refused(name, tmp_path, capfd):
    path = tmp_path / "images"
    WRITERS[name](path, IMAGES)
    valid = path.read_bytes()
    random = np.random.default_rng(5)
    problems = []
    tracemalloc.start()
    try:
        for i in range(case_count(40)):
            path.write_bytes(damaged_bytes(valid, random))
            with within(_LIMIT_S):
                problem = problem_of_call(lambda: read_some(path))
            problems += [f"case {i}: {problem}"] if problem else []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not problems, "\n".join(problems)
    assert peak < _MAX_BYTES
    assert capfd.readouterr().err == ""  # libraries tell of what they find odd


@pytest.mark.parametrize("name", WRITERS)
def test_a_stack_cut_short_anywhere_is_refused_or_nothing_of_it_is_lost(name, tmp_path):
    path = tmp_path / "images"
    WRITERS[name](path, IMAGES)
    valid = path.read_bytes()
    step = max(1, len(valid) // case_count(40))
    silent = []
    for length in range(0, len(valid), step):
        path.write_bytes(valid[:length])
        try:
            found = read_all(path)
        except InputError:
            continue
        if not np.array_equal(found, IMAGES):
            silent.append(length)
    assert silent == []


def test_a_tiff_file_whose_pages_lead_nowhere_or_round_is_refused(tmp_path):
    path = tmp_path / "images.tif"
    write_tiff(path, IMAGES)
    valid = path.read_bytes()
    first = int.from_bytes(valid[4:8], "little")
    n_tags = int.from_bytes(valid[first : first + 2], "little")
    link = first + 2 + 12 * n_tags  # to the second page
    for target in (first, len(valid) + 1, len(valid) - 1):
        path.write_bytes(valid[:link] + target.to_bytes(4, "little") + valid[link + 4 :])
        with refused(str(path), "after page 1 the file leads to no other"):
            open_stack(path)
    path.write_bytes(valid[:link] + bytes(4) + valid[link + 4 :])  # which says that it ends
    assert open_stack(path).n_images == 1


def test_a_page_that_is_said_to_take_more_bytes_than_the_file_has_is_refused(tmp_path):
    path = tmp_path / "images.tif"
    write_tiff(path, IMAGES, compression="zlib")
    valid = path.read_bytes()
    first = int.from_bytes(valid[4:8], "little")
    tags = {
        int.from_bytes(valid[t : t + 2], "little"): t for t in range(first + 2, first + 182, 12)
    }
    count = tags[279] + 8  # the value of StripByteCounts
    path.write_bytes(valid[:count] + (1 << 30).to_bytes(4, "little") + valid[count + 4 :])
    with refused(str(path), "page 1 is said to take 1073741824 bytes"):
        open_stack(path)


def test_images_of_which_the_file_has_no_pixels_are_refused(tmp_path):
    path = tmp_path / "images.hdf"
    write_eman(path, IMAGES)
    import h5py

    with h5py.File(path, "r+") as file:
        del file["MDF/images/3/image"]
        file["MDF/images/3"].create_dataset("image", (8, 8), "f4", chunks=(8, 8))  # never written
    with refused(str(path), "image 4 is said to have 8×8 pixels, and 0 bytes"):
        read_all(path)
