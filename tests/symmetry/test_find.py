"""The point group of a map is found wherever its axes lie, and no other is."""

import math

import numpy as np
import pytest
import torch

from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.symmetry.find import default_groups, find_symmetry
from cryorefine.symmetry.group_axes import group_axes
from tests.builders import refused

from .clouds import VOXEL_A, cloud, two_rings


def found_in(maps, groups=("c2", "c3", "c4", "c7", "d2", "d3", "d4", "d7", "t", "o", "i1"), **how):
    return find_symmetry(maps, groups, voxel_A=VOXEL_A, **how)


def axis_error_deg(found, truth):
    """Return how far an axis of the truth, turned as was found, is from the nearest of its fold."""
    axes = group_axes(parse_symmetry(found.name))
    turned = found.rotation.numpy() @ truth.rotation
    errors = []
    for axis in axes:
        direction = torch.from_numpy(turned) @ axis.direction
        cosine = max(
            abs(float(direction @ other.direction)) for other in axes if other.fold == axis.fold
        )
        errors.append(math.degrees(math.acos(min(cosine, 1.0))))
    return max(errors)


def verdict(found, name):
    return next(c for c in found.candidates if c.name == name)


@pytest.mark.parametrize("name", ["c3", "d2", "d7", "t", "o", "i1"])
def test_axes_are_found_to_a_third_of_a_degree_whatever_the_orientation_and_offset(name):
    truth = cloud(name)
    found = found_in([truth.map])
    assert found.name == name
    assert verdict(found, name).agreement > 0.85
    assert axis_error_deg(found, truth) < 0.3
    off = np.array(found.centre_A) - truth.centre_A
    if name == "c3":  # its axis has no middle
        axis = truth.rotation[:, 2]
        off = off - axis * (off @ axis)
    assert np.linalg.norm(off) < 0.3


@pytest.mark.parametrize("name", ["c3", "d2", "d7", "i1"])
def test_groups_that_are_no_part_of_the_maps_are_far_from_supported(name):
    found = found_in([cloud(name, seed=2).map])
    own = parse_symmetry(name).matrices
    for candidate in found.candidates:
        if not candidate.is_supported:
            assert candidate.agreement < 0.3, candidate
        assert candidate.is_supported <= (len(own) % parse_symmetry(candidate.name).order == 0)


def test_a_map_without_symmetry_is_c1_and_no_d2():
    found = found_in([cloud("c1").map], default_groups(8))
    assert found.name == "c1"
    assert not any(c.is_supported for c in found.candidates)
    assert verdict(found, "d2").reason
    torch.testing.assert_close(found.rotation, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("changed", [0.5, 1.0])
def test_two_rings_that_differ_are_c7_and_no_d7(changed):
    truth = cloud("c7", unit=two_rings(np.random.default_rng(4), changed))
    found = found_in([truth.map], ["d7", "c7", "c14"])
    assert found.name == "c7"
    assert not verdict(found, "d7").is_supported
    assert not verdict(found, "c14").is_supported


def test_two_rings_that_are_alike_are_d7():
    truth = cloud("c7", unit=two_rings(np.random.default_rng(4), 0.0))
    assert found_in([truth.map], ["d7", "c7"]).name == "d7"


def test_detail_of_15_angstrom_is_enough():
    truth = cloud("d7", detail_A=15.0)
    found = found_in([truth.map])
    assert found.name == "d7"
    assert axis_error_deg(found, truth) < 0.3


def test_half_maps_tell_noise_apart():
    truth = cloud("d2", noise=0.5)
    found = found_in(truth.halves)
    assert found.name == "d2"
    assert verdict(found, "d2").agreement == pytest.approx(1.0, abs=0.12)
    assert found.resolution_A < 14  # of the FSC: there is signal to 10 Å


def test_noise_alone_is_refused_or_c1():
    noise = torch.randn((48,) * 3, generator=torch.Generator().manual_seed(1))
    assert found_in([noise], ["c2", "d2"], resolution_A=15.0).name == "c1"
    with refused("", "no density stands out"):
        found_in([torch.zeros(48, 48, 48)])


def test_detail_that_says_nothing_is_refused():
    with refused("--resolution-angstrom", "detail of 60 Å says nothing", "Give 8.75 to"):
        found_in([cloud("d2").map], resolution_A=60.0)
