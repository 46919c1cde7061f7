"""A file that has changed is told from one that has only been copied or touched."""

import os

import pytest

from cryorefine.storage import digest as digest_module
from cryorefine.storage.digest import difference, file_digest


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "a.mrcs"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def test_the_same_file_does_not_differ_whether_touched_or_not(small):
    known = file_digest(small)
    assert difference(small, known) == ""
    os.utime(small, ns=(1, 1))
    assert difference(small, known) == ""
    assert difference(small, {k: v for k, v in known.items() if k != "modified_ns"}) == ""


def test_other_content_another_size_and_a_missing_file_differ(small):
    known = file_digest(small)
    content = small.read_bytes()
    small.write_bytes(content[::-1])
    os.utime(small, ns=(1, 1))
    assert "another content of the same size" in difference(small, known)
    small.write_bytes(content[:-1])
    assert "has 16383 bytes instead of 16384" in difference(small, known)
    small.unlink()
    assert "cannot be found" in difference(small, known)


def test_content_is_not_read_where_size_and_time_are_the_same(small, monkeypatch):
    known = file_digest(small)
    monkeypatch.setattr(digest_module, "file_digest", None)
    assert difference(small, known) == ""


@pytest.mark.parametrize("covered", ["", "first and last MiB"])
def test_of_a_large_file_both_ends_and_samples_between_are_looked_at(
    tmp_path, monkeypatch, covered
):
    monkeypatch.setattr(digest_module, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(digest_module, "_SAMPLE_BYTES", 10)
    path = tmp_path / "a.mrcs"
    content = bytearray(5000)
    path.write_bytes(content)
    known = file_digest(path, covered)
    assert known["sha256_of"] == (covered or "64 samples of 1 MiB")
    for place in (0, 4999, 4990 * 31 // 63 + 5):
        changed = bytearray(content)
        changed[place] = 1
        path.write_bytes(changed)
        os.utime(path, ns=(1, 1))
        is_seen = covered == "" or place in (0, 4999)
        assert bool(difference(path, known)) == is_seen
