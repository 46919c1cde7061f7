"""Run folders whose files are well-formed and say what no run would: hypothesis draws what."""

import copy
import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

__all__ = ["RECORDS", "npy", "odd_arrays", "odd_record", "write_npz"]

RECORDS = (
    "events.jsonl", "iteration_001/summary.json", "legs.json", "manifest.json", "published.json",
    "settings.toml", "summary.json",
)  # fmt: skip
"""Files of a run folder that hold text."""

VALUES: tuple[Any, ...] = (
    None, True, False, "", "a\0b", "../../x", "/dev/zero", "nan", -1, 0, 1, 2, 3, 7, 10**30,
    10**4000, 1e308, 1e-308, float("nan"), float("inf"), -0.5, [], {}, [[1]], {"a": {"b": [1]}},
    ["x"] * 50, "x" * 5000, "\N{ARABIC-INDIC DIGIT THREE}", "\ud800", "<script>", "none", 99999,
)  # fmt: skip
"""What an entry of a record may be instead."""

TEXTS = (
    "", "[]", "{}", "null", "1", '"a"', "[null]", "[[]]", "[{}]", "[" * 100_000, '{"a":' * 5000,
    "1" * 5000, "nan",
    '{"iteration": 1, "is_whole": true, "files": {"/dev/zero": {"size_bytes": 0}}}',
    '{"iteration": 1, "is_whole": true, "files": {"a\\u0000": {}}}', "\udcff", "a = 1", "[a]",
    "iterations = 0x" + "f" * 5000, "iterations = " + "1" * 5000, "alignment = 1979-05-27",
)  # fmt: skip
"""What a record may be as a whole."""


def odd_record(draw: Callable[[st.SearchStrategy[Any]], Any], name: str, text: str) -> str:
    """Return a record with one to three of its entries changed, or quite another one."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(TEXTS))
    if name.endswith(".toml"):
        return _odd_lines(draw, text)
    lines = text.splitlines() if name.endswith(".jsonl") else [text]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(_changed(draw, json.loads(lines[at])))
    return "\n".join(lines) + "\n"


def _odd_lines(draw: Callable[[st.SearchStrategy[Any]], Any], text: str) -> str:
    """Return settings with values that are others, or names that come twice or are none."""
    lines = text.splitlines()
    set_ = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(set_))
        value = json.dumps(draw(st.sampled_from(VALUES)))
        key = draw(st.sampled_from([lines[at].partition(" =")[0], "novel", '"a\\u0000"']))
        lines[at] = f"{key} = {value}" if draw(st.booleans()) else f"{lines[at]}\n{lines[at]}"
    return "\n".join(lines)


def _changed(draw: Callable[[st.SearchStrategy[Any]], Any], found: Any) -> Any:
    """Return a JSON value with one entry, at any depth, replaced, removed, doubled or new."""
    found = copy.deepcopy(found)
    places = list(_places(found))
    if not places:
        return draw(st.sampled_from(VALUES))
    holder, key = draw(st.sampled_from(places))
    match draw(st.integers(0, 5)):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw(st.sampled_from(["novel", "a\0b", "../x", ""]))] = holder[key]
        case 1:
            holder.append(holder[key])
        case _:
            holder[key] = draw(st.sampled_from(VALUES))
    return found


def _places(value: Any) -> Any:
    """Yield all entries within a JSON value, with what holds them."""
    if not isinstance(value, dict | list):
        return
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        yield from _places(value[key])


def odd_arrays(
    draw: Callable[[st.SearchStrategy[Any]], Any], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray | bytes]:
    """Return the arrays of a checkpoint with one or two of them changed; bytes are a raw member."""
    changed: dict[str, np.ndarray | bytes] = dict(arrays)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        changed[name] = _odd_array(draw, name, arrays[name])
        if draw(st.integers(0, 9)) == 0:
            del changed[name]
    return changed


def _odd_array(
    draw: Callable[[st.SearchStrategy[Any]], Any], name: str, array: np.ndarray
) -> np.ndarray | bytes:
    if name == "history" and draw(st.booleans()):
        return np.array(json.dumps(_changed(draw, json.loads(str(array)))).replace("\\u0000", ""))
    if array.dtype.kind == "U":
        return draw(st.sampled_from(_odd_texts(array)))
    match draw(st.integers(0, 7)):
        case 0:  # another length
            flat = array.reshape(-1)
            return np.resize(flat, draw(st.sampled_from([0, 1, 2, len(flat) + 1, 1000])))
        case 1:  # another shape of as many
            return array.reshape(*array.shape, 1) if array.ndim < 3 else array.reshape(-1)
        case 2:  # another type
            kind = draw(st.sampled_from(["<f2", "<f4", ">f8", "<f8", "<i8", "<u8", "<c8", "|b1"]))
            with np.errstate(all="ignore"):
                return array.astype(kind)
        case 3:  # all of another value
            return np.full_like(array, draw(st.sampled_from(_numbers(array.dtype))))
        case 4 if array.size:  # one of another value
            array = array.copy()
            value = draw(st.sampled_from(_numbers(array.dtype)))
            array.reshape(-1)[draw(st.integers(0, array.size - 1))] = value
            return array
        case 5:  # backwards, and of another sign
            array = array[..., ::-1] if array.ndim else array
            return array if array.dtype.kind in "bu" else np.asarray(-array)
        case 6:
            return draw(st.sampled_from(_RAW))
        case _:
            return np.array(draw(st.sampled_from([10**15, -1, 0.5, np.nan, "a", True])))


def _numbers(dtype: np.dtype) -> list[Any]:
    if dtype.kind == "f":
        return [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, 1e-30, 2.0]
    if dtype.kind in "iu":
        return [-1, 0, 1, 3, 100, np.iinfo(dtype).max, np.iinfo(dtype).min]
    return [True, False] if dtype.kind == "b" else [0, 1, 2]


def _odd_texts(array: np.ndarray) -> list[np.ndarray]:
    flat = array.reshape(-1)
    return [
        array[..., None],
        np.resize(flat, len(flat) + 1),
        np.full(array.shape, "../../etc/passwd\0x"),
        np.full(array.shape, "x" * 500),
        np.frombuffer(np.full(array.size, 0x110000, np.uint32).tobytes(), "<U1"),
        np.full(array.shape, "\ud800"),
        np.full(array.shape, "\N{COMBINING ACUTE ACCENT}\x1b[2J"),
        np.zeros(array.shape),
    ]


def npy(shape: str, descr: str = "<f8", values: bytes = b"") -> bytes:
    """Return an array file that says any shape and type, whatever it holds."""
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + values


_RAW = (
    npy("(1000000000000,)"), npy("(10**12,)"), npy("(-1,)"), npy("(3,)", values=b"x" * 8),
    npy("(" * 3000), npy("(1,)", "|O", b"cos\nsystem\n(S'true'\ntR."), npy("()", "<f16", b"0" * 16),
    npy("(2,2)", "<U100000000"), npy("(True,)", values=b"x" * 8), npy("(0, 1000000000000)"), b"",
)  # fmt: skip
"""Members of an archive that numpy would make much of, or call."""


def write_npz(
    path: Path, arrays: dict[str, np.ndarray | bytes], *, compression: int = zipfile.ZIP_STORED
) -> None:
    """Write arrays as numpy does, but for those that are bytes already."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            content = array
            if isinstance(array, np.ndarray):
                buffer = BytesIO()
                np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
                content = buffer.getvalue()
            archive.writestr(f"{name}.npy", content)
