"""The texts of a run name all that it was asked for and no default."""

import math
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Gt, Lt

from cryorefine.engine.clock import Clock
from cryorefine.records.methods_text import methods_text, summary_text
from cryorefine.records.particle_statistics import particle_statistics
from cryorefine.records.settings_in_words import CHANGE_NO_RESULT, changed_settings
from cryorefine.run.checkpoint import load_state
from cryorefine.run.folder import summarise
from cryorefine.run.loop import refine
from cryorefine.settings import RefineSettings
from cryorefine.state.plan import IterationRecord
from cryorefine.state.state import Inputs, State
from tests.behaviour.conftest import begun, settings_for, simulate_set

SYMMETRISED = {"post_symmetry": "i1", "post_symmetry_mask": Path("shell.mrc")}
HELIX = {"helical_twist_deg": 22.03, "helical_rise_angstrom": 1.408}
SEARCHED = {**HELIX, "helical_twist_range_deg": (20, 24), "helical_rise_range_angstrom": (1.2, 2)}
NEEDS: dict[str, dict[str, Any]] = {
    "command_shell": {"reference_command": "sharpen {volume}"},
    "helical_fraction": HELIX,
    "helical_inner_radius_angstrom": HELIX,
    "helical_max_out_of_plane_deg": HELIX,
    "helical_psi_range_deg": HELIX,
    "helical_radius_angstrom": HELIX,
    "helical_rise_angstrom": HELIX,
    "helical_rise_range_angstrom": SEARCHED,
    "helical_twist_deg": HELIX,
    "helical_twist_range_deg": SEARCHED,
    "initial_lowpass_angstrom": {"reference": (Path("start.mrc"),)},
    "mask_voxel_angstrom": {"mask": Path("mask.mrc")},
    "max_defocus_change_angstrom": {"refine_defocus": True},
    "max_grey_offset": {"refine_grey": True},
    "max_grey_scale_change_percent": {"refine_grey": True},
    "max_magnification_change_percent": {"refine_scale": True},
    "min_cc_weight": {"weight_cc": True},
    "reference_from_processed": {"post_command": "flip {volume}"},
    "post_symmetry": SYMMETRISED,
    "post_symmetry_angles_deg": SYMMETRISED,
    "post_symmetry_mask": SYMMETRISED,
    "stochastic_mixing": {"alignment": "stochastic"},
    "stochastic_subset": {"alignment": "stochastic"},
}
"""What else must be set for a setting to have an effect."""

VALUES: dict[str, list[Any]] = {
    "symmetry": ["d7"],
    "target_resolution": [(15.0, 8.25)],
    "helical_fraction": [0.25],
    "helical_rise_range_angstrom": [(1.25, 1.5)],
    "helical_twist_range_deg": [(21.25, 23.5)],
    "reference": [(Path("start.mrc"),), (Path("first.mrc"), Path("second.mrc"))],
    "reference_command": ["denoise {volume} --strong"],
    "post_command": ["flip {volume}"],
    "post_symmetry": ["i3"],
    "post_symmetry_angles_deg": [(11.0, 22.0, 33.0)],
}
"""Values of settings whose types do not tell."""


def plain(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(a for a in get_args(annotation) if a is not type(None))
    return annotation


def number_beside(info: Any) -> float:
    """Return a number that a setting may have, and that no other has by default."""
    low, high = 0.0, math.inf
    for limit in info.metadata:
        low = max(low, getattr(limit, "gt", getattr(limit, "ge", low)))
        high = min(high, getattr(limit, "lt", getattr(limit, "le", high)))
    assert not any(isinstance(m, Gt | Lt) and low == high for m in info.metadata)
    return low + 7.0 if low + 7.0 < high else round(low + 0.37 * (high - low), 4)


def other_values(name: str, info: Any) -> list[Any]:
    """Return values of a setting that are not its default."""
    kind = plain(info.annotation)
    if name in VALUES:
        return VALUES[name]
    if kind is bool:
        return [True, False] if info.default is None else [not info.default]
    if get_origin(kind) is Literal:
        return [value for value in get_args(kind) if value != info.default]
    if kind is Path:
        return [Path("folder") / "a_file.mrc"]
    assert kind in (int, float), f"say in VALUES what {name} may be"
    return [kind(number_beside(info))]


def shown(value: Any) -> list[str]:
    """Return what a text must hold that names a value."""
    match value:
        case bool() | None:
            return []
        case tuple():
            return [word for part in value for word in shown(part)]
        case Path():
            return [value.name]
        case int() | float():
            return [f"{value:g}"]
    return []


def history(settings: RefineSettings, inputs: Inputs) -> list[IterationRecord]:
    """Return records as a run by these settings would have."""
    modes: dict[str, list[Any]] = {
        "automatic": ["global", "local"], "stochastic": ["global"],
    }  # fmt: skip
    subset = settings.stochastic_subset if settings.alignment == "stochastic" else None
    return [
        IterationRecord(
            iteration=i, mode=mode, resolution_A=9.0, align_resolution_A=9.0,
            reconstruct_resolution_A=9.0, median_turn_deg=1.0, jumped_fraction=0.0,
            median_sigma_rotation_deg=1.0, subset=subset,
        )
        for i, mode in enumerate(modes.get(settings.alignment, [settings.alignment]), 1)
    ]  # fmt: skip


STATISTICS = {
    "n_input": 80, "n_rejected": 0, "n_used": 80, "n_not_drawn": 0, "set_aside": {}, "left_out": {},
}  # fmt: skip


def text_of(begun: tuple[Inputs, State], settings: RefineSettings) -> str:
    inputs, state = begun
    inputs = replace(inputs, settings=settings, group=named_group(settings))
    state = replace(state, history=history(settings, inputs))
    return methods_text(inputs, state, {"resolution_A": 9.0}, STATISTICS)


def named_group(settings: RefineSettings):
    from cryorefine.geometry.symmetry import parse_symmetry

    return parse_symmetry(settings.symmetry)


def unnamed(begun: tuple[Inputs, State], model: type[RefineSettings]) -> Iterator[str]:
    """Yield the settings of a model, with values, that the text does not name when they are set."""
    for name, info in model.model_fields.items():
        if name in CHANGE_NO_RESULT or name == "particles":
            continue
        needs = {"particles": Path("set.star"), **NEEDS.get(name, {})}
        without = text_of(begun, model(**needs))
        for value in other_values(name, info):
            text = text_of(begun, model(**{**needs, name: value}))
            words = [value] if name.endswith("_command") else shown(value)
            words = [w.upper() for w in VALUES[name]] if name == "symmetry" else words
            if text == without or not all(word in text for word in words):
                yield f"{name} = {value}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return simulate_set(
        tmp_path_factory.mktemp("texts") / "data",
        particles=80, box_px=32, pixel_angstrom=5.0, snr=0.3, per_micrograph=8, symmetry="c1",
    )  # fmt: skip


