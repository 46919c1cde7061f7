"""Freed memory is given back to the system, beyond what a program lets itself keep."""

import ctypes
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library keeps what is freed"
)
tells_what_is_free = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not tell what is free"
)

MEASURE = """
import os
from cryorefine.engine.freed_memory import keep_freed_memory, release_memory

def resident_MB():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def given_back_MB(size_MB):
    # Blocks of 8 kB, some of which stay: what is free lies between what is in use.
    blocks = [bytearray(8192) for _ in range(size_MB * 122)]
    for block in blocks:
        block[::1024] = b"x" * 8
    kept = blocks[::100]
    del blocks, block
    before = resident_MB()
    release_memory()
    back = before - resident_MB()
    assert len(kept) == -(-size_MB * 122 // 100)
    return back
"""


def given_back_MB(*lines):
    """Run lines in a process of their own; return the numbers that they print."""
    program = MEASURE + "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


def test_memory_that_lies_free_between_what_is_in_use_goes_back_to_the_system():
    assert given_back_MB("print(given_back_MB(82))")[0] > 40


@tells_what_is_free
def test_a_program_that_keeps_memory_gives_back_what_is_more_than_half_a_gigabyte():
    little, much = given_back_MB(
        "keep_freed_memory()", "print(given_back_MB(82))", "print(given_back_MB(700))"
    )
    assert little < 5
    assert much > 300


@tells_what_is_free
def test_a_library_keeps_nothing_but_the_command_does():
    imported = "import cryorefine"
    commanded = "from cryorefine.cli.environment import prepare_environment as p; p()"
    assert given_back_MB(imported, "print(given_back_MB(82))")[0] > 40
    assert given_back_MB(commanded, "print(given_back_MB(82))")[0] < 5


def test_a_user_who_sets_the_c_librarys_own_options_decides():
    kept = given_back_MB(
        "os.environ['MALLOC_ARENA_MAX'] = '4'",
        "from cryorefine.cli.environment import prepare_environment as p; p()",
        "print(given_back_MB(82))",
    )
    assert kept[0] > 40
