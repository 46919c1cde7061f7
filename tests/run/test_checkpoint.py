import dataclasses
import math

import numpy as np
import pytest
import torch

from cryorefine.errors import InputError
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.records.checkpoint_versions import _MIGRATIONS, VERSION
from cryorefine.records.particle_registry import ParticleRegistry
from cryorefine.run.checkpoint import (
    load_measurements,
    load_start,
    load_state,
    prune_iterations,
    save_start,
    save_state,
)
from cryorefine.state.counts import ParticleCounts
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import OtherPoses, Poses
from cryorefine.storage.layout import committed_iterations, iteration_folder
from tests.builders import make_checkpoint, make_state, refused


def assert_bit_equal(a, b, where="state"):
    """Compare values of any depth bit by bit; NaN equals NaN."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.shape == b.shape, where
        assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes(), where
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), where
    elif dataclasses.is_dataclass(a):
        for f in dataclasses.fields(a):
            assert_bit_equal(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}")
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_bit_equal(a[key], b[key], f"{where}[{key}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_bit_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), where
    else:
        assert a == b, where


def save(run, state):
    return save_state(run, make_checkpoint(state), lambda folder: None)


@pytest.mark.parametrize("n_groups", [1, 2, 11])
@pytest.mark.parametrize("size_px", [7, 8])
@pytest.mark.parametrize("compared", [True, False])
def test_a_state_comes_back_bit_by_bit(tmp_path, n_groups, size_px, compared):
    state = make_state(2, n_groups=n_groups, size_px=size_px, compared=compared)
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 2).state, state)


def test_the_state_before_the_first_iteration_comes_back_bit_by_bit(tmp_path):
    state = make_state(0)
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 0).state, state)


def test_poses_known_before_the_first_iteration_come_back(tmp_path):
    poses = dataclasses.replace(make_state(1).poses, scores=ParticleScores())
    state = dataclasses.replace(make_state(0), poses=poses)
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 0).state, state)


def test_the_poses_before_and_the_sums_of_a_stochastic_run_come_back(tmp_path):
    def sums(seed):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(9, 9, 5, dtype=torch.complex64, generator=generator)
        weights = torch.rand(9, 9, 5, generator=generator)
        return FoldedSums(values, weights, 4, 1.5, 8, 4.0, 2, 0.1 * seed)

    before = Poses(make_state(2).poses.rotations, make_state(2).poses.shift_A)
    state = dataclasses.replace(make_state(1, size_px=8), previous=before, sums=(sums(1), sums(2)))
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 1).state, state)


def test_where_a_segment_begins_comes_back_with_the_volumes_of_the_iteration_before(tmp_path):
    save(tmp_path, make_state(2))
    poses = make_state(2).poses.select(np.array([0, 3]))
    state = dataclasses.replace(make_state(2), poses=poses)
    start = make_checkpoint(state)
    folder = save_start(tmp_path, 2, start, lambda part: (part / "x").write_text("y"))
    assert (folder / "x").read_text() == "y"
    assert not list(folder.glob("*.mrc"))
    assert_bit_equal(load_start(tmp_path, 2, 2), start)
    assert committed_iterations(tmp_path) == [2]


def test_a_state_of_one_particle_comes_back(tmp_path):
    state = make_state(1, n=1)
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 1).state, state)


def rewritten(path, change):
    """Write the arrays of a checkpoint again, changed."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    np.savez(path, **arrays)


def make_registry():
    """Return what a run knows of seven particles, of which it has set two with poses aside."""
    aside = make_state(2, n=2).poses
    return ParticleRegistry(
        stacks=np.array(["/data/a.mrcs", "/data/b.mrcs"]),
        stack_index=np.array([0, 0, 0, 1, 1, 1, 1]),
        image_index=np.array([0, 1, 2, 0, 1, 2, 3]),
        micrographs=np.array(["m0"]),
        micrograph_index=np.array([0, 0, 0, 0, 0, -1, -1]),
        half=np.array([0, 1, 2, 1, 2, 1, 2], np.int8),
        defocus=np.arange(21.0).reshape(7, 3) / 3,
        dropped=np.array(["", "", "", "", "", "", "percentile 3.0 below limit 10"]),
        aside=np.array([0, 6]),
        poses=aside,
    )