@pytest.fixture(scope="module")
def begun_run(tiny) -> tuple[Inputs, State]:
    return begun(settings_for(tiny, symmetry="c1", compare_to=None))


def test_the_methods_name_every_setting_that_changes_a_result_and_is_no_default(begun_run):
    assert list(unnamed(begun_run, RefineSettings)) == []


def test_a_new_setting_that_the_methods_forget_would_be_found(begun_run):
    class Larger(RefineSettings):
        made_up: bool = False

    assert list(unnamed(begun_run, Larger)) == ["made_up = True"]


def test_what_changes_no_result_is_a_setting():
    assert set(CHANGE_NO_RESULT) < set(RefineSettings.model_fields)


def test_settings_without_effect_are_not_named(begun_run):
    ones = {"particles": Path("set.star"), "alignment": "global"}
    quiet = text_of(begun_run, RefineSettings(**ones))
    for name, value in (("min_cc_weight", 0.5), ("stochastic_subset", 9), ("max_grey_offset", 1.0)):
        assert text_of(begun_run, RefineSettings(**{**ones, name: value})) == quiet


def test_settings_that_differ_from_their_defaults_are_listed_by_name():
    settings = RefineSettings(
        particles=Path("set.star"),
        positivity=True,
        target_resolution=(9.0, 8.0),
        threads=3,
        refine_angles=False,
    )
    assert changed_settings(settings) == [
        "--target-resolution 9.0 8.0", "--no-refine-angles", "--positivity",
    ]  # fmt: skip


def test_texts_summary_and_table_of_a_restricted_reconstruction_count_alike(tiny, tmp_path):
    settings = settings_for(
        tiny, particles=tiny / "truth_particles.star", reference=(), alignment="none",
        symmetry="c1", reconstruct_min_tilt_deg=60.0, reconstruct_max_tilt_deg=120.0,
        min_tilt_deg=30.0, compare_to=None,
    )  # fmt: skip
    summary = refine(settings, tmp_path / "run")
    inputs, _ = begun(replace_particles(settings))
    state = load_state(tmp_path / "run", 1).state
    counts = state.history[-1].counts
    assert counts is not None
    assert 0 < counts.n_used < 80
    assert set(counts.left_out) == {
        "poses outside the tilt limits", "tilts that are not reconstructed",
    }  # fmt: skip
    assert counts.n_used + counts.n_left_out == counts.n_given == 80
    assert (counts.n_aligned, counts.n_not_drawn) == (0, 0)
    assert (summary["n_used"], summary["left_out"]) == (counts.n_used, counts.left_out)
    methods = (tmp_path / "run" / "methods.txt").read_text()
    assert f"{counts.n_used} particles contributed to the final map; left out were" in methods
    assert "Only particles of tilts from 60° to 120°" in methods
    assert "limited to 30° to 180°" in methods
    listed = (tmp_path / "run" / "summary.txt").read_text()
    assert f"used        {counts.n_used} " in listed
    assert "--reconstruct-min-tilt-deg 60.0" in listed
    statistics = particle_statistics(inputs, state)
    again = summary_text(
        inputs, state, summarise(inputs, state, Clock(), finished=True), statistics
    )
    assert f"used        {counts.n_used} " in again


def replace_particles(settings: RefineSettings) -> RefineSettings:
    """Return settings whose inputs can be opened beside an initial map."""
    reference = (settings.particles.parent / "reference.mrc",)
    return settings.model_copy(update={"reference": reference})
