"""The form of the Scipion plugin stands for options that cryorefine has; no Scipion is needed."""

import importlib
import re
import sys
import types
from pathlib import Path

import click
import pytest

from cryorefine.cli.main import cli
from cryorefine.settings import RefineSettings, make_settings

PLUGIN = Path(__file__).parents[2] / "plugins" / "scipion" / "scipion_cryorefine"


@pytest.fixture(scope="module")
def plugin():
    """Return a loader of the plugin's modules that does not run its ``__init__``."""
    package = types.ModuleType("scipion_cryorefine")
    package.__path__ = [str(PLUGIN)]
    sys.modules[package.__name__] = package
    yield lambda name: importlib.import_module(f"scipion_cryorefine.{name}")
    for name in [n for n in sys.modules if n.startswith("scipion_cryorefine")]:
        del sys.modules[name]


def settings_from(words):
    """Return the settings that cryorefine reads from a command line."""
    command = cli.get_command(click.Context(cli), "refine")
    assert command is not None
    given = command.make_context("refine", ["p.star", "--output", "run", *words]).params
    names = RefineSettings.model_fields
    values = {k: v for k, v in given.items() if k in names and v is not None and v != ()}
    return make_settings(values)


def shown_values(parameters, parameter):
    """Return values of the form that show a parameter: what it depends on is set."""
    by_name = {p.name: p for p in parameters.all_parameters()}
    values = parameters.default_values()

    def show(one):
        for name, needed in one.when:
            if values[name] not in needed:
                values[name] = needed[0]
            if name in by_name:
                show(by_name[name])

    show(parameter)
    return values


OTHER = {
    "symmetryGroup": "d2",
    "maximumTargetResolution": "15 8 4",
    "postSymmetryAngles": "30 0 90",
    "postSymmetryWithinMaskType": "c3",
    "nextReferenceScript": "tool --level 2 {volume}",
    "postScript": "tool {volume}",
    "contMaxGrayScale": 0.25,
    "contMaxScale": 0.01,
    "nextDropout": 0.5,
    "angularMaxTiltReconstruct": 100.0,
    "angularMinTilt": 20.0,
    "nextResolutionOffset": -1.5,
    "helicalTwistRange": "-2 3",
    "helicalRiseRange": "0.5 2",
    "helicalFraction": 0.5,
    "helicalPsiRange": 20.0,
    "postHelicalRadius": 80.0,
    "postSymmetryWithinMaskMask": "within.mrc",
}
"""Values that are not the default, of parameters whose kind does not give one."""

COMPANIONS = {
    "commandShell": {"postScript": "tool {volume}"},
    "nextFromProcessed": {"postAdHocMask": "post.mrc"},
    "helicalTwistRange": {"helicalRiseRange": "0.5 2"},
    "helicalRiseRange": {"helicalTwistRange": "-2 3"},
}
"""What cryorefine wants besides."""


def other_values(parameter):
    """Return values of a parameter that are not its default."""
    if parameter.name in OTHER:
        return [OTHER[parameter.name]]
    if parameter.kind == "flag":
        return [not parameter.default]
    if parameter.kind == "choice":
        return [n for n in range(len(parameter.choices)) if n != parameter.default]
    if parameter.kind == "volumes":
        return [("a.mrc",), ("a.mrc", "b.mrc")]
    if parameter.kind == "integer":
        return [7]
    # Nine tenths of the default are in every range, and 9 where the field is empty.
    return [(parameter.default or 10.0) * 0.9] if parameter.kind == "number" else ["map.mrc"]


def expected(parameter, value):
    """Return what cryorefine's setting is to be."""
    match parameter.kind:
        case "number":
            return pytest.approx(value * parameter.factor)
        case "choice":
            return parameter.choices[value]
        case "flag" if parameter.choices:
            return parameter.choices[value]
        case "volumes":
            return tuple(Path(path).absolute() for path in value)
        case "volume" | "mask":
            return Path(value).absolute()
        case "text" if value[0] in "-0123456789":
            return tuple(float(word) for word in value.split())
    return value


def test_every_setting_is_in_the_form_or_said_not_to_be(plugin):
    parameters = plugin("parameters")
    in_form = [p.setting for p in parameters.all_parameters() if p.setting]
    assert len(in_form) == len(set(in_form)), "a setting has two parameters"
    named = {*in_form, *parameters.FROM_OBJECTS, *parameters.NOT_OFFERED}
    assert named == set(RefineSettings.model_fields)
    assert len(in_form) + len(parameters.FROM_OBJECTS) + len(parameters.NOT_OFFERED) == len(named)


