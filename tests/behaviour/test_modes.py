"""No mode spoils poses: what a run wrote, fed back to it, is no worse."""

import json
import shutil

import numpy as np
import pytest
import torch

import cryorefine.run.loop as loop_module
from cryorefine.errors import StoppedEarly
from cryorefine.events import read_events
from cryorefine.geometry.rotation import geodesic_angle, matrix_from_euler
from cryorefine.io.mrc import read_volume
from cryorefine.io.star import read_star
from cryorefine.particles.formats.relion import read_relion
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine, resume
from cryorefine.storage.layout import committed_iterations
from tests.builders import refused

from .conftest import settings_for, simulate_set
from .test_refinement import pose_errors

WRONG_DEG = 10.0


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Return a set on which local runs that began at 30 Å spoilt perfect poses."""
    return simulate_set(
        tmp_path_factory.mktemp("noisy") / "data",
        particles=160, symmetry="c1", per_micrograph=10,
    )  # fmt: skip


def run(data, folder, **changes):
    values = {"symmetry": "c1", "compare_to": None, "threads": 1, "reference": ()}
    return refine(settings_for(data, **{**values, **changes}), folder)


def wrong(data, star, symmetry="c1"):
    """Return the share of wrong poses, and the median error in degrees."""
    angle, _ = pose_errors(star, data / "truth_particles.star", symmetry)
    return float(np.mean(angle > WRONG_DEG)), float(np.median(angle))


def columns(folder):
    return read_star(folder / "particles.star")["particles"]


def warnings(folder):
    events = read_events(folder / "events.jsonl")
    return [e.message for e in events if e.kind == "warning"]


@pytest.fixture(scope="module")
def local(noisy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local") / "run"
    run(noisy, folder, particles=noisy / "truth_particles.star", alignment="local")
    return folder


@pytest.fixture(scope="module")
def stochastic(noisy, tmp_path_factory):
    """Return a run that came to some particles only, of a file without poses."""
    folder = tmp_path_factory.mktemp("stochastic") / "run"
    run(noisy, folder, alignment="stochastic", stochastic_subset=20, iterations=1,
        reference=(noisy / "reference.mrc",))  # fmt: skip
    return folder


def test_local_keeps_perfect_poses_and_starts_where_they_are(noisy, local):
    share, median = wrong(noisy, local / "particles.star")
    assert share == 0
    # As well as 80 noisy particles a half can tell: perfect poses were once held by their own noise
    # in the reference, at 1.2 degrees.
    assert median < 1.8
    state = load_state(local, 3).state
    assert state.start_A < 15
    assert state.history[0].align_resolution_A == pytest.approx(0.9 * state.start_A)


@pytest.mark.parametrize("maps", [("reference.mrc",), ("reference.mrc", "truth_map.mrc")])
def test_local_prefers_good_poses_to_references_and_says_so(noisy, tmp_path, maps):
    paths = tuple(noisy / name for name in maps)
    run(noisy, tmp_path / "run", particles=noisy / "truth_particles.star", alignment="local",
        reference=paths, iterations=1)  # fmt: skip
    assert wrong(noisy, tmp_path / "run" / "particles.star")[0] == 0
    emitted = [w for w in warnings(tmp_path / "run") if "--initial-lowpass-angstrom" in w]
    assert len(emitted) == 1
    assert all(str(path) in emitted[0] for path in paths)


def test_local_prefers_a_reference_to_poses_that_support_nothing(noisy, tmp_path):
    star = tmp_path / "random.star"
    angle = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"}
    shuffled(noisy / "truth_particles.star", star, angle)
    how = {"particles": star, "alignment": "local", "iterations": 1}
    run(noisy, tmp_path / "run", reference=(noisy / "reference.mrc",), **how)
    state = load_state(tmp_path / "run", 1).state
    assert np.isnan(state.start_A)
    assert state.history[0].align_resolution_A == pytest.approx(27)
    assert any("--alignment automatic" in w for w in warnings(tmp_path / "run"))
    run(noisy, tmp_path / "alone", **how)
    assert any("an initial map (--reference)" in w for w in warnings(tmp_path / "alone"))


def shuffled(source, target, labels):
    """Write a particle file with some columns in another order, and no right shift."""
    lines = source.read_text().split("\n")
    at = lines.index("data_particles")
    head = [i for i in range(at, len(lines)) if lines[i].startswith("_")]
    names = [lines[i].split()[0][1:] for i in head]
    rows = [i for i in range(head[-1] + 1, len(lines)) if lines[i].strip()]
    values = [lines[i].split() for i in rows]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(rows))
    for column in (names.index(label) for label in labels):
        old = [v[column] for v in values]
        for v, k in zip(values, order, strict=True):
            v[column] = old[k]
    for column in (names.index("rlnOriginXAngst"), names.index("rlnOriginYAngst")):
        for v in values:
            v[column] = f"{rng.uniform(-60, 60):.3f}"
    name = names.index("rlnImageName")
    folder = source.parent
    for i, v in zip(rows, values, strict=True):
        number, stack = v[name].split("@")
        v[name] = f"{number}@{folder / stack}"
        lines[i] = " ".join(v)
    target.write_text("\n".join(lines))


def test_an_initial_low_pass_that_is_given_is_where_a_local_run_starts(noisy, tmp_path):
    run(noisy, tmp_path / "run", particles=noisy / "truth_particles.star", alignment="local",
        initial_lowpass_angstrom=24.0, iterations=1)  # fmt: skip
    state = load_state(tmp_path / "run", 1).state
    assert state.history[0].align_resolution_A == pytest.approx(21.6)
    assert np.isnan(state.start_A)


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Return a symmetric set, which searches from 30 Å find the poses of, and its refinement."""
    folder = tmp_path_factory.mktemp("refined")
    data = simulate_set(folder / "data", particles=160, snr=0.2, per_micrograph=10)
    run(data, folder / "run", symmetry="d2", reference=(data / "reference.mrc",), iterations=5)
    return data, folder / "run"


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("automatic", {"iterations": 4}),
        pytest.param("global", {"iterations": 2}, marks=pytest.mark.slow),
        ("local", {"iterations": 2}),
        pytest.param(
            "stochastic",
            {"iterations": 2, "stochastic_subset": 60, "stochastic_mixing": 0.5},
            marks=pytest.mark.slow,
        ),
        ("none", {}),
    ],
)
def test_output_fed_back_is_no_worse(refined, tmp_path, mode, how):
    """Poses may move by noise: one particle in fifty, and a fifth of the median error.

    A few iterations that search begin at 30 Å and end coarser than a whole refinement: their own
    output is what they are measured by.
    """
    data, before = refined
    if mode in ("global", "stochastic"):
        before = fed_back(data, before, tmp_path / "first", mode, how)
    after = fed_back(data, before, tmp_path / "second", mode, how)
    (share, median), (old_share, old_median) = (
        wrong(data, folder / "particles.star", "d2") for folder in (after, before)
    )
    assert old_share < 0.1
    assert share <= old_share + 0.02
    assert median <= 1.2 * old_median
    assert set(columns(after).integers("cryorefineIsAssigned")) == {1}


