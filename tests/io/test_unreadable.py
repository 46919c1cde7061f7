"""Files that cannot be read are refused alike, whichever reader was to read them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cryorefine.formats.cryosparc_files import read_fields
from cryorefine.formats.numpy_pickle import read_arrays
from cryorefine.io.mrc import read_stack_header, read_volume
from cryorefine.io.star import read_star
from cryorefine.io.unreadable import unreadable
from cryorefine.settings.files import load_settings
from tests.builders import refused

READERS: dict[str, Callable[[Path], Any]] = {
    "a.cs": read_fields, "a.pkl": read_arrays, "a.mrc": read_volume, "a.mrcs": read_stack_header,
    "a.star": read_star, "a.toml": load_settings,
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_not_there_a_folder_and_an_impossible_name_are_refused_alike(tmp_path, name):
    read = READERS[name]
    with refused(f"{tmp_path / name}: no such ", "Check the path."):
        read(tmp_path / name)
    (tmp_path / name).mkdir()
    with refused(f"{tmp_path / name}: is a folder, not a", "Name the file."):
        read(tmp_path / name)
    (tmp_path / "file").write_text("x")
    with refused(f"{tmp_path / 'file' / name}: no such ", "Check the path."):
        read(tmp_path / "file" / name)
    long = tmp_path / f"{'x' * 300}{name}"
    with refused(f"cannot be read ({os.strerror(errno.ENAMETOOLONG)})"):
        read(long)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOENT, "a.x: no such map. Check the path."),
        (errno.ENOTDIR, "a.x: no such map. Check the path."),
        (errno.EISDIR, "a.x: is a folder, not a map. Name the file."),
        (errno.EACCES, "a.x: may not be read. Check its permissions."),
        (errno.EIO, f"a.x: cannot be read ({os.strerror(errno.EIO)}). Check the path."),
    ],
)
def test_each_kind_of_error_has_its_words(number, said):
    error = OSError(number, os.strerror(number))
    assert str(unreadable(Path("a.x"), error, "map")) == said


def test_an_error_without_a_number_is_quoted():
    assert "(odd)" in str(unreadable(Path("a.x"), OSError("odd")))
