"""Damaged files of every format: each is read or refused in one line, in little memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cryorefine.formats.cryodrgn import CryodrgnFormat
from cryorefine.formats.registry import FORMATS, format_of
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.table import ParticleTable
from tests.builders import refused
from tests.formats.sets import full_table
from tests.robustness.damage import damaged_star
from tests.robustness.judged import case_count, problem_of_call

FILES = {"relion": "p.star", "cryosparc": "p.cs", "xmipp": "p.xmd", "cistem": "c.star",
         "cryodrgn": "poses.pkl"}  # fmt: skip
ANY = ReadOptions()
_MAX_BYTES = 100e6
"""Of memory while a file of a few kilobytes is read."""


def damaged_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Return binary content with one to four bytes, words or pieces changed, or another length."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(0, max(1, len(changed))))
        match int(random.integers(6)):
            case 0 if changed:
                changed[at] = int(random.integers(256))
            case 1:
                changed[at : at + 4] = random.bytes(4)
            case 2:
                changed[at : at + 4] = np.array(2**31 - 1, "<u4").tobytes()
            case 3:
                del changed[at:]
            case 4:
                changed[at:at] = changed[at : at + int(random.integers(1, 60))]
            case 5:  # a digit or a letter of a header
                head = at % min(len(changed) or 1, 600)
                changed[head : head + 1] = b"0123456789,()'|<>fuSO"[int(random.integers(21)) :][:1]
    return bytes(changed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    table = full_table(folder)
    for one in FORMATS:
        one.write(folder / FILES[one.name], table)
    return folder


def assert_computable(table: ParticleTable) -> None:
    """What is read must be numbers, as many as there are particles."""
    n = len(table)
    assert n > 0
    for name in ("euler_rad", "shift_A", "defocus_u_A", "ctf_scale", "phase_shift_rad"):
        values = getattr(table, name)
        assert len(values) == n
        assert np.isfinite(values).all(), name
    assert (table.image_index >= 0).all()


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused(folder, name):
    valid = (folder / FILES[name]).read_bytes()
    path = folder / FILES[name]
    is_text = path.suffix in (".star", ".xmd")
    random = np.random.default_rng(11)
    problems = []
    one = next(f for f in FORMATS if f.name == name)
    tracemalloc.start()
    try:
        for i in range(case_count(100)):
            damage = damaged_star if is_text else damaged_bytes
            path.write_bytes(damage(valid, random))
            problem = problem_of_call(lambda: assert_computable(one.read(path, ANY).table))
            problems += [f"case {i}: {problem}"] if problem else []
            problem = problem_of_call(lambda: format_of(path))
            problems += [f"case {i}, recognised: {problem}"] if problem else []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        path.write_bytes(valid)
    assert not problems, "\n".join(problems)
    assert peak < _MAX_BYTES


@pytest.mark.parametrize("name", ["cryosparc", "cryodrgn"])
def test_binary_files_that_are_cut_short_anywhere_are_refused(folder, name):
    path = folder / FILES[name]
    valid = path.read_bytes()
    one = next(f for f in FORMATS if f.name == name)
    try:
        for length in (0, 1, 5, 9, 64, len(valid) // 2, len(valid) - 1):
            path.write_bytes(valid[:length])
            with refused(str(path)):
                one.read(path, ReadOptions())
    finally:
        path.write_bytes(valid)


def test_a_cs_file_of_objects_or_with_a_row_too_many_is_refused(folder):
    path = folder / "odd.cs"
    table = np.load(folder / "p.cs")
    valid = (folder / "p.cs").read_bytes()
    path.write_bytes(valid.replace(b"(12,)", b"(13,)"))
    with refused("13 rows", "copied whole"):
        format_of(path).read(path, ReadOptions())
    objects = np.array([(1, "a")], [("uid", "<u8"), ("blob/path", object)])
    np.save(folder / "odd.npy", objects, allow_pickle=True)
    with refused("no table of numbers and words"):
        one = folder / "odd.npy"
        format_of(one).read(one, ReadOptions())
    np.save(folder / "one.npy", table["uid"])
    with refused("no table of numbers"):
        one = folder / "one.npy"
        format_of(one).read(one, ReadOptions())


class Bomb:
    """Would make a file if a pickle of it were loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_pickle_is_executed(folder, tmp_path):
    import pickle

    for i, content in enumerate((Bomb(tmp_path / "done"), (np.eye(3)[None], Bomb(tmp_path / "x")))):
        path = tmp_path / f"{i}_poses.pkl"
        path.write_bytes(pickle.dumps(content))
        with refused(str(path), "more than arrays of numbers"):
            CryodrgnFormat().read(path, ReadOptions())
    assert not (tmp_path / "done").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_arrays_of_every_protocol_and_byte_order_are_read(tmp_path, protocol, dtype):
    import pickle

    from cryorefine.formats.numpy_pickle import read_arrays

    first = np.random.default_rng(1).normal(size=(4, 3, 3)).astype(dtype)
    second = np.asfortranarray(np.arange(8.0).reshape(4, 2))
    for content in ((first, second), [first, second]):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_arrays(tmp_path / "a.pkl")
        np.testing.assert_array_equal(found[0], first)
        np.testing.assert_array_equal(found[1], second)
