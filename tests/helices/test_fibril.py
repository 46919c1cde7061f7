"""The filament of an atomic model: 5O3L, paired helical filaments of tau."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryorefine.helices.helical_search import HelicalRanges, search_helix
from cryorefine.io.model import read_model
from cryorefine.model.filament import filament_atoms, filament_map
from tests.builders import refused

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "helices.py"


@pytest.fixture
def fibril(shared_data):
    path = shared_data / "models" / "5o3l_amyloidexplorer.pdb.gz"
    if not path.exists():
        pytest.skip("no model of 5O3L among the real data")
    return path


def screw(a, b):
    """Return twist (°) and rise (Å, positive) of what takes a chain to another."""
    rotation, _ = Rotation.align_vectors(b - b.mean(0), a - a.mean(0))
    turn = rotation.as_rotvec()
    angle = np.linalg.norm(turn)
    rise_A = (b.mean(0) - rotation.as_matrix() @ a.mean(0)) @ turn / angle
    return np.degrees(angle) * np.sign(rise_A), abs(rise_A)


def test_the_chains_of_the_model_are_in_layers_and_nearly_on_a_two_fold_screw(fibril):
    chains = read_model(fibril).copies[0]
    assert len(chains) == 20  # ten layers of two
    twist_deg, rise_A = screw(chains[0], chains[1])
    assert twist_deg == pytest.approx(-1.2, abs=0.001)
    assert rise_A == pytest.approx(4.72, abs=0.001)
    # From one protofilament to the other it is half a layer, but for a tenth of an ångström.
    twist_deg, rise_A = screw(chains[0], chains[10])
    assert twist_deg == pytest.approx(179.4, abs=0.1)
    assert rise_A == pytest.approx(2.36, abs=0.1)


def test_a_rise_that_the_map_does_not_resolve_is_refused(fibril):
    helper = runpy.run_path(str(BENCHMARK), run_name="benchmark")
    layer_A, layer_step = helper["layer_of_fibril"](fibril)
    size_px, voxel_A, resolution_A = 80, 2.0, 6.0
    atoms = filament_atoms(helper["fibril_unit"](layer_A), layer_step, box_A=size_px * voxel_A)
    volume = filament_map(atoms, size_px=size_px, voxel_A=voxel_A)
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(1))
    noisy = volume + 0.3 * volume.std() * noise
    # Without this the search gave 3.2 Å, between 1.3 and 1.4 layers of the two-fold screw.
    ranges = HelicalRanges(
        radius_A=70.0, resolution_A=resolution_A, rise_A=(1.5, 6.0), twist_deg=(170.0, 179.95)
    )
    with refused("does not tell the rise", "6 Å of detail", "4.7 Å"):
        search_helix([noisy], ranges, voxel_A=voxel_A)


@pytest.mark.slow
def test_the_two_fold_screw_is_found_and_its_layers_are_named(fibril):
    helper = runpy.run_path(str(BENCHMARK), run_name="benchmark")
    layer_A, layer_step = helper["layer_of_fibril"](fibril)
    # Layers show at 4.72 Å and beyond: coarser maps hold nothing that tells the rise.
    size_px, voxel_A, resolution_A = 112, 1.5, 4.0
    atoms = filament_atoms(helper["fibril_unit"](layer_A), layer_step, box_A=size_px * voxel_A)
    volume = filament_map(atoms, size_px=size_px, voxel_A=voxel_A)
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(1))
    maps = [volume + volume.std() * noise, volume + volume.std() * noise.flip(0)]
    ranges = HelicalRanges(
        radius_A=75.0, resolution_A=resolution_A, rise_A=(1.5, 6.0), twist_deg=(170.0, 179.95)
    )
    found = search_helix(maps, ranges, voxel_A=voxel_A)
    best = found.best.helix
    assert abs(best.twist_deg - 179.4) < 0.05
    assert abs(best.rise_A - 2.36) < 0.02
    named = {c.relation: c for c in found.alternatives}
    layer = named["every second subunit: a layer of the two-fold screw"].helix
    assert abs(layer.twist_deg + 1.2) < 0.05
    assert abs(layer.rise_A - 4.72) < 0.02
