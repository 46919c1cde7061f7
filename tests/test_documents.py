"""The documents can be read, and what they point at exists."""

import re
from pathlib import Path

import click
import pytest

from cryorefine.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "RESULTS.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "plugins" / "scipion" / "README.md",
]
# Three lines of a wide editor window: what is longer is not read, and not seen in a comparison.
MAX_LINE_CHARACTERS = 300
# As much as one or two sentences: more belongs below the table.
MAX_CELL_WORDS = 60

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def spans(text):
    """Return what stands in backticks, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def blocks(text):
    """Return the indented lines of code, without what follows a number sign."""
    lines = [line for line in text.splitlines() if line.startswith("    ")]
    return [line.split(" # ")[0].strip() for line in lines]


def options_of(command):
    """Return every option of a command of the command line, with its negative form."""
    found = cli.get_command(click.Context(cli), command)
    assert found is not None, f"there is no command 'cryorefine {command}'"
    options = {"--help"}
    for parameter in found.params:
        options.update(parameter.opts, parameter.secondary_opts)
    return options


@each_document
def test_no_line_is_too_long_to_read(path):
    lines = path.read_text().splitlines()
    long = [n for n, line in enumerate(lines, 1) if len(line) > MAX_LINE_CHARACTERS]
    assert not long


@each_document
def test_no_cell_of_a_table_holds_a_paragraph(path):
    rows = [line for line in path.read_text().splitlines() if line.startswith("|")]
    cells = [cell for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert not [cell for cell in cells if len(cell.split()) >= MAX_CELL_WORDS]


@each_document
def test_every_local_link_leads_somewhere(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    local = [t.split("#")[0] for t in targets if "://" not in t and not t.startswith("#")]
    assert not [target for target in local if not (path.parent / target).exists()]


@each_document
def test_every_file_of_the_repository_that_is_named_exists(path):
    text = path.read_text()
    named = []
    for code in spans(text) + blocks(text):
        named += re.findall(r"(?:^|\s)((?:src|docs|benchmarks|tests)/[\w./-]*\w)", code)
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_file_that_names_are_now_in_exists():
    rows = [line.split("|") for line in (ROOT / "docs" / "names.md").read_text().splitlines()]
    now = [span for row in rows if len(row) == 4 for span in spans(row[2])]
    files = {path.as_posix() for path in (ROOT / "src" / "cryorefine").rglob("*.py")}
    named = {span for span in now if span.endswith(".py")}
    assert len(named) > 40
    assert not [name for name in named if not any(f.endswith("/" + name) for f in files)]


def test_every_test_that_a_document_names_exists():
    text = (ROOT / "docs" / "robustness.md").read_text()
    named = re.findall(r"`([\w/]+)::(test_\w+)`", text)
    tables = [part for part in text.split("\n\n") if part.startswith("| what | test |")]
    assert len(tables) >= 5
    assert len(named) == sum(len(part.splitlines()) - 2 for part in tables)  # without heads
    for file, name in named:
        source = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source, f"{file}::{name}"


def test_the_readme_names_commands_and_options_that_exist():
    text = (ROOT / "README.md").read_text()
    commands = list(cli.list_commands(click.Context(cli)))
    known = set().union(*map(options_of, commands))
    seen = 0
    for code in spans(text) + blocks(text):
        call = re.match(r"cryorefine (\w+)", code)
        program = re.match(r"(?:python )?(benchmarks/\w+\.py)", code)
        options = set(re.findall(r"(?<!\S)--[a-z][a-z-]+", code))
        if call:
            assert options <= options_of(call[1]), code
            seen += 1
        elif program:
            source = (ROOT / program[1]).read_text()
            assert all(f'"{option}"' in source for option in options), code
        elif code.startswith("--"):
            assert options <= known, code
    assert seen, "the README shows no command"
