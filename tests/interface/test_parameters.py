"""Every setting acts, is an option, and is documented."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

import cryorefine
from cryorefine.cli import refine, resume
from cryorefine.records.particle_tables import QUALITY_COLUMNS
from cryorefine.settings import GROUPS, RefineSettings, make_settings, save_settings

SOURCE = Path(cryorefine.__file__).parent
SETTINGS = SOURCE / "settings"
DOCS = Path(__file__).parents[2] / "docs" / "parameters.md"


def attributes_read(path: Path) -> set[str]:
    """Return the names of all attributes that a module reads from anything called settings."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in ("settings", "self", "s"):
                found.add(node.attr)
    return found


def properties_of_settings() -> dict[str, set[str]]:
    """Return what each property of the settings reads."""
    nodes = [
        node for path in SETTINGS.glob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    ]
    out = {}
    for node in nodes:
        is_property = isinstance(node, ast.FunctionDef) and any(
            getattr(d, "id", "") == "property" for d in node.decorator_list
        )
        if is_property:
            out[node.name] = {
                n.attr
                for n in ast.walk(node)
                if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "self"
            }
    return out


@cache
def settings_in_use() -> set[str]:
    used = set()
    for path in SOURCE.rglob("*.py"):
        if path.parent != SETTINGS:
            used |= attributes_read(path)
    for name, reads in properties_of_settings().items():
        if name in used:
            used |= reads
    return used


@pytest.mark.parametrize("name", RefineSettings.model_fields)
def test_a_setting_is_used_outside_the_settings(name):
    assert name in settings_in_use()


def test_a_setting_that_nobody_reads_would_be_found():
    assert "made_up_setting" not in settings_in_use()
    # What only properties of the settings look at counts by those who read these.
    assert properties_of_settings()["restores_halves"] >= {"post_denoise", "post_difference"}


@pytest.mark.parametrize("name", [n for n in RefineSettings.model_fields if n != "particles"])
def test_a_setting_is_an_option_of_refine_and_resume_and_documented(name):
    for command in (refine.command, resume.command):
        assert name in {parameter.name for parameter in command.params}
    assert re.search(rf"`--(no-)?{name.replace('_', '-')}\b", DOCS.read_text())


def sections(text: str, headings: re.Pattern[str]) -> dict[str, str]:
    """Return the text below each heading, by title."""
    parts = headings.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def first_options(text: str) -> list[str]:
    """Return the first option of each line that begins with one."""
    return re.findall(r"^  --([a-z-]+)", text, re.MULTILINE)


def test_every_setting_is_in_one_group_and_settings_follow_the_order_of_groups():
    assert list(RefineSettings.model_fields) == [
        name for group in GROUPS.values() for name in group.model_fields
    ]


@pytest.mark.parametrize("command", [refine.command, resume.command], ids=lambda c: c.name)
def test_help_has_each_setting_under_the_title_of_its_group(command):
    result = CliRunner().invoke(command, ["--help"])
    found = sections(result.output, re.compile(r"^(\w[\w ]+):$", re.MULTILINE))
    assert list(found) == ["Options", *GROUPS]
    for title, group in GROUPS.items():
        expected = [n.replace("_", "-") for n in group.model_fields if n != "particles"]
        assert first_options(found[title]) == expected


def test_documents_have_each_setting_under_the_title_of_its_group():
    found = sections(DOCS.read_text(), re.compile(r"^## (.+)$", re.MULTILINE))
    assert [title for title in found if title in GROUPS] == list(GROUPS)
    for title, group in GROUPS.items():
        cells = " ".join(line for line in found[title].splitlines() if line.startswith("|"))
        for name in group.model_fields:
            wanted = "`PARTICLES`" if name == "particles" else f"`--{name.replace('_', '-')}"
            assert wanted in cells, f"{name} is not under {title}"


def test_the_settings_file_has_each_setting_under_the_title_of_its_group(tmp_path):
    save_settings(tmp_path / "settings.toml", make_settings({"particles": "p.star"}))
    text = (tmp_path / "settings.toml").read_text()
    found = sections(text, re.compile(r"^## (.+)$", re.MULTILINE))
    assert list(found) == list(GROUPS)
    for title, group in GROUPS.items():
        assert re.findall(r"^(?:# )?(\w+) =", found[title], re.MULTILINE) == list(
            group.model_fields
        )


def test_no_option_is_documented_that_is_not_there():
    known = {
        p
        for c in (refine.command, resume.command)
        for o in c.params
        for p in (*o.opts, *o.secondary_opts)
    }
    for option in re.findall(r"--[a-z][a-z-]+[a-z]", DOCS.read_text()):
        assert option in known | {"--help", "--voxel"}, option


@pytest.mark.parametrize("label", QUALITY_COLUMNS.values())
def test_a_column_is_documented(label):
    text = DOCS.read_text()
    assert f"`{label}`" in text or f"`{label.removeprefix('cryorefine')}`" in text


def protocol_parameters() -> list[str]:
    """Return the parameters of the HighRes protocol that the documents translate."""
    rows = [
        line.strip("|").split("|") for line in DOCS.read_text().splitlines() if line[:2] == "| "
    ]
    names = [row[0].strip() for row in rows if len(row) == 5]
    return [name for name in names if name not in ("HighRes parameter", "–")]


def test_each_parameter_of_the_protocol_has_a_test_that_is_there():
    page = (DOCS.parent / "protocol_tests.md").read_text()
    rows = re.findall(r"^\| (.+?) \| `(.+?)` \| `(\w+)` \|$", page, re.M)
    without = {"Perturbations, replicates (hidden)"}
    assert {name for name, _, _ in rows} == set(protocol_parameters()) - without
    for name, file, test in rows:
        source = (Path(__file__).parents[1] / file).read_text()
        assert f"def {test}(" in source, name