def test_the_form_as_it_opens_changes_nothing(plugin):
    parameters, command_line = plugin("parameters"), plugin("command_line")
    settings = command_line.settings_of(parameters.default_values())
    assert command_line.refine_options(settings) == []
    shown = [word for name, value in settings.items() for word in command_line.option(name, value)]
    assert settings_from(shown) == settings_from([])


def test_every_value_of_the_form_is_the_value_that_cryorefine_reads(plugin):
    parameters, command_line = plugin("parameters"), plugin("command_line")
    tried = [(p, v) for p in parameters.all_parameters() if p.setting for v in other_values(p)]
    for parameter, value in tried:
        values = shown_values(parameters, parameter)
        values |= {"postSymmetryWithinMaskMask": "within.mrc", parameter.name: value}
        values |= COMPANIONS.get(parameter.name, {})
        words = command_line.refine_options(command_line.settings_of(values))
        read = getattr(settings_from(words), parameter.setting)
        if isinstance(read, Path):
            read = read.absolute()
        elif parameter.kind == "volumes":
            read = tuple(path.absolute() for path in read)
        assert read == expected(parameter, value), parameter.name


def test_what_the_form_hides_has_no_effect(plugin):
    parameters, command_line = plugin("parameters"), plugin("command_line")
    for number, mode in enumerate(parameters.ALIGNMENTS):
        values = parameters.default_values()
        for parameter in parameters.all_parameters():
            if parameter.setting and parameter.name != "alignmentMethod":
                values[parameter.name] = other_values(parameter)[0]
        # These go with no other: no CTF with refined defocus, and mixed halves as references.
        values |= {"useCTF": True, "nextFromProcessed": False, "alignmentMethod": number}
        words = command_line.refine_options(command_line.settings_of(values))
        assert settings_from(words).alignment == mode


def test_a_continued_run_is_told_what_the_form_changes_and_nothing_else(plugin):
    parameters, command_line = plugin("parameters"), plugin("command_line")
    old = {**parameters.default_values(), "symmetryGroup": "d2", "inputMask": "mask.mrc"}
    old |= {"inputVolumes": ("a.mrc",), "initialLowPass": 20.0, "numberOfIterations": 3, "seed": 4}
    new = {**parameters.default_values(), "doContinue": True, "symmetryGroup": "d2"}
    new |= {"alignmentMethod": parameters.ALIGNMENTS.index("local"), "numberOfIterations": 2}
    before, now = command_line.settings_of(old), command_line.settings_of(new)
    words = command_line.resume_options(now, before)
    assert words == ["--alignment", "local", "--unset", "mask", "--iterations", "2"]
    changed = command_line.changed_settings(now, before)
    assert changed == {"mask": ("mask.mrc", None), "alignment": ("automatic", "local")}
    command = cli.get_command(click.Context(cli), "resume")
    assert command is not None
    assert command.make_context("resume", ["run", *words]).params["unset"] == ("mask",)


def test_a_continued_run_whose_number_of_iterations_is_empty_takes_it_back(plugin):
    command_line = plugin("command_line")
    assert command_line.resume_options({}, {"iterations": "3"}) == ["--unset", "iterations"]


def test_what_a_continued_run_cannot_change_is_what_the_form_hides(plugin):
    parameters = plugin("parameters")
    values = {**parameters.default_values(), "doContinue": True}
    of_form = [p for p in parameters.all_parameters() if p.setting in parameters.FIXED_BY_RUN]
    assert of_form
    assert not [p.name for p in of_form if parameters.is_shown(p, values)]


def test_conditions_name_parameters_that_there_are_and_values_that_they_take(plugin):
    parameters = plugin("parameters")
    by_name = {p.name: p for p in parameters.all_parameters()}
    for parameter in by_name.values():
        for name, needed in parameter.when:
            if name == "doContinue":
                continue
            choices = range(len(by_name[name].choices))
            allowed = choices if by_name[name].kind == "choice" else (False, True)
            assert set(needed) < set(allowed), parameter.name


def test_modules_without_scipion_import_nothing_of_it():
    for name in ("parameters", "command_line", "star", "run_folder", "checks", "constants"):
        text = (PLUGIN / f"{name}.py").read_text()
        assert not re.findall(r"^(?:from|import) (?:pwem|pyworkflow|cryorefine)", text, re.M), name


def test_the_plugin_never_imports_cryorefine():
    for path in PLUGIN.rglob("*.py"):
        assert not re.findall(r"^\s*(?:from|import) cryorefine\b", path.read_text(), re.M), path
