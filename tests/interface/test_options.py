from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cryorefine.cli.options import given, settings_options
from cryorefine.settings import RefineSettings

NAMES = tuple(RefineSettings.model_fields)


def parsed(*arguments: str) -> dict:
    """What a command with an option for every setting makes of its arguments."""
    found = {}

    @click.command()
    def command(**options):
        found.update(options)

    settings_options(*NAMES)(command)
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return given(found)


def test_nothing_is_given_where_no_option_is():
    assert parsed() == {}


def test_options_have_the_type_of_their_setting():
    found = parsed(
        "--iterations", "4", "--fsc-criterion", "0.5", "--symmetry", "d2",
        "--mask", "a/m.mrc", "--reference", "a.mrc", "--reference", "b.mrc",
        "--target-resolution", "15 8",
    )  # fmt: skip
    assert found == {
        "iterations": 4,
        "fsc_criterion": 0.5,
        "symmetry": "d2",
        "mask": Path("a/m.mrc"),
        "reference": (Path("a.mrc"), Path("b.mrc")),
        "target_resolution": "15 8",  # the settings read it
    }


@pytest.mark.parametrize(
    "name", [n for n in NAMES if RefineSettings.model_fields[n].default is True]
)
def test_what_is_on_by_itself_can_be_switched_off(name):
    flag = name.replace("_", "-")
    assert parsed(f"--no-{flag}") == {name: False}
    assert parsed(f"--{flag}") == {name: True}


def test_a_switch_that_is_off_counts_as_given():
    assert given({"a": None, "b": (), "c": False, "d": 0, "e": ""}) == {"c": False, "d": 0, "e": ""}


def test_help_says_what_a_setting_means_and_its_default():
    @click.command()
    def command(**options):
        pass

    settings_options("fsc_criterion", "alignment", "mask")(command)
    options = {option.name: option for option in command.params}
    fields = RefineSettings.model_fields
    assert options["fsc_criterion"].help == (
        f"{fields['fsc_criterion'].description} [default: {fields['fsc_criterion'].default}]"
    )
    assert options["mask"].help == fields["mask"].description
    assert set(options["alignment"].type.choices) >= {"automatic", "global", "local", "none"}
