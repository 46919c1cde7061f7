from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.events import EventLog
from cryorefine.particles.half_sets import assign_halves
from cryorefine.records.particle_registry import (
    extend_halves,
    first_registry,
    known_poses,
    next_registry,
)
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Poses
from tests.builders import make_table, refused

COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")


def registry_of(table, half=None):
    if half is None:
        half = assign_halves(table, seed=0, events=EventLog())
    return first_registry(table, np.arange(len(table)), np.asarray(half, np.int8))


def extended(table, registry, seed=(0, 2)):
    """Return the halves, and the warnings that dealing them gave."""
    heard = []
    events = EventLog()
    events.subscribe(heard.append)
    half = extend_halves(table, registry, registry.match(table), seed=seed, events=events)
    assert set(half.tolist()) <= {1, 2}
    return half, [e.message for e in heard if e.kind == "warning"]


def poses_of(n, first=0.0):
    turn = torch.eye(3, dtype=torch.float64).expand(n, 3, 3)
    shift = torch.arange(n, dtype=torch.float64)[:, None].expand(n, 2) + first
    return Poses(turn, shift, ParticleScores(score=torch.ones(n, dtype=torch.float64)))


def test_particles_are_recognised_by_their_image_whatever_their_row():
    table = make_table(6, stack=[0, 0, 0, 1, 1, 1], image=[0, 1, 2, 0, 1, 2])
    shuffled = table.select(np.array([5, 0, 3]))
    assert registry_of(table).match(shuffled).tolist() == [5, 0, 3]
    elsewhere = make_table(6, stack=[0] * 6, folder=Path("/other"))
    assert registry_of(table).match(elsewhere).tolist() == [0, 1, 2, -1, -1, -1]
    # Of another defocus it is another image, whatever it is called.
    other = replace(elsewhere, defocus_u_A=elsewhere.defocus_u_A + 1)
    assert (registry_of(table).match(other) == -1).all()


def test_new_segments_join_the_half_of_their_filament():
    # Both micrographs have been used in both halves, so that only the filament tells.
    tubes = [1, 1, 2, 2, 1, 1, 2, 2]
    columns = {"rlnHelicalTubeID": np.array([str(t) for t in tubes], "S8")}
    table = replace(make_table(8, micrograph=[0, 0, 0, 0, 1, 1, 1, 1]), extra=columns)
    first = registry_of(table.select(np.array([0, 2, 4, 6])), half=[1, 2, 2, 1])
    for seed in range(8):
        half, warnings = extended(table, first, seed=(seed, 2))
        assert half.tolist() == [1, 1, 2, 2, 2, 2, 1, 1]
        assert not warnings


def picked(table, places_px):
    """Return a table whose particles were picked at these coordinates."""
    columns = np.char.mod("%.3f", np.asarray(places_px)).astype("S")
    return replace(table, extra={"rlnCoordinateX": columns[:, 0], "rlnCoordinateY": columns[:, 1]})


def test_particles_that_were_extracted_anew_are_recognised_by_where_they_were_picked():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 4000, (40, 2))
    table = picked(make_table(40, micrograph=np.repeat(np.arange(4), 10).tolist()), places)
    registry = registry_of(table)
    order = rng.permutation(40)[:30]
    # Other stacks, another order, other folders of the micrographs, and five that are new.
    anew = make_table(
        35,
        micrograph=[*np.repeat(np.arange(4), 10)[order], 0, 1, 2, 3, 3],
        stack=[3] * 35,
        folder=Path("/anew"),
    )
    anew = replace(anew, micrographs=tuple(f"job9/{name}" for name in anew.micrographs))
    moved = [*(places[order] + rng.uniform(-0.4, 0.4, (30, 2))), *(places[:5] + 30)]
    anew = picked(anew, moved)
    match = registry.match(anew)
    assert match.tolist() == [*order.tolist(), *[-1] * 5]
    half = extended(anew, registry)[0]
    assert half[:30].tolist() == registry.half[order].tolist()
    # The same image numbers in a stack of the same name do not make them the same particles.
    renamed = replace(anew, names=np.array([f"{i + 1:06d}@s0.mrcs" for i in range(35)]))
    assert registry.match(renamed).tolist() == match.tolist()
    # Afterwards both images are known for the same particle.
    known = known_poses(registry, np.arange(40), poses_of(40))
    poses = known.of_table(registry, anew, match, is_new_file=True)
    assert poses is not None
    assert poses.shift_A[:30, 0].tolist() == order.tolist()
    second = next_registry(
        registry, known, anew, match,
        used=np.arange(35), half=half, dropped=np.zeros(35, "<U1"),
    )  # fmt: skip
    assert second.match(table)[order].tolist() == list(range(30))
    assert len(second) == 45


def test_coordinates_that_are_not_known_or_no_numbers_match_nothing():
    table = make_table(4, micrograph=[0, 0, 1, 1])
    elsewhere = make_table(4, micrograph=[0, 0, 1, 1], stack=[5] * 4, folder=Path("/other"))
    words = replace(elsewhere, extra={n: np.array([b"a"] * 4) for n in COORDINATES})
    known = picked(table, np.full((4, 2), 7.0))
    for mine in (table, known):
        for theirs in (elsewhere, words):
            assert (registry_of(mine).match(theirs) == -1).all()
    # Two at one place are two particles: each is found once.
    twice = picked(elsewhere, np.full((4, 2), 7.0))
    assert sorted(registry_of(known).match(twice).tolist()).count(-1) <= 2


