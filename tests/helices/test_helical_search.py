import json
import re

import numpy as np
import pytest
import torch

from cryorefine.geometry.helix import Helix
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.helices.filament import filament_radius_A
from cryorefine.helices.helical_correlation import measure_correlation
from cryorefine.helices.helical_search import HelicalRanges, prepared_map, search_helix
from cryorefine.model.atoms import scattering_basis, volume_from_atoms
from cryorefine.model.phantom import make_phantom
from cryorefine.report.helical_landscape import write_helical_report
from tests.builders import helical_map, refused

SIZE_PX, VOXEL_A = 48, 3.0


def noise(seed, size_px=SIZE_PX):
    return torch.randn((size_px,) * 3, generator=torch.Generator().manual_seed(seed))


def noisy(helix, *, amount=1.5, size_px=SIZE_PX):
    """Return two half maps of a helix, each with noise of its own."""
    volume = helical_map(helix, size_px, VOXEL_A, bfactor_A2=400)
    return [volume + amount * volume.std() * noise(seed, size_px) for seed in (1, 2)]


NARROW = {"twist_deg": (20.0, 45.0), "rise_A": (5.0, 10.0)}
"""What holds a helix of 33° and 7.3 Å, and takes a search little time."""


def ranges(**changes):
    given = {"radius_A": 0.38 * SIZE_PX * VOXEL_A, "resolution_A": 9.0, "rise_A": (3.0, 25.0)}
    return HelicalRanges(**{**given, **changes})


@pytest.fixture(scope="module")
def found():
    """What a search in narrow ranges finds, with a seed of 3."""
    return search_helix(noisy(Helix(33.0, 7.3)), ranges(**NARROW), voxel_A=VOXEL_A, seed=3)


def blob(size_px=SIZE_PX):
    """Return a particle that is no helix."""
    atoms = make_phantom(parse_symmetry("c1"), diameter_A=90, seed=1)
    basis = scattering_basis(atoms, 0.95 / VOXEL_A)
    return volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=VOXEL_A)


