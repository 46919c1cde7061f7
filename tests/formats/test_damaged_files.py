"""Damaged files of every format: each is read or refused in one line, in little memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.lib.recfunctions
import pytest

from cryorefine.errors import InputError
from cryorefine.formats.cryodrgn import CryodrgnFormat
from cryorefine.formats.registry import FORMATS, format_of
from cryorefine.particles.formats.read_options import ReadOptions
from cryorefine.particles.table import ParticleTable
from tests.builders import refused
from tests.formats.sets import full_table
from tests.robustness.damage import damaged_bytes, damaged_star
from tests.robustness.judged import case_count, problem_of_call, within

FILES = {"relion": "p.star", "cryosparc": "p.cs", "xmipp": "p.xmd", "cistem": "c.star",
         "cryodrgn": "poses.pkl"}  # fmt: skip
CASES = {
    **{name: (name, file, file) for name, file in FILES.items()},
    "a group of cryosparc": ("cryosparc", "J1.csg", "J1.csg"),
    "a passthrough file": ("cryosparc", "J1_particles.cs", "J1_passthrough_particles.cs"),
    "ctf.pkl": ("cryodrgn", "poses.pkl", "ctf.pkl"),
    "a ctfModel file": ("xmipp", "model.xmd", "model.ctfparam"),
}
"""Format, the file that is read, and the file that is damaged."""

ANY = ReadOptions()
_MAX_BYTES = 100e6
"""Of memory while a file of a few kilobytes is read."""

_LIMIT_S = 60
"""For a file that takes a hundredth of a second on an idle machine."""

_KNOWN = (".star", ".cs", ".csg", ".xmd", ".pkl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    table = full_table(folder)
    for one in FORMATS:
        one.write(folder / FILES[one.name], table)
    write_split(folder)
    write_model(folder)
    return folder


def write_split(folder: Path) -> None:
    """Write a table of cryoSPARC as two files and the group that names both."""
    whole = np.load(folder / "p.cs")
    later = [name for name in whole.dtype.names if name.startswith(("ctf/", "location/"))]
    text = "created: '2026-01-01'\ngroup:\n  name: particles\n  type: particle\nresults:\n"
    for names, file in (
        ([name for name in whole.dtype.names if name not in later], "J1_particles.cs"),
        (["uid", *later], "J1_passthrough_particles.cs"),
    ):
        with open(folder / file, "wb") as stream:
            np.save(stream, np.lib.recfunctions.repack_fields(whole[names]), allow_pickle=False)
        for slot in dict.fromkeys(name.partition("/")[0] for name in names if "/" in name):
            text += f"  {slot}:\n    metafile: '>{file}'\n    num_items: {len(whole)}\n"
            text += f"    type: particle.{slot}\n"
    (folder / "J1.csg").write_text(text + "version: v4.5.3\n")


def write_model(folder: Path) -> None:
    """Write a table of Xmipp whose rows name a file that has their CTF."""
    labels = {"ctfSamplingRate": 1.5, "ctfVoltage": 300, "ctfSphericalAberration": 2.7,
              "ctfQ0": 0.1, "ctfDefocusU": 12345.5, "ctfDefocusV": 12000.25,
              "ctfDefocusAngle": 30.5}  # fmt: skip
    head = "# XMIPP_STAR_1 * \n#\ndata_fullMicrograph\n"
    lines = [f" _{label} {value}\n" for label, value in labels.items()]
    (folder / "model.ctfparam").write_text(head + "".join(lines))
    rows = [f" {i}@stack0.mrcs  model.ctfparam  10.5 20.5 30.5 1.5 -2.5\n" for i in range(1, 6)]
    poses = ["angleRot", "angleTilt", "anglePsi", "shiftX", "shiftY"]
    columns = "".join(f" _{label}\n" for label in ("image", "ctfModel", *poses))
    text = f"# XMIPP_STAR_1 * \n#\ndata_noName\nloop_\n{columns}{''.join(rows)}"
    (folder / "model.xmd").write_text(text)


def assert_computable(table: ParticleTable) -> None:
    """What is read must be numbers, as many as there are particles."""
    n = len(table)
    assert n > 0
    for name in ("euler_rad", "shift_A", "defocus_u_A", "ctf_scale", "phase_shift_rad"):
        values = getattr(table, name)
        assert len(values) == n
        assert np.isfinite(values).all(), name
    assert (table.image_index >= 0).all()


@pytest.mark.parametrize("case", CASES)
def test_damaged_files_are_read_or_refused(folder, case):
    name, file, damaged = CASES[case]
    path = folder / damaged
    valid = path.read_bytes()
    is_binary = path.suffix in (".cs", ".pkl")
    random = np.random.default_rng(11)
    problems = []
    one = next(f for f in FORMATS if f.name == name)
    assert_computable(one.read(folder / file, ANY).table)
    tracemalloc.start()
    try:
        for i in range(case_count(100)):
            path.write_bytes((damaged_bytes if is_binary else damaged_star)(valid, random))
            with within(_LIMIT_S):
                problem = problem_of_call(
                    lambda: assert_computable(one.read(folder / file, ANY).table)
                )
                recognised = (
                    problem_of_call(lambda: format_of(path)) if path.suffix in _KNOWN else ""
                )
            problems += [f"case {i}: {problem}"] if problem else []
            problems += [f"case {i}, recognised: {recognised}"] if recognised else []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        path.write_bytes(valid)
    assert not problems, "\n".join(problems)
    assert peak < _MAX_BYTES


_ALL = (
    "euler_rad", "shift_A", "defocus_u_A", "defocus_angle_rad", "phase_shift_rad", "image_index",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_file_cut_short_anywhere_is_refused_or_told_of_or_nothing_is_lost(folder, case):
    name, file, cut = CASES[case]
    path = folder / cut
    valid = path.read_bytes()
    one = next(f for f in FORMATS if f.name == name)
    whole = one.read(folder / file, ANY).table
    assert not any("copied whole" in remark for remark in whole.remarks)
    silent = []
    last = len(valid) - 120
    try:
        for length in (
            *range(0, last, max(1, last // case_count(60))),
            *range(last, len(valid), 3),
        ):
            path.write_bytes(valid[:length])
            try:
                table = one.read(folder / file, ANY).table
            except InputError:
                continue
            if name == "xmipp" and valid[:length].rstrip(b" ").endswith(b"\n"):
                continue  # its files end after a row or a value, whichever is the last
            is_told = any("copied whole" in remark for remark in table.remarks)
            same = all(np.array_equal(getattr(table, k), getattr(whole, k)) for k in _ALL)
            if not (is_told or (same and table.names.tolist() == whole.names.tolist())):
                silent.append(length)
    finally:
        path.write_bytes(valid)
    assert silent == []


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
