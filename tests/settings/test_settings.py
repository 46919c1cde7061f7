import math
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cryorefine.errors import InputError
from cryorefine.settings import (
    RefineSettings,
    load_settings,
    make_settings,
    save_settings,
)
from tests.builders import refused

LEAST = {"particles": "p.star", "reference": ["map.mrc"]}


def test_only_particles_must_be_given():
    settings = make_settings({"particles": "p.star"})
    assert settings.particles == Path("p.star")
    assert settings.reference == ()
    with refused("--particles Field required"):
        make_settings({})


def test_what_is_not_said_has_its_documented_default():
    settings = make_settings(LEAST)
    assert settings.symmetry == "c1"
    assert settings.alignment == "automatic"
    assert settings.initial_lowpass_angstrom == 30
    assert settings.max_shift_percent == 10
    assert (settings.min_tilt_deg, settings.max_tilt_deg) == (0, 180)
    assert settings.fsc_criterion == 0.143
    assert settings.ctf
    assert settings.seed == 0
    unset = ("iterations", "particle_radius_px", "mask", "compare_to", "threads")
    assert [getattr(settings, name) for name in unset] == [None] * 5


@pytest.mark.parametrize(
    ("alignment", "iterations", "expected"),
    [
        ("automatic", None, 25),
        ("automatic", 7, 7),
        ("global", None, 3),
        ("local", None, 3),
        ("local", 1, 1),
    ],
)
def test_the_number_of_iterations_follows_the_alignment_unless_given(
    alignment, iterations, expected
):
    settings = make_settings({**LEAST, "alignment": alignment, "iterations": iterations})
    assert settings.max_iterations == expected


def test_a_fixed_schedule_has_five_iterations_unless_given():
    fixed = {**LEAST, "automatic_schedule": "fixed"}
    assert make_settings(fixed).max_iterations == 5
    assert make_settings({**fixed, "iterations": 8}).max_iterations == 8


@pytest.mark.parametrize("alignment", ["global", "local"])
def test_only_automatic_alignment_takes_a_fixed_schedule(alignment):
    values = {**LEAST, "alignment": alignment}
    assert make_settings({**values, "automatic_schedule": "data"}).alignment == alignment
    with refused("--automatic-schedule", alignment):
        make_settings({**values, "automatic_schedule": "fixed"})


def test_every_setting_is_described():
    assert all(info.description for info in RefineSettings.model_fields.values())


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        make_settings(LEAST).seed = 1


def test_an_unknown_setting_is_refused_by_name():
    with refused("run.toml: --symetry no such setting", "c4"):
        make_settings({**LEAST, "symetry": "c4"}, where="run.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("iterations", 2.5),
        ("particle_radius_px", 0.5),
        ("particle_radius_px", -1e9),
        ("initial_lowpass_angstrom", -1),
        ("resolution_offset_angstrom", -30),
        ("resolution_offset_angstrom", 1000),
        ("initial_lowpass_angstrom", float("nan")),
        ("reference_voxel_angstrom", 0),
        ("max_shift_percent", 51),
        ("min_tilt_deg", -1),
        ("max_tilt_deg", 181),
        ("fsc_criterion", 1),
        ("fsc_criterion", "high"),
        ("seed", -1),
        ("seed", 2**62 + 1),
        ("particle_radius_px", float("inf")),
        ("initial_lowpass_angstrom", 1e308),
        ("reference_voxel_angstrom", 1e-308),
        ("iterations", 10**9),
        ("threads", 10**9),
        ("threads", 0),
        ("alignment", "both"),
        ("ctf", "perhaps"),
    ],
)
def test_a_value_out_of_range_is_refused_by_option_with_what_was_given(name, value):
    with refused("--" + name.replace("_", "-"), f"(given: {value})"):
        make_settings({**LEAST, name: value})


NUMBERS = sorted(
    name
    for name, info in RefineSettings.model_fields.items()
    if {int, float} & {info.annotation, *get_args(info.annotation)}
)


def test_all_numbers_among_the_settings_are_known_to_these_tests():
    assert {"seed", "max_energy", "target_resolution", "particle_radius_px"} <= set(NUMBERS)
    assert len(NUMBERS) >= 27


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30, "nan", "inf"])
def test_no_number_is_infinite_none_at_all_or_absurd(name, value):
    with refused("--" + name.replace("_", "-")):
        make_settings({**LEAST, name: value})
    if name == "target_resolution":
        with refused("--target-resolution"):
            make_settings({**LEAST, name: [15.0, float(value)]})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [1e-300, 1e-9, 1e-6])
def test_a_number_that_cannot_be_0_cannot_be_next_to_0(name, value):
    """It would switch off what it limits, or be meant in another unit."""

    def is_accepted(given: float) -> bool:
        try:
            make_settings({**LEAST, name: given})
        except InputError:
            return False
        return True

    if not is_accepted(0.0):
        assert not is_accepted(value)


