"""Every setting acts, is an option, and is documented."""

import ast
import re
from pathlib import Path

import pytest

import cryorefine
from cryorefine.cli import refine, resume
from cryorefine.refine.settings import RefineSettings
from cryorefine.run.particle_tables import QUALITY_COLUMNS

SOURCE = Path(cryorefine.__file__).parent
DOCS = Path(__file__).parents[2] / "docs" / "parameters.md"


def attributes_read(path: Path) -> set[str]:
    """Return the names of all attributes that a module reads from anything called settings."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in ("settings", "self"):
                found.add(node.attr)
    return found


def properties_of_settings() -> dict[str, set[str]]:
    """Return what each property of the settings reads."""
    tree = ast.parse((SOURCE / "refine" / "settings.py").read_text())
    out = {}
    for node in ast.walk(tree):
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


def settings_in_use() -> set[str]:
    used = set()
    for path in SOURCE.rglob("*.py"):
        if path.name != "settings.py":
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


@pytest.mark.parametrize("name", [n for n in RefineSettings.model_fields if n != "particles"])
def test_a_setting_is_an_option_of_refine_and_resume_and_documented(name):
    for command in (refine.command, resume.command):
        assert name in {parameter.name for parameter in command.params}
    assert re.search(rf"`--(no-)?{name.replace('_', '-')}\b", DOCS.read_text())


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