def fed_back(data, earlier, folder, mode, how):
    """Run a mode on what an earlier run wrote; return the folder."""
    reference = () if mode == "none" else (earlier / "map.mrc",)
    run(data, folder, particles=earlier / "particles.star", alignment=mode, symmetry="d2",
        reference=reference, **how)  # fmt: skip
    return folder


def test_a_stochastic_run_marks_particles_that_it_never_drew(noisy, stochastic):
    table = columns(stochastic)
    assigned = table.integers("cryorefineIsAssigned")
    assert assigned.sum() == 40
    angles = np.stack([table.floats(f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")])
    assert not angles[:, assigned == 0].any()
    assert angles[:, assigned == 1].any(0).all()
    assert json.loads((stochastic / "summary.json").read_text())["n_without_pose"] == 120
    assert "120 have no pose" in (stochastic / "summary.txt").read_text()
    assert sum("cryorefine resume" in w for w in warnings(stochastic)) == 1


def test_a_stochastic_run_keeps_and_marks_poses_of_the_file(noisy, tmp_path):
    truth = noisy / "truth_particles.star"
    run(noisy, tmp_path / "run", particles=truth, alignment="stochastic", stochastic_subset=20,
        iterations=1)  # fmt: skip
    table, given = columns(tmp_path / "run"), read_star(truth)["particles"]
    kept = table.integers("cryorefinePoseIsFromFile") == 1
    assert kept.sum() == 120
    assert set(table.integers("cryorefineIsAssigned")) == {1}
    difference = np.abs(table.floats("rlnAngleTilt") - given.floats("rlnAngleTilt"))
    assert difference[kept].max() < 1e-4
    assert difference[~kept].max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["local", "none"])
def test_rows_without_a_pose_are_set_aside_where_poses_are_kept(noisy, stochastic, tmp_path, mode):
    summary = run(noisy, tmp_path / "run", particles=stochastic / "particles.star",
                  alignment=mode, iterations=1)  # fmt: skip
    assert (summary["n_used"], summary["n_rejected"]) == (40, 120)
    assert any("--alignment global" in w for w in warnings(tmp_path / "run"))
    rejected = read_star(tmp_path / "run" / "rejected_particles.star")["particles"]
    assert set(rejected.integers("cryorefineIsAssigned")) == {0}
    if mode == "none":
        return
    # They stay aside in the next segment, until a search finds their poses.
    again = resume(tmp_path / "run", changes={"iterations": 1})
    assert (again["n_used"], again["n_rejected"]) == (40, 120)
    found = resume(tmp_path / "run", changes={"alignment": "global", "iterations": 1})
    assert (found["n_used"], found["n_without_pose"]) == (160, 0)


def test_a_stochastic_run_resumed_as_local_is_refused_until_all_have_poses(stochastic):
    with refused("120 of 160 particles have no pose yet"):
        resume(stochastic, changes={"alignment": "local"})


def test_none_changes_no_pose_and_sets_aside_what_is_outside_the_tilts(noisy, tmp_path):
    truth = noisy / "truth_particles.star"
    summary = run(noisy, tmp_path / "run", particles=truth, alignment="none", **LIMITS)
    given, table = read_relion(truth), read_relion(tmp_path / "run" / "particles.star")
    turned = geodesic_angle(
        matrix_from_euler(torch.from_numpy(given.euler_rad)),
        matrix_from_euler(torch.from_numpy(table.euler_rad)),
    )
    assert float(turned.max()) < 1e-5
    tilt = np.rad2deg(given.euler_rad[:, 1])
    outside = (tilt < 60) | (tilt > 120)
    assert 0.2 < outside.mean() < 0.8
    weight = columns(tmp_path / "run").floats("cryorefineWeight")
    assert ((weight == 0) == outside).all()
    assert (summary["n_outside_tilts"], summary["n_at_tilt_limit"]) == (outside.sum(), 0)
    emitted = [w for w in warnings(tmp_path / "run") if "--min-tilt-deg" in w]
    assert len(emitted) == 1
    assert str(outside.sum()) in emitted[0]
    # Their images are in no map: a run without them is the same.
    whole = run(noisy, tmp_path / "all", particles=truth, alignment="none")
    assert whole["n_outside_tilts"] == 0
    first, second = (read_volume(tmp_path / n / "half1.mrc").data for n in ("run", "all"))
    assert not torch.equal(first, second)
    with refused("no particle of half 1 has a pose", "--min-tilt-deg"):
        run(noisy, tmp_path / "no", particles=truth, alignment="none", min_tilt_deg=179.8)


LIMITS = {"min_tilt_deg": 60.0, "max_tilt_deg": 120.0}


def is_outside(star):
    tilt_deg = np.rad2deg(read_relion(star).euler_rad[:, 1])
    return (tilt_deg < 60 - 1e-6) | (tilt_deg > 120 + 1e-6)


@pytest.mark.parametrize("how", [{}, {"refine_angles": False}, {"refine_defocus": True}])
def test_local_keeps_and_sets_aside_poses_that_were_given_outside_the_tilts(noisy, tmp_path, how):
    truth = noisy / "truth_particles.star"
    summary = run(noisy, tmp_path / "run", particles=truth, alignment="local", iterations=1,
                  **LIMITS, **how)  # fmt: skip
    outside, table = is_outside(truth), columns(tmp_path / "run")
    angle, shift = pose_errors(tmp_path / "run" / "particles.star", truth, "c1")
    assert max(angle[outside].max(), shift[outside].max()) < 1e-4
    assert angle.max() < WRONG_DEG
    assert ((table.floats("cryorefineWeight") == 0) == outside).all()
    assert summary["n_outside_tilts"] == outside.sum()
    assert sum(f"{outside.sum()} of 160" in w for w in warnings(tmp_path / "run")) == 1
    # Those that were inside have not left.
    assert (is_outside(tmp_path / "run" / "particles.star") == outside).all()


@pytest.mark.slow
def test_a_search_ends_within_the_tilts_and_counts_poses_on_their_limits(noisy, tmp_path):
    truth = noisy / "truth_particles.star"
    how = {"initial_lowpass_angstrom": 12.0, "iterations": 1, "alignment": "global"}
    summary = run(noisy, tmp_path / "run", particles=truth, reference=(noisy / "truth_map.mrc",),
                  **LIMITS, **how)  # fmt: skip
    table = columns(tmp_path / "run")
    tilt, at_limit = table.floats("rlnAngleTilt"), table.integers("cryorefineTiltAtLimit") == 1
    assert not is_outside(tmp_path / "run" / "particles.star").any()
    assert 0 < at_limit.sum() == summary["n_at_tilt_limit"]
    assert summary["n_outside_tilts"] == 0
    assert (np.minimum(np.abs(tilt - 60), np.abs(tilt - 120)) < 1e-3).sum() == at_limit.sum()
    angle, _ = pose_errors(tmp_path / "run" / "particles.star", truth, "c1")
    assert np.mean(angle[~is_outside(truth)] > WRONG_DEG) < 0.03
    # Poses on a limit are within it when they come back, and those beyond are searched for.
    again = run(noisy, tmp_path / "again", particles=tmp_path / "run" / "particles.star",
                alignment="none", **LIMITS)  # fmt: skip
    assert again["n_outside_tilts"] == 0


def test_a_stochastic_run_that_goes_on_still_marks_what_it_has_not_drawn(
    noisy, stochastic, tmp_path
):
    folder = shutil.copytree(stochastic, tmp_path / "run")
    summary = resume(folder, changes={"iterations": 1})
    assigned = columns(folder).integers("cryorefineIsAssigned")
    assert 40 < assigned.sum() <= 80
    assert summary["n_without_pose"] == (assigned == 0).sum()


def test_a_subset_is_mixed_into_the_map_of_a_global_run_and_does_not_replace_it(refined, tmp_path):
    _, finished = refined
    folder = shutil.copytree(finished, tmp_path / "run")
    last = committed_iterations(folder)[-1]  # rounding decides, which differs between processors
    before = load_state(folder, last).state
    how = {"alignment": "stochastic", "stochastic_subset": 20, "iterations": 1}
    resume(folder, changes=how)
    after = load_state(folder, last + 1).state
    assert after.evaluation.resolution_A < 1.05 * before.evaluation.resolution_A
    # The subset has a tenth of the map, whatever the numbers of particles.
    alone = resume(shutil.copytree(finished, tmp_path / "alone"),
                   changes={**how, "stochastic_mixing": 1.0})  # fmt: skip
    assert alone["resolution_A"] > 1.1 * before.evaluation.resolution_A
    replaced = load_state(tmp_path / "alone", last + 1).state
    for old, new, mixed in zip(before.halves, replaced.halves, after.halves, strict=True):
        difference = ((mixed - old) * (new - old)).sum() / (new - old).square().sum()
        assert 0.03 < float(difference) < 0.3


def test_a_mark_of_no_pose_gives_way_to_a_pose_that_another_program_found(stochastic, tmp_path):
    lines = (stochastic / "particles.star").read_text().split("\n")
    head = [i for i, line in enumerate(lines) if line.startswith("_")]
    labels = [lines[i].split()[0][1:] for i in head if i > lines.index("data_particles")]
    tilt, mark = labels.index("rlnAngleTilt"), labels.index("cryorefineIsAssigned")
    for i in range(head[-1] + 1, len(lines)):
        values = lines[i].split()
        if values and values[mark] == "0":
            values[tilt] = "12.0"
            lines[i] = " ".join(values)
            break
    star = tmp_path / "found.star"
    star.write_text("\n".join(lines))
    before, after = read_relion(stochastic / "particles.star"), read_relion(star)
    assert (before.lacks_pose.sum(), after.lacks_pose.sum()) == (120, 119)


@pytest.mark.parametrize(
    ("first", "changes"),
    [("automatic", {"alignment": "local", "iterations": 1}), ("local", None)],
)
def test_a_run_that_goes_on_as_local_before_it_did_anything_starts_from_its_poses(
    noisy, tmp_path, monkeypatch, first, changes
):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_module, "advance", interrupted)
    with pytest.raises(StoppedEarly):
        run(noisy, tmp_path / "run", particles=noisy / "truth_particles.star",
            reference=(noisy / "reference.mrc",), alignment=first, iterations=1)  # fmt: skip
    monkeypatch.undo()
    resume(tmp_path / "run", changes=changes)
    assert wrong(noisy, tmp_path / "run" / "particles.star")[0] == 0
    state = load_state(tmp_path / "run", 1).state
    assert state.start_A < 15
    assert state.history[0].align_resolution_A == pytest.approx(0.9 * state.start_A)


def test_local_tells_of_given_shifts_that_its_limit_will_not_leave(noisy, tmp_path):
    truth = noisy / "truth_particles.star"
    far = (np.linalg.norm(read_relion(truth).shift_A, axis=1) > 0.02 * 48 * 3.6).sum()
    run(noisy, tmp_path / "run", particles=truth, alignment="local", iterations=1,
        max_shift_percent=2.0)  # fmt: skip
    emitted = [w for w in warnings(tmp_path / "run") if "--max-shift-percent" in w]
    assert len(emitted) == 1
    assert f"{far} of 160" in emitted[0]


@pytest.mark.slow
def test_subsets_after_a_global_search_are_counted_as_what_they_are(noisy, tmp_path):
    folder = tmp_path / "run"
    run(noisy, folder, alignment="global", iterations=1, reference=(noisy / "reference.mrc",))
    changes = {"alignment": "stochastic", "iterations": 1, "stochastic_subset": 20}
    alone = shutil.copytree(folder, tmp_path / "alone")
    # The subset is mixed into the map of all particles.
    summary = resume(folder, changes=changes)
    assert (summary["n_used"], summary["n_aligned"], summary["n_not_drawn"]) == (160, 40, 0)
    assert "160 particles contributed" in (folder / "methods.txt").read_text()
    # Or it is the map by itself.
    summary = resume(alone, changes={**changes, "stochastic_mixing": 1.0})
    table = columns(alone)
    in_maps = table.integers("cryorefineIsInMaps") == 1
    assert summary["n_used"] == in_maps.sum() == 40
    assert (summary["n_aligned"], summary["n_not_drawn"]) == (40, 120)
    # They have the poses and weights that the search gave them.
    assert set(table.integers("cryorefineIsAssigned")) == {1}
    assert (table.floats("cryorefineWeight") > 0).all()
    text = (alone / "methods.txt").read_text()
    assert "in 1 iteration with searches of all orientations and 1 iteration of random" in text
    assert "40 particles contributed" in text
    assert "120 because they were not drawn" in text
    assert "holds from iteration 2 on" in text
    statistics = json.loads((alone / "statistics.json").read_text())
    by_iteration = [(c["n_aligned"], c["n_reconstructed"]) for c in statistics["by_iteration"]]
    assert [n for n, _ in by_iteration] == [160, 40]
    assert [sum(halves) for _, halves in by_iteration] == [160, 40]