@given(st.sampled_from(NUMBERS), st.floats() | st.integers())
def test_a_number_that_is_accepted_is_finite_and_in_range(name, value):
    try:
        settings = make_settings({**LEAST, name: value})
    except InputError:
        return
    found = getattr(settings, name)
    numbers = found if isinstance(found, tuple) else (found,)
    assert all(math.isfinite(v) and abs(v) <= 2**62 for v in numbers)


def test_three_maps_are_refused():
    with refused("--reference"):
        make_settings({**LEAST, "reference": ["a.mrc", "b.mrc", "c.mrc"]})


def test_all_problems_are_listed_at_once():
    with refused("--seed", "--fsc-criterion", "--colour no such setting", "--particles"):
        make_settings({"reference": ["m.mrc"], "seed": -1, "fsc_criterion": 2, "colour": "red"})


@pytest.mark.parametrize(("low", "high"), [(100, 80), (90, 90), (0, 0), (180, 180)])
def test_a_smallest_tilt_that_is_not_below_the_largest_is_refused(low, high):
    with refused("--min-tilt-deg", f"{low} is not below --max-tilt-deg ({high})"):
        make_settings({**LEAST, "min_tilt_deg": low, "max_tilt_deg": high})


paths = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from("\"'\\#\n\t=[]"),
    min_size=1,
    max_size=12,
).map(Path)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.fixed_dictionaries(
        {"particles": paths, "reference": st.lists(paths, min_size=1, max_size=2)},
        optional={
            "symmetry": st.sampled_from(["c1", "d7", "i2"]),
            "alignment": st.sampled_from(["automatic", "global", "local"]),
            "iterations": st.integers(1, 1000),
            "particle_radius_px": st.floats(1, 65536),
            "initial_lowpass_angstrom": st.floats(0.1, 1e6),
            "mask": paths,
            "max_tilt_deg": st.floats(1, 180),
            "ctf": st.booleans(),
            "compare_to": paths,
            "seed": st.integers(0, 2**62),
        },
    )
)
def test_settings_survive_their_toml_file_exactly(values, tmp_path):
    settings = make_settings(values)
    save_settings(tmp_path / "settings.toml", settings)
    assert make_settings(load_settings(tmp_path / "settings.toml")) == settings


def test_the_toml_file_describes_each_setting_and_keeps_unset_ones_as_comments(tmp_path):
    save_settings(tmp_path / "settings.toml", make_settings({**LEAST, "seed": 5}))
    lines = (tmp_path / "settings.toml").read_text().splitlines()
    for name, info in RefineSettings.model_fields.items():
        assert f"# {info.description}" in lines
        assert any(line.removeprefix("# ").startswith(f"{name} =") for line in lines)
    assert "seed = 5" in lines
    assert "# mask =" in lines


def test_a_low_pass_that_was_not_given_is_not_given_by_the_settings_of_a_run(tmp_path):
    path = tmp_path / "settings.toml"
    for values, starts in (({}, True), ({"initial_lowpass_angstrom": 30.0}, False)):
        save_settings(path, make_settings({**LEAST, "alignment": "local", **values}))
        assert make_settings(load_settings(path)).starts_from_poses == starts
    assert not make_settings({**LEAST, "alignment": "global"}).starts_from_poses


def test_a_settings_file_that_is_missing_or_not_toml_is_refused(tmp_path):
    with refused("gone.toml: no such settings file"):
        load_settings(tmp_path / "gone.toml")
    with refused(f"{tmp_path}: is a folder, not a settings file"):
        load_settings(tmp_path)
    path = tmp_path / "a.toml"
    for content in (b"seed = = 1\n", b"\xff\xfe\n", b'a = "x\n'):
        path.write_bytes(content)
        with refused("a.toml: not a TOML file"):
            load_settings(path)


@pytest.mark.parametrize("name", ["grey", "scale", "magnification", "defocus"])
@pytest.mark.parametrize("alignment", ["global", "none"])
def test_particle_values_are_refused_where_no_local_iteration_refines_them(name, alignment):
    with refused("--refine-", alignment):
        make_settings({"particles": "p.star", "alignment": alignment, f"refine_{name}": True})


def test_a_defocus_is_not_refined_without_contrast_transfer():
    with refused("--refine-defocus"):
        make_settings({"particles": "p.star", "ctf": False, "refine_defocus": True})


def test_settings_of_an_older_run_are_read_whatever_their_order(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(
        '# Seed of all random choices.\nseed = 3\n\nctf = false\nparticles = "p.star"\n'
    )
    assert make_settings(load_settings(path)) == make_settings(
        {"particles": "p.star", "ctf": False, "seed": 3}
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("particles", "a\0.star"),
        ("reference", ["a\0.mrc"]),
        ("mask", "m\0.mrc"),
        ("post_command", "do\0it {volume}"),
        ("symmetry", "c\0"),
    ],
)
def test_a_nul_is_refused_by_option(name, value):
    with refused("--" + name.replace("_", "-"), "NUL"):
        make_settings({**LEAST, name: value})