# Few copies lie in a box of few rises, and stand out less from what is found by chance.
HELICES = [
    (SIZE_PX, Helix(33.0, 7.3)),
    (SIZE_PX + 1, Helix(-33.0, 7.3)),
    (SIZE_PX, Helix(-101.1, 5.13)),
    (80, Helix(29.4, 21.8, fold=6)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("size_px", "helix"), HELICES, ids=str)
def test_twist_and_rise_are_found_among_all_twists_and_within_their_uncertainty(size_px, helix):
    maps = noisy(helix, size_px=size_px)
    radius_A = 0.38 * size_px * VOXEL_A
    found = search_helix(maps, ranges(fold=helix.fold, radius_A=radius_A), voxel_A=VOXEL_A)
    best = found.best.helix
    assert best.fold == helix.fold
    assert abs(best.twist_deg - helix.twist_deg) < 0.05
    assert abs(best.rise_A - helix.rise_A) < 0.02
    # Of 95 %: seldom more than a half beyond.
    assert abs(best.twist_deg - helix.twist_deg) < 1.5 * found.twist_uncertainty_deg
    assert abs(best.rise_A - helix.rise_A) < 1.5 * found.rise_uncertainty_A
    assert found.twist_uncertainty_deg < 0.2
    assert found.rise_uncertainty_A < 0.1
    for half in found.halves:
        assert abs(half.helix.twist_deg - best.twist_deg) <= 2.01 * found.twist_uncertainty_deg
        assert abs(half.helix.rise_A - best.rise_A) <= 2.01 * found.rise_uncertainty_A
    # What is easily taken for it scores less: half and double pitch, steps, hand, other axes.
    others = (*found.alternatives, *found.runners_up)
    assert {"half pitch", "double pitch", "the other hand"} <= {c.relation for c in others}
    assert max(c.score for c in others) < found.best.score


@pytest.mark.slow
def test_maps_that_are_no_helix_are_refused():
    for maps in ([noise(1)], [noise(2), noise(3)], [blob() + 0.3 * blob().std() * noise(4)]):
        with refused("the map is no helix of these ranges"):
            search_helix(maps, ranges(), voxel_A=VOXEL_A)


def test_a_best_value_at_the_border_of_its_range_is_refused_and_not_clamped():
    volume = noisy(Helix(33.0, 7.3))[0]
    with refused("is at the border of the range from 33.1 to 60°"):
        at_border = ranges(twist_deg=(33.1, 60.0), rise_A=NARROW["rise_A"])
        search_helix([volume], at_border, voxel_A=VOXEL_A)
    with refused("is at the border of the range from 3 to 7.25 Å"):
        at_border = ranges(twist_deg=NARROW["twist_deg"], rise_A=(3.0, 7.25))
        search_helix([volume], at_border, voxel_A=VOXEL_A)


def test_ranges_that_leave_nothing_to_search_are_refused():
    volume = noise(1)
    with refused("no twists from 20 to 10°"):
        search_helix([volume], ranges(twist_deg=(20.0, 10.0)), voxel_A=VOXEL_A)
    with refused("no rises from 0 to 10 Å"):
        search_helix([volume], ranges(rise_A=(0.0, 10.0)), voxel_A=VOXEL_A)
    with refused("a rise of 90 Å does not repeat"):
        search_helix([volume], ranges(rise_A=(5.0, 90.0)), voxel_A=VOXEL_A)


def test_a_result_depends_on_its_seed_alone(found):
    maps = noisy(Helix(33.0, 7.3))
    again = search_helix(maps, ranges(**NARROW), voxel_A=VOXEL_A, seed=3)
    assert found.best == again.best
    assert found.twist_uncertainty_deg == again.twist_uncertainty_deg
    np.testing.assert_array_equal(found.landscape.score, again.landscape.score)


@pytest.mark.parametrize("size_px", [48, 49])
def test_the_correlation_peaks_at_the_steps_of_the_helix(size_px):
    helix = Helix(33.0, 7.3)
    volume = helical_map(helix, size_px, VOXEL_A, bfactor_A2=400)
    small, step_A = prepared_map(volume, voxel_A=VOXEL_A, resolution_A=9.0)
    assert small.shape[-1] % 2 == size_px % 2
    found = measure_correlation(
        small, voxel_A=step_A, radius_A=55.0, resolution_A=9.0, fraction=0.9
    )
    steps = np.arange(1, 6)
    at_steps = found.at(steps * helix.twist_rad, steps * helix.rise_A, 1)
    assert at_steps.min() > 0.9
    between = found.at((steps + 0.5) * helix.twist_rad, (steps + 0.5) * helix.rise_A, 1)
    assert between.max() < 0.3


def test_the_radius_of_a_filament_is_found_in_noise():
    volume = helical_map(Helix(33.0, 7.3), 64, VOXEL_A, bfactor_A2=400)  # atoms to about 75 Å
    for amount in (0.0, 1.0):
        radius_A = filament_radius_A(volume + amount * volume.std() * noise(5, 64), VOXEL_A)
        assert 50 < radius_A < 87


def test_the_report_has_all_numbers_a_picture_and_a_page(found, tmp_path):
    write_helical_report(found, tmp_path)
    record = json.loads((tmp_path / "helix.json").read_text())
    assert record["twist_deg"] == found.best.helix.twist_deg
    assert record["rise_uncertainty_A"] == found.rise_uncertainty_A
    assert len(record["halves"]) == 2
    assert (tmp_path / "landscape.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "landscape.html").read_text()
    assert f"Twist {found.best.helix.twist_deg:.3f}" in page
    assert "right-handed" in page
    assert "half pitch" in page


def test_the_page_of_a_search_refers_to_nothing_outside_itself(found, tmp_path):
    write_helical_report(found, tmp_path)
    page = (tmp_path / "landscape.html").read_text()
    links = re.findall(r"\b(?:src|href)\s*=\s*[\"']?([^\"'>\s]*)", page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