@pytest.mark.parametrize("registry", [None, make_registry()], ids=["earlier", "now"])
def test_what_is_kept_with_a_state_comes_back_bit_by_bit(tmp_path, registry):
    optics = make_checkpoint(make_state(1)).constants.optics if registry else ()
    kept = make_checkpoint(make_state(1), registry=registry, optics=optics)
    kept = dataclasses.replace(kept, is_finished=registry is None)
    save_state(tmp_path, kept, lambda folder: None)
    assert_bit_equal(load_state(tmp_path, 1), kept)


def test_poses_with_all_that_they_can_have_come_back_bit_by_bit(tmp_path):
    poses = make_state(1).poses
    draw = torch.arange(500, dtype=torch.float64).sin()
    poses = dataclasses.replace(
        poses,
        covariance=draw[:125].reshape(5, 5, 5),
        optics=draw[:40].reshape(5, 8),
        others=OtherPoses(
            torch.tensor([0, 3, 3]),
            matrix_from_euler(draw[:9].reshape(3, 3)),
            draw[:6].reshape(3, 2),
            draw[:3],
        ),
    )
    state = dataclasses.replace(
        make_state(1), poses=poses, own_share=(draw[:9].abs(), draw[:9].abs() / 2), start_A=10 / 3
    )
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 1).state, state)


def test_files_that_are_added_are_committed_with_the_state(tmp_path):
    def fill(folder):
        assert committed_iterations(tmp_path) == []
        (folder / "map.mrc").write_text("x")

    folder = save_state(tmp_path, make_checkpoint(make_state(1)), fill)
    assert folder == iteration_folder(tmp_path, 1)
    assert (folder / "map.mrc").read_text() == "x"


@pytest.mark.parametrize("crash", [OSError, KeyboardInterrupt])
def test_an_iteration_that_crashes_while_it_is_written_does_not_exist(tmp_path, crash):
    def fill(folder):
        raise crash

    save(tmp_path, make_state(0))
    with pytest.raises(crash):
        save_state(tmp_path, make_checkpoint(make_state(1)), fill)
    assert committed_iterations(tmp_path) == [0]
    save(tmp_path, make_state(1))
    assert committed_iterations(tmp_path) == [0, 1]
    assert_bit_equal(load_state(tmp_path, 1).state, make_state(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iteration_000", "iteration_001"]


def test_an_iteration_that_is_run_again_replaces_the_old_one(tmp_path):
    folder = save(tmp_path, make_state(1, size_px=8))
    (folder / "map_processed.mrc").write_text("old")
    state = make_state(1, size_px=7)
    save(tmp_path, state)
    assert_bit_equal(load_state(tmp_path, 1).state, state)
    assert not (folder / "map_processed.mrc").exists()


def test_an_iteration_does_not_replace_a_folder_in_which_a_user_keeps_something(tmp_path):
    folder = save(tmp_path, make_state(1, size_px=8))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        save(tmp_path, make_state(1, size_px=7))
    assert (folder / "notes.txt").read_text() == "mine"


def test_committed_iterations_are_listed_in_order_and_nothing_else_is(tmp_path):
    for name in ("iteration_010", "iteration_002", "iteration_1000", "iteration_000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.npz").write_bytes(b"")
    (tmp_path / "iteration_005").mkdir()  # a user's
    for name in (".iteration_011.part", "iteration_7", "iteration_003.part", "iteration_old"):
        (tmp_path / name).mkdir()
    (tmp_path / "iteration_004").write_text("a file")
    assert committed_iterations(tmp_path) == [0, 2, 10, 1000]


def test_a_folder_that_does_not_exist_has_no_iterations(tmp_path):
    assert committed_iterations(tmp_path / "gone") == []


def test_only_the_last_two_iterations_keep_their_volumes_but_for_inputs_of_the_run(tmp_path):
    for iteration in range(4):
        save(tmp_path, make_state(iteration, size_px=4))
    spared = iteration_folder(tmp_path, 1) / "mask.mrc"
    prune_iterations(tmp_path, 3, (spared,))
    left = [
        sorted(path.name for path in iteration_folder(tmp_path, i).glob("*.mrc")) for i in range(4)
    ]
    assert left[0] == []
    assert left[1] == ["mask.mrc"]
    assert left[2] == left[3] != []
    assert all((iteration_folder(tmp_path, i) / "state.npz").exists() for i in range(4))
    assert_bit_equal(load_state(tmp_path, 2).state, make_state(2, size_px=4))


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(b"garbage" * 100)
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        middle = len(content) // 3
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif how == "foreign":
        with open(path, "wb") as file:
            np.savez(file, something=np.zeros(3))


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "cut", "flipped", "foreign"])
def test_a_damaged_checkpoint_is_refused_with_advice(tmp_path, how):
    path = save(tmp_path, make_state(1, n=50)) / "state.npz"
    damage(path, how)
    with refused(f"{path}: the checkpoint cannot be read", "the one before"):
        load_state(tmp_path, 1)


