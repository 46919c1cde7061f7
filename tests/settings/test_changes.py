"""What a run was told and what it is told later make its settings."""

import pytest

from cryorefine.settings import (
    FIXED,
    Changes,
    RefineSettings,
    load_settings,
    make_settings,
    merge_settings,
    save_settings,
)
from tests.builders import refused

# A value of one of these is a valid one, other than the default, of every setting.
CANDIDATES = (True, False, "local", "fixed", "stochastic", "sphere", "keep", "cpu", 0.5, 2, 20.0,
              120.0, ("a",), (15.0, 8.0), (30.0, 60.0, 90.0), (1.0, 20.0))  # fmt: skip
SYMMETRISED = {"post_symmetry": "c3", "post_symmetry_mask": "m.mrc"}
HELIX = {"helical_twist_deg": 2.0, "helical_rise_angstrom": 3.0}
RANGES = {"helical_twist_range_deg": (1.0, 20.0), "helical_rise_range_angstrom": (1.0, 20.0)}
PAIRS = (SYMMETRISED, HELIX, RANGES)
COMPANIONS = {
    "command_shell": {"post_command": "true {volume}"},
    "mask_voxel_angstrom": {"mask": "m.mrc"},
    "reference_from_processed": {"post_mask": "m.mrc"},
    "post_symmetry": SYMMETRISED,
    "post_symmetry_mask": SYMMETRISED,
    "post_symmetry_angles_deg": SYMMETRISED,
    **dict.fromkeys(HELIX, HELIX),
    **{name: {**HELIX, **RANGES} for name in RANGES},
    "helical_radius_angstrom": HELIX,
    "helical_inner_radius_angstrom": HELIX,
    "helical_fraction": HELIX,
    "helical_max_out_of_plane_deg": HELIX,
    "helical_psi_range_deg": HELIX,
}


def another_value(name: str):
    """Return a value of a setting that is not its default, and what it does not go without."""
    others = {"particles": "p.star", **COMPANIONS.get(name, {})}
    for candidate in CANDIDATES:
        try:
            settings = RefineSettings(**{**others, name: candidate})
        except ValueError:
            continue
        if getattr(settings, name) != RefineSettings.model_fields[name].default:
            return candidate, others
    raise AssertionError(f"no candidate is valid for {name}")


@pytest.mark.parametrize("name", RefineSettings.model_fields)
def test_every_setting_of_the_first_run_holds_unless_it_is_given_anew(name, tmp_path):
    value, others = another_value(name)
    first = make_settings({**others, name: value})
    save_settings(tmp_path / "settings.toml", first)
    values = load_settings(tmp_path / "settings.toml")

    change = {"fsc_criterion": 0.3} if name != "fsc_criterion" else {"max_tilt_deg": 100.0}
    held, _ = merge_settings(values, Changes(change), where="run")
    assert held == first.model_copy(update=change)

    save_settings(tmp_path / "settings.toml", make_settings(others))
    values = load_settings(tmp_path / "settings.toml")
    if name in FIXED:
        with refused(f"--{name.replace('_', '-')} cannot change in a run", "new run"):
            merge_settings(values, Changes({name: value}), where="run")
    else:
        changed, _ = merge_settings(values, Changes({name: value}), where="run")
        assert changed == first


def test_what_a_mere_reconstruction_has_no_use_for_comes_back_after_it(tmp_path):
    first = make_settings(
        {"particles": "p.star", "reference": ("a.mrc",), "iterations": 4, "refine_grey": True}
    )
    save_settings(tmp_path / "settings.toml", first)
    values = load_settings(tmp_path / "settings.toml")
    none, suspended = merge_settings(values, Changes({"alignment": "none"}), where="run")
    assert set(suspended) == {"reference", "iterations", "refine_grey"}
    save_settings(tmp_path / "settings.toml", none)
    values = load_settings(tmp_path / "settings.toml")
    before = {**values, **suspended}
    back, suspended = merge_settings(before, Changes({"alignment": "local"}), where="run")
    assert back == first.model_copy(update={"alignment": "local"})
    assert suspended == {}
    with refused("--reference cannot change"):
        merge_settings(
            before, Changes({"alignment": "local", "reference": ("b.mrc",)}), where="run"
        )
    merge_settings(before, Changes({"alignment": "local", "reference": ("./a.mrc",)}), where="")


@pytest.mark.parametrize("name", RefineSettings.model_fields)
def test_every_setting_can_be_taken_back_but_those_that_a_run_rests_on(name):
    value, others = another_value(name)
    before = {**others, name: value}
    if name == "particles":
        with refused("--particles Field required"):
            merge_settings(before, Changes({name: None}), where="run")
    elif name in FIXED:
        with refused(f"--{name.replace('_', '-')} cannot change in a run"):
            merge_settings(before, Changes({name: None}), where="run")
    else:
        # Two that need each other are taken back together.
        pair = next((pair for pair in PAIRS if name in pair), {name: value})
        others = {other: kept for other, kept in others.items() if other not in pair}
        taken, _ = merge_settings(before, Changes(dict.fromkeys(pair)), where="run")
        assert taken == make_settings(others)
    # Where it was never given there is nothing to change.
    if name != "particles":
        never, _ = merge_settings(others, Changes({name: None}), where="run")
        assert never == make_settings(others)


def test_of_a_settings_file_only_what_is_new_changes_a_run():
    before = {"particles": "p.star", "reference": ["a.mrc"], "mask": "m.mrc", "iterations": 2}
    file = {**before, "particles": "./p.star", "fsc_criterion": 0.143, "seed": 0}
    same = Changes({}, of_file=file).against(before)
    assert not same.is_any
    changes = Changes({"dropout": 0.1}, of_file={**file, "dropout": 0.2, "iterations": 3})
    assert changes.against(before).changed == {"dropout": 0.1, "iterations": 3}
    other = Changes({}, of_file={**file, "reference": ["b.mrc"], "colour": "red"}).against(before)
    with refused("--reference cannot change", "--colour no such setting"):
        merge_settings(before, other, where="run")
