"""What the documentation shows of the library works as it stands there."""

import doctest
import importlib
import pkgutil
import re
import shutil
from pathlib import Path

import pytest

import cryorefine as cr
import cryorefine.api as package

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
MODULES = [f"cryorefine.api.{m.name}" for m in pkgutil.iter_modules(package.__path__)]
MODULES.append("cryorefine.interop.export")


def examples_of(name):
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder().find(module, name) if test.examples]


EXAMPLES = [test for name in MODULES for test in examples_of(name)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_example_of_a_docstring_shows_what_happens(example, small, tmp_path, monkeypatch):
    for path in small.output.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_every_public_function_has_an_example():
    shown = {example.name.rpartition(".")[2] for example in EXAMPLES}
    functions = {n for n in cr.__all__ if n[0].islower() and n[0] != "_"}
    assert functions - {"write_report"} <= shown


@pytest.mark.slow
def test_the_blocks_of_the_page_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 8
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert "unknown symmetry 'x9'" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()
