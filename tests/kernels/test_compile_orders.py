import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("compile_orders.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="compiles in forked processes")
def test_code_and_results_of_a_kernel_do_not_depend_on_what_was_compiled_before(tmp_path):
    end = subprocess.run(
        [sys.executable, PROGRAM, tmp_path], capture_output=True, text=True, check=False
    )
    assert end.returncode == 0, end.stderr
    compiled, codes, results = defaultdict(set), defaultdict(set), defaultdict(set)
    for entry in map(json.loads, end.stdout.splitlines()):
        name = entry["name"]
        results[name].add(entry["results"])
        if entry["code"] is not None:
            compiled[name].add(entry["order"])
            codes[name].add(entry["code"])
            # A process that loads two kernels with copies of one function uses the first for both.
            assert entry["calls"] == [], name
    # In the fourth order all is loaded that another process has compiled together.
    assert all(orders == {"alone", "together", "in parts"} for orders in compiled.values())
    assert results.keys() == compiled.keys()
    several = {name for name in results if len(codes[name]) > 1 or len(results[name]) > 1}
    assert not several