@pytest.mark.parametrize("name", ["reference1.mrc", "half2.mrc", "mask.mrc"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_damaged_map_of_a_checkpoint_is_refused_by_name(tmp_path, name, how):
    path = save(tmp_path, make_state(1)) / name
    damage(path, how)
    with refused(str(path)):
        load_state(tmp_path, 1)


@pytest.mark.parametrize("name", ["reference1.mrc", "half2.mrc", "mask.mrc"])
def test_a_map_of_a_checkpoint_with_another_bit_is_refused_by_name(tmp_path, name):
    path = save(tmp_path, make_state(1)) / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # of the last voxel's number, which stays one
    path.write_bytes(content)
    with refused(f"{path.parent / 'state.npz'}: ", f"'{name}' should be the one", "and is another"):
        load_state(tmp_path, 1)


def test_maps_of_a_checkpoint_that_were_swapped_are_refused(tmp_path):
    one = save(tmp_path, make_state(1)) / "reference1.mrc"
    other = one.with_name("reference2.mrc")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with refused("'reference1.mrc' should be the one"):
        load_state(tmp_path, 1)


def test_sums_of_another_checkpoint_are_refused(tmp_path):
    for iteration in (1, 2):
        weights = torch.full((3, 3, 2), float(iteration))
        state = make_state(iteration)
        size_px = state.references[0].shape[-1]
        total = FoldedSums(weights.to(torch.complex64), weights, 1, 1.5, size_px, 1.0, 2)
        save(tmp_path, dataclasses.replace(state, sums=(total, total)))
    (tmp_path / "iteration_002" / "sums.npz").write_bytes(
        (tmp_path / "iteration_001" / "sums.npz").read_bytes()
    )
    load_state(tmp_path, 1)
    with refused("'sums.npz, half 1' should be the one"):
        load_state(tmp_path, 2)


def test_a_checkpoint_that_says_nothing_of_its_maps_is_read(tmp_path):
    path = save(tmp_path, make_state(1)) / "state.npz"
    rewritten(path, lambda arrays: [arrays.pop(f"volume_{n}") for n in ("names", "sha256")])
    assert_bit_equal(load_state(tmp_path, 1).state, make_state(1))


@pytest.mark.parametrize("name", ["history", "group_scale", "noise_2_0", "curve_masked"])
def test_a_checkpoint_of_which_something_is_gone_is_refused_with_what_it_lacks(tmp_path, name):
    path = save(tmp_path, make_state(1)) / "state.npz"
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != name}
    np.savez(path, **arrays)
    with refused(f"lacks '{name}'", "the one before"):
        load_state(tmp_path, 1)


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("half", np.array([1, 2]), "whole numbers of shape (5), and is int64 of shape (2)"),
        ("half", np.zeros(5), "whole numbers of shape (5), and is float64 of shape (5)"),
        ("mean", np.zeros(5, np.float32), "real numbers of shape (6), and is float32 of shape (5)"),
        ("voxel_A", np.array("1.3"), "numbers of shape (), and is <U3 of shape ()"),
        ("is_scaled", np.array(2.0), "truth values of shape ()"),
        ("poses_rotations", np.zeros((5, 3)), "real numbers of shape (5, 3, 3)"),
        ("poses_quality_gap", np.zeros(4), "real numbers of shape (5)"),
        ("poses_quality_novel", np.zeros(5), "a score that is known, and is none"),
        ("curve_masked", np.zeros(8), "real numbers of shape (9)"),
        ("noise_1_0", np.zeros((6, 1)), "real numbers of shape (any)"),
        ("group_scale", np.ones((2, 3)), "numbers of shape (2, 2)"),
        ("optics_box_px", np.array([16]), "whole numbers of shape (2)"),
        ("roster_defocus", np.zeros((7, 2)), "real numbers of shape (7, 3)"),
        ("roster_image_index", np.arange(3), "of 6 particles or more, and is of 3"),
        ("aside_shift_A", np.zeros((3, 2)), "real numbers of shape (2, 2)"),
        ("history", np.array("[1]"), "a list of iterations, and is not"),
    ],
)
def test_an_array_that_is_not_what_it_should_be_is_named_with_both(tmp_path, name, wrong, said):
    kept = make_checkpoint(make_state(1), registry=make_registry())
    path = save_state(tmp_path, kept, lambda folder: None) / "state.npz"
    rewritten(path, lambda arrays: arrays.update({name: wrong}))
    with refused(f"{path}: ", f"('{name}' should be ", said, "the one before"):
        load_state(tmp_path, 1)


