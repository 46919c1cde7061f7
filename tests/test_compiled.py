"""Kernels are compiled once for each set of types: the first refinement waits for all of them."""

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core.event import trigger_event

import cryorefine
from cryorefine.compiled import compiled, for_each, in_threads, kernel_threads, use_kernel_threads

REFINE = """
import json, runpy, sys
from pathlib import Path
from numba.core.dispatcher import Dispatcher

folder = Path(sys.argv[1])
def program(*arguments):
    sys.argv = ["cryorefine", *map(str, arguments)]
    try:
        runpy.run_module("cryorefine", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code

program("simulate", "phantom", "--output", folder / "set", "--particles", 30, "--box-px", 32,
        "--pixel-angstrom", 6, "--symmetry", "d2")
program("refine", folder / "set/particles.star", "--reference", folder / "set/reference.mrc",
        "--symmetry", "d2", "--output", folder / "run", "--threads", 2, "--iterations", 2)
counts = {
    f"{name}.{key}": len(value.signatures)
    for name, module in list(sys.modules.items()) if name.startswith("cryorefine.")
    for key, value in vars(module).items()
    if isinstance(value, Dispatcher) and value.py_func.__module__ == name
}
(folder / "counts.json").write_text(json.dumps(counts))
"""


def run_python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_refinement_compiles_each_kernel_for_one_set_of_types(tmp_path):
    end = run_python("-c", REFINE, tmp_path)
    assert end.returncode == 0, end.stdout + end.stderr
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["cryorefine.kernels.cpu_refinement.refine_poses"] == 1
    # Of functions that kernels call nothing is counted where the kernel came from the cache.
    assert sum(count > 0 for count in counts.values()) >= 8
    assert max(counts.values()) == 1, counts


def test_the_program_starts_where_no_compiled_code_can_be_kept(tmp_path):
    package = tmp_path / "cryorefine"
    shutil.copytree(
        Path(cryorefine.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    # Files where numba wants folders: these stop the superuser, too.
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()
    code = (
        "import torch, cryorefine; from cryorefine.fourier import radial\n"
        "ones = torch.ones(4, 4, 3, dtype=torch.complex64)\n"
        "axis = radial.wrapped_axis(4)\n"
        "doubled = radial.multiply_radially(ones, axis, 2 * torch.ones(13))\n"
        "assert (doubled == 2).all(); print(cryorefine.__file__)"
    )
    end = run_python(
        "-c", code, PYTHONPATH=str(tmp_path), HOME=os.devnull, XDG_CACHE_HOME=os.devnull,
        NUMBA_CACHE_DIR="",
    )  # fmt: skip
    assert end.returncode == 0, end.stderr
    assert Path(end.stdout.strip()).parent == package
    end = run_python(
        "-m", "cryorefine", "refine", "--help", PYTHONPATH=str(tmp_path), HOME=os.devnull,
        XDG_CACHE_HOME=os.devnull, NUMBA_CACHE_DIR="",
    )  # fmt: skip
    assert end.returncode == 0, end.stderr


CALLEE = """
from cryorefine.compiled import compiled
@compiled(inner=True)
def {name}(x):
    return x {operation}
"""

CALLER = """
from small.one import same
from cryorefine.compiled import compiled
@compiled
def total(x):
    return same(x)
print(total(10), int(sum(total.stats.cache_hits.values())))
"""


@pytest.mark.slow
def test_a_kernel_is_compiled_again_when_what_it_calls_has_changed(tmp_path):
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "caller.py").write_text(CALLER)
    (package / "one.py").write_text("from small.two import twice\nsame = twice\n")
    source = str(Path(cryorefine.__file__).parents[1])

    def call() -> str:
        path = os.pathsep.join([str(tmp_path), source])
        end = run_python("-c", "import small.caller", PYTHONPATH=path, NUMBA_CACHE_DIR="")
        assert end.returncode == 0, end.stderr
        return end.stdout.strip()

    (package / "two.py").write_text(CALLEE.format(name="twice", operation="* 2"))
    assert call() == "20 0"
    assert call() == "20 1"
    # Two modules away from the kernel.
    (package / "two.py").write_text(CALLEE.format(name="twice", operation="* 2 + 1"))
    assert call() == "21 0"


def _twice(x):
    return 2 * x


def test_a_full_disk_where_code_is_kept_stops_nobody_who_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        assert compiled(_twice)(3) == 6
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc")] == []
    assert compiled(_twice)(4) == 8
    assert any(path.suffix == ".nbi" for path in tmp_path.rglob("*"))


def test_the_collector_is_paused_while_numba_compiles_and_then_as_it_was():
    assert gc.isenabled()
    with trigger_event("numba:compile", data={}):
        with trigger_event("numba:compile", data={}):
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with trigger_event("numba:compile", data={}):
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_threads_take_every_index_once():
    taken = np.zeros(103, np.int64)

    def take(begin: int, end: int) -> None:
        taken[begin:end] += 1

    before = kernel_threads()
    try:
        for threads in (1, 2, 3):
            use_kernel_threads(threads)
            in_threads(take, len(taken))
            in_threads(take, 2)
            in_threads(take, 0)
    finally:
        use_kernel_threads(before)
    assert taken[2:].tolist() == [3] * 101
    assert taken[:2].tolist() == [6, 6]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_thing_is_seen_once_and_an_error_about_one_is_raised(threads):
    seen = []
    before = kernel_threads()
    try:
        use_kernel_threads(threads)
        for_each(seen.append, list(range(50)))
        for_each(seen.append, ())
        with pytest.raises(ZeroDivisionError):
            for_each(lambda k: 1 // k, (3, 0))
    finally:
        use_kernel_threads(before)
    assert sorted(seen) == list(range(50))
