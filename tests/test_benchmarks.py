"""The programs that make the numbers in ``benchmarks/RESULTS.md`` can still be run."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    before = set(sys.modules)
    try:
        runpy.run_path(str(path), run_name="benchmark")
    finally:
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", None) in set(map(str, BENCHMARKS)):
                del sys.modules[name]


def test_there_are_benchmarks():
    assert BENCHMARKS
