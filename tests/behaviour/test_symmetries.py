"""An iteration asks of a symmetry what its protocol has, whatever class it is of."""

import dataclasses

import pytest
import torch

from cryorefine.engine.serial import SerialEngine
from cryorefine.events import EventLog
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import geodesic_angle
from cryorefine.geometry.symmetry import SymmetryGroup, parse_symmetry
from cryorefine.refine.advance import advance
from cryorefine.run.inputs import open_inputs, symmetrise_low_resolution
from cryorefine.state.plan import IterationPlan
from tests.run.test_checkpoint import assert_bit_equal

from .conftest import begun, settings_for, simulate_set


class TwoSided:
    """Half a turn about z, and nothing that the protocol does not ask for."""

    name = "c2"
    order = 2

    def __init__(self) -> None:
        self.matrices = torch.diag_embed(
            torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)
        )
        self.shifts_A = torch.zeros(2, 3, dtype=torch.float64)
        self.point_group = self.matrices

    def equivalents(self, pose):
        return torch.stack([pose, pose @ self.matrices[1].to(pose)], -3)

    def nearest(self, pose, target):
        first, second = self.equivalents(pose).unbind(-3)
        is_second = geodesic_angle(second, target) < geodesic_angle(first, target)
        return torch.where(is_second[..., None, None], second, first)

    def distance(self, a, b):
        first, second = self.equivalents(a).unbind(-3)
        return torch.minimum(geodesic_angle(first, b), geodesic_angle(second, b))


def test_another_class_than_that_of_point_groups_gives_the_same_iteration_bit_by_bit(tmp_path):
    data = simulate_set(
        tmp_path / "data",
        particles=60, box_px=32, pixel_angstrom=5.4, symmetry="c2", snr=0.3,
    )  # fmt: skip
    inputs, state = begun(settings_for(data, symmetry="c2", compare_to=None, refine_grey=False))
    other = TwoSided()
    assert isinstance(inputs.group, SymmetryGroup)
    assert not isinstance(other, SymmetryGroup)
    assert isinstance(other, Symmetry)
    torch.testing.assert_close(other.matrices, inputs.group.matrices, rtol=0, atol=0)
    # Searched everywhere, then refined and measured as the end of a run.
    plans = (
        IterationPlan(1, "global", 27.0, 1.0, True, 16.0, 1, 1, 1.0, None, False),
        IterationPlan(2, "local", 20.0, 1.0, False, 13.0, 1, 1, 1.0, None, True),
    )
    ours = theirs = state
    others = dataclasses.replace(inputs, group=other)
    engine, log = SerialEngine(), EventLog()
    for plan, is_over in zip(plans, (lambda _: False, lambda _: True), strict=True):
        ours = advance(inputs, ours, plan, log, engine, is_over=is_over)
        theirs = advance(others, theirs, plan, log, engine, is_over=is_over)
        assert_bit_equal(ours, theirs)


def test_maps_are_symmetrised_and_measured_alike_by_another_class():
    volume = torch.randn(24, 24, 24, generator=torch.Generator().manual_seed(3))
    named = parse_symmetry("c2")
    for resolution_A in (20.0, 60.0):
        ours, theirs = (
            symmetrise_low_resolution(volume, group, voxel_A=4.0, resolution_A=resolution_A)
            for group in (named, TwoSided())
        )
        assert torch.equal(ours, theirs)
        assert float((ours - volume).norm() / volume.norm()) > 0.3  # noise has no symmetry


@pytest.mark.parametrize(
    ("symmetry", "is_told"),
    [(s, False) for s in ("c1", "c2", "d2")] + [(s, True) for s in ("c4", "d7", "o", "i1")],
)
def test_a_d2_particle_is_not_taken_for_another_symmetry_without_a_warning(
    small_set, symmetry, is_told
):
    told = []
    log = EventLog(listeners=(told.append,))
    open_inputs(settings_for(small_set, symmetry=symmetry)).start_volumes(log)
    messages = [e.message for e in told if e.kind == "warning"]
    assert len(messages) == is_told
    assert all(f"does not show symmetry {symmetry}" in text for text in messages)