def test_sums_that_are_not_what_they_should_be_are_named_with_their_file(tmp_path):
    weights = torch.ones(3, 3, 2)
    total = FoldedSums(weights.to(torch.complex64), weights, 1, 1.5, 2, 1.0, 2)
    path = save(tmp_path, dataclasses.replace(make_state(1), sums=(total, total))) / "sums.npz"
    rewritten(path, lambda arrays: arrays.update(values_2=np.zeros((3, 3, 2))))
    with refused(f"{path}: ", "'values_2' should be complex numbers of shape (3, 3, 2)"):
        load_state(tmp_path, 1)
    path.unlink()
    with refused(f"{path}: ", "the checkpoint cannot be read"):
        load_state(tmp_path, 1)


def test_a_checkpoint_says_which_version_of_the_format_it_has(tmp_path):
    with np.load(save(tmp_path, make_state(1)) / "state.npz") as file:
        assert int(file["version"]) == VERSION


def test_a_checkpoint_from_before_there_were_versions_is_read_as_it_was_meant(tmp_path):
    state = make_state(2)
    path = save(tmp_path, state) / "state.npz"

    def age(arrays):
        for name in ("version", "has_sums", "start_A", "finished"):
            del arrays[name]
        arrays["poses_quality_no_longer_measured"] = arrays["poses_quality_score"]

    rewritten(path, age)
    assert_bit_equal(load_state(tmp_path, 2).state, state)
    history, evaluation = load_measurements(tmp_path, 2)
    assert_bit_equal(history, state.history)
    assert_bit_equal(evaluation, state.evaluation)


def test_an_earlier_checkpoint_that_cannot_be_brought_up_to_date_is_refused(tmp_path):
    path = save(tmp_path, make_state(1)) / "state.npz"

    def age(arrays):
        del arrays["version"], arrays["group_scale"]

    rewritten(path, age)
    for load in (load_state, load_measurements):
        with refused(str(path), "earlier version", "lacks 'group_scale'", "that began the run"):
            load(tmp_path, 1)


def test_a_checkpoint_of_a_later_version_is_refused_as_such(tmp_path):
    path = save(tmp_path, make_state(1)) / "state.npz"
    rewritten(path, lambda arrays: arrays.update(version=np.array(VERSION + 1), history=0))
    for load in (load_state, load_measurements):
        with refused(str(path), f"format {VERSION + 1}", "later version", "that began the run"):
            load(tmp_path, 1)


def test_where_a_segment_begins_has_a_version_too(tmp_path):
    save(tmp_path, make_state(1))
    folder = save_start(tmp_path, 2, make_checkpoint(make_state(1)), lambda part: None)
    rewritten(folder / "state.npz", lambda arrays: arrays.update(version=np.array(VERSION + 1)))
    with refused(str(folder), "later version"):
        load_start(tmp_path, 2, 1)


def test_every_earlier_version_has_a_way_to_the_next():
    assert len(_MIGRATIONS) == VERSION


@pytest.mark.parametrize("subset", [None, 9])
def test_what_only_some_records_have_is_read_back(tmp_path, subset):
    counts = ParticleCounts(12, {"no pose": 2}, 1, 8, {"tilts": 3}, (2, 4))
    state = make_state(1, size_px=4)
    record = dataclasses.replace(state.history[-1], subset=subset, counts=counts)
    save(tmp_path, dataclasses.replace(state, history=[record]))
    read = load_state(tmp_path, 1).state.history[-1]
    assert (read.subset, read.counts) == (subset, counts)
    wrong = dataclasses.replace(record, counts=dataclasses.replace(counts, n_aligned=-1))
    save(tmp_path, dataclasses.replace(state, history=[wrong]))
    with refused("history", "counts of particles"):
        load_state(tmp_path, 1)
