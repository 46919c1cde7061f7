"""Loops compiled by numba, dealt to threads here and not by numba.

numba's own parallel loops take several times as long to compile as the same loops without, and the
first refinement after an installation waits for that. A kernel is therefore a plain function of
``begin`` and ``end`` that releases the interpreter's lock; :func:`in_threads` calls it for parts
of the range at once. Give kernels arguments of one type each, always: every other combination of
types is compiled anew.

Code on disk is used again only where neither the function's own module has changed nor any that it
imports, directly or not: numba itself looks at the function's own alone.

A kernel's machine code, and so the bits of its results, follows from its source and the types of
its arguments alone: not from what was compiled, or loaded from disk, before it. It shares with no
other what it calls.
"""

import ast
import gc
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from threading import local
from typing import Any, TypeVar

import numpy as np
import torch
from numba import njit
from numba.core import event
from numba.core.compiler import Compiler
from torch import Tensor

__all__ = [
    "array_of",
    "compiled",
    "for_each",
    "in_threads",
    "kernel_threads",
    "use_kernel_threads",
]

_PARTS_A_THREAD = 4
"""Parts of a range for each thread, so that one that is held up leaves work to the others."""

_MOST_THREADS = 64
"""Threads that help with kernels, or as many as there are CPUs: tests ask for more than those."""

_of_thread = local()

Item = TypeVar("Item")
Result = TypeVar("Result")


class _WithoutCollector(event.Listener):
    """Pauses Python's collector while numba compiles: it would be a tenth of that time.

    numba's lock is held at both calls, so that one depth is enough for all threads.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.was_enabled = False

    def on_start(self, event: object) -> None:
        if self.depth == 0:
            self.was_enabled = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event: object) -> None:
        self.depth -= 1
        if self.depth == 0 and self.was_enabled:
            gc.enable()


event.register("numba:compile", _WithoutCollector())


class _OwnInternals(Compiler):
    """Compiles numba's own small functions, such as complex products, for each function anew.

    numba keeps them for a whole process, with the ``fastmath`` of whoever needed one first.
    """

    def __init__(self, typingctx: Any, targetctx: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx.subtarget(cached_internal_func={}), *rest)


def compiled(
    function: Callable[..., Any] | None = None, *, fastmath: bool = False, inner: bool = False
) -> Any:
    """Compile a function when it is first called, and keep the code on disk where that can be.

    Where neither the package's folder nor the user's cache can be written to, every process
    compiles for itself. ``inner`` functions can only be called by compiled ones: numba then does
    not write, for each, what takes apart the arguments of a call from Python. They are on disk only
    as parts of what calls them, and always inlined: of the copies of a function that several
    kernels hold a process would use the first that it loads, and each was optimised differently.
    """
    if function is None:
        return lambda f: compiled(f, fastmath=fastmath, inner=inner)
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    options["pipeline_class"] = _OwnInternals
    if inner:
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
        return njit(**options)(function)
    try:
        dispatcher = njit(cache=True, **options)(function)
    except RuntimeError:  # numba says at once that it has no place for a cache
        return njit(**options)(function)
    _keep_where_there_is_room(dispatcher)
    # numba has no public way to add to its stamp of the source; a test holds that this one counts.
    index = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if index is not None:
        stamp = getattr(index, "_source_stamp", None)
        index._source_stamp = (stamp, _fingerprint(function.__module__))
    return dispatcher


def _keep_where_there_is_room(dispatcher: Any) -> None:
    """Let a full disk cost later processes the compilation, and not this one its work."""
    kept = getattr(dispatcher, "_cache", None)
    save = getattr(kept, "save_overload", None)
    if save is None:
        return

    def save_if_it_fits(*signature_and_code: Any) -> None:
        with suppress(OSError):  # numba writes beside and renames: nothing half is left
            save(*signature_and_code)

    kept.save_overload = save_if_it_fits  # type: ignore[union-attr]


def _fingerprint(module: str) -> str:
    """Return a hash of a module's source and of all of its package that it imports."""
    package = module.partition(".")[0]
    waiting, sources = {module}, dict[str, bytes]()
    while waiting:
        name = waiting.pop()
        sources[name] = _source(name)
        found = {other for other in _imports(name) if other.partition(".")[0] == package}
        waiting |= found - sources.keys()
    return hashlib.sha256(b"\0".join(sources[name] for name in sorted(sources))).hexdigest()


@cache
def _source(module: str) -> bytes:
    """Return a module's source; nothing for a name that is none, or where no source is."""
    package, *parts = module.split(".")
    root = getattr(sys.modules.get(package), "__file__", None)
    if root is None:
        return b""
    path = Path(root).parent.joinpath(*parts)
    # By its path: to ask Python for it would import it.
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_bytes()
    return b""


@cache
def _imports(module: str) -> frozenset[str]:
    """Return the names that a module imports, and the modules that it imports them from."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # Each name may be a module, too.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def array_of(tensor: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Return a tensor as the one kind of array that a kernel takes; a copy only if it must be."""
    return tensor.detach().to(dtype).contiguous().numpy()


def use_kernel_threads(count: int | Callable[[], int]) -> None:
    """Let kernels that the calling thread calls use so many threads; a function is asked anew."""
    _of_thread.count = count


def kernel_threads() -> int:
    """Return how many threads kernels may use here; as many as torch's where nobody said."""
    count: int | Callable[[], int] | None = getattr(_of_thread, "count", None)
    known = count if count is None or isinstance(count, int) else count()
    return known or torch.get_num_threads()


def in_threads(kernel: Callable[..., Any], count: int, *arguments: object) -> None:
    """Call ``kernel(begin, end, *arguments)`` for parts of ``range(count)``, several at once.

    What the kernel does at one index may not depend on another. The thread that calls works, too.
    """
    threads = min(kernel_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    # More parts than threads: who is done early takes another.
    n_parts = min(count, threads * _PARTS_A_THREAD)
    parts = iter([(count * i // n_parts, count * (i + 1) // n_parts) for i in range(n_parts)])

    def work() -> None:
        # A list's iterator gives no two threads the same part.
        for begin, end in parts:
            kernel(begin, end, *arguments)

    helpers = [_pool(os.getpid()).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


def for_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what a function makes of each of some things, in their order; several at once.

    What it does with one may not depend on another.
    """
    out: list[Any] = [None] * len(items)

    def some(begin: int, end: int) -> None:
        for i in range(begin, end):
            out[i] = function(items[i])

    in_threads(some, len(items))
    return out


@lru_cache(maxsize=4)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: those of its parent do not live on in a forked one.

    Who calls :func:`in_threads` asks for no more than its share of them, and several may call at
    once. They start when they are first needed.
    """
    return ThreadPoolExecutor(
        max(_MOST_THREADS, os.cpu_count() or 1),
        thread_name_prefix="kernel",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