def test_rows_that_show_one_image_are_matched_in_turn():
    table = make_table(4, image=[7, 8, 7, 7])
    wanted = make_table(5, image=[7, 7, 8, 7, 7])
    registry = registry_of(table, [1, 2, 1, 1])
    assert registry.match(wanted).tolist() == [0, 2, 1, 3, -1]
    half, _ = extended(wanted, registry)
    assert half.tolist() == [1, 1, 2, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_new_micrographs_are_dealt_whole_and_the_halves_stay_balanced(seed):
    micrograph = np.repeat(np.arange(12), 5)
    table = make_table(60, micrograph=micrograph.tolist())
    known = np.arange(32)  # two particles of micrograph 6 are in the run, three are new
    registry = registry_of(table.select(known))
    half, warnings = extended(table, registry, seed=(seed, 2))
    assert not warnings
    assert (half[known] == registry.half).all()
    assert (half[32:35] == half[30]).all()
    for m in range(7, 12):
        assert len(set(half[micrograph == m].tolist())) == 1
    assert abs(int((half == 1).sum()) - 30) <= 5


def test_halves_of_the_file_hold_for_new_particles_where_they_agree_with_the_run():
    table = make_table(6, half=[1, 1, 2, 2, 2, 2])
    registry = registry_of(table.select(np.arange(4)), [1, 1, 2, 2])
    assert extended(table, registry)[0].tolist() == [1, 1, 2, 2, 2, 2]
    half, warnings = extended(table, registry_of(table.select(np.arange(4)), [2, 2, 1, 1]))
    assert half[:4].tolist() == [2, 2, 1, 1]
    assert sorted(half[4:].tolist()) == [1, 2]
    assert "not those of the run" in warnings[0]


def test_one_large_new_micrograph_is_dealt_by_single_images_with_a_warning():
    table = make_table(40, micrograph=[0] * 5 + [1] * 5 + [2] * 30)
    registry = registry_of(table.select(np.arange(10)), [1] * 5 + [2] * 5)
    half, warnings = extended(table, registry)
    assert "too few new micrographs" in warnings[0]
    assert abs(int((half == 1).sum()) - 20) <= 1


def test_a_half_that_would_be_empty_is_refused():
    table = make_table(4)
    registry = registry_of(table, [1, 1, 2, 2])
    with refused("no particle is left in half set 2"):
        extended(table.select(np.array([0, 1])), registry)


def test_particles_that_leave_are_remembered_with_half_and_pose():
    table = make_table(6, micrograph=[0, 0, 1, 1, 2, 2])
    registry = registry_of(table)
    known = known_poses(registry, np.arange(6), poses_of(6))
    smaller = table.select(np.array([4, 1]))
    match = registry.match(smaller)
    second = next_registry(
        registry, known, smaller, match,
        used=np.array([0]), half=registry.half[[4]], dropped=np.array(["", "too low"]),
    )  # fmt: skip
    assert len(second) == 6
    assert second.aside.tolist() == [1, 2, 3, 4, 5]
    assert second.dropped.tolist() == ["", "too low", "", "", "", ""]
    # Everything comes back but for what the one that stayed has become.
    again = known_poses(second, np.array([0]), poses_of(1, first=100.0))
    match = second.match(table)
    poses = again.of_table(second, table, match, is_new_file=True)
    assert poses is not None
    assert poses.shift_A[:, 0].tolist() == [0, 1, 2, 3, 100, 5]
    assert bool(poses.is_assigned.all())
    assert extended(table, second)[0].tolist() == registry.half.tolist()


def test_poses_of_a_new_file_win_and_new_particles_without_one_are_not_assigned():
    table = make_table(4)
    registry = registry_of(table, [1, 2, 1, 2])
    known = known_poses(registry, np.arange(4), poses_of(4))
    larger = make_table(5)
    poses = known.of_table(registry, larger, registry.match(larger), is_new_file=True)
    assert poses is not None
    assert poses.is_assigned.tolist() == [True] * 4 + [False]
    placed = replace(larger, has_pose=True, shift_A=np.full((5, 2), 9.0))
    poses = known.of_table(registry, placed, registry.match(placed), is_new_file=True)
    assert poses is not None
    assert (poses.shift_A == 9).all()
    assert poses.is_assigned.tolist() == [True] * 4 + [False]
    poses = known.of_table(registry, replace(placed).select(np.arange(4)), np.arange(4),
                           is_new_file=False)  # fmt: skip
    assert poses is not None
    assert poses.shift_A[:, 0].tolist() == [0, 1, 2, 3]


def test_new_particles_begin_with_the_values_that_their_file_has():
    table = make_table(3)
    registry = registry_of(table, [1, 2, 1])
    larger = replace(
        make_table(5), has_pose=True, earlier={"cryorefineGreyScale": np.full(5, 1.25)}
    )
    match = registry.match(larger)
    for own, expected in ((None, 0.0), (torch.full((3, 8), 0.5, dtype=torch.float64), 0.5)):
        known = known_poses(registry, np.arange(3), replace(poses_of(3), optics=own))
        poses = known.of_table(registry, larger, match, is_new_file=True)
        assert poses is not None
        assert poses.optics is not None
        assert poses.optics[:, 0].tolist() == [expected] * 3 + [0.25] * 2
        assert (poses.optics[3:, 1:] == 0).all()


def test_a_change_of_defocus_that_the_new_file_has_already_is_not_made_twice():
    table = make_table(3)
    registry = registry_of(table, [1, 2, 1])
    poses = replace(poses_of(3), optics=torch.ones(3, 8, dtype=torch.float64))
    known = known_poses(registry, np.arange(3), poses)
    changed = replace(table, defocus_u_A=table.defocus_u_A + np.array([0.0, 300.0, 0.0]))
    out = known.of_table(registry, changed, np.arange(3), is_new_file=True)
    assert out is not None
    assert out.optics is not None
    assert out.optics[:, 5:].sum(1).tolist() == [3, 0, 3]
    assert (out.optics[:, :5] == 1).all()
