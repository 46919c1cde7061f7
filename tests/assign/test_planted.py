import math
from dataclasses import replace

import torch

from cryorefine.assign import planted
from cryorefine.assign.align import score_poses
from cryorefine.assign.comparison import WhitenedImages
from cryorefine.assign.planted import plant_images, planted_missed, planted_poses
from cryorefine.assign.search_depth import Search
from tests.assign.test_alignment import DEPTH, OPTIONS, Case


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_planted_images_have_the_model_and_noise_of_unit_variance():
    case = Case("c1", 200, noise=1.0)
    search = case.search()
    rotations, shifts = planted_poses(search, 200, OPTIONS, _generator())
    assert float(shifts.norm(dim=1).max()) <= 0.9 * OPTIONS.max_shift_px + 1e-9
    x = plant_images(case.grid, case.view, case.c, rotations, shifts, _generator())
    first = case.view.band.prefix(0)
    images = WhitenedImages(case.view, x, case.c)
    found = score_poses(images, case.reference, rotations, shifts, OPTIONS)
    # The likelihood at the true pose is the model's power on average, with variance 2 P.
    prior = shifts.square().sum(1) / (2 * OPTIONS.shift_sigma_px**2)
    z = (found.score + prior - found.model_power) / (2 * found.model_power).sqrt()
    assert abs(float(z.mean())) < 0.25
    assert 0.85 < float(z.std()) < 1.15
    assert x.shape == (200, len(case.view.band))
    assert first >= 0


def test_a_search_that_lacks_orientations_misses_planted_images(monkeypatch):
    case = Case("c1", 60, noise=0.7)
    search = case.search()
    missed, found = planted_missed(
        case.view, case.c, case.reference, Search(search, DEPTH), OPTIONS, _generator()
    )
    assert int(missed.sum()) <= 1
    assert float(found.double().mean()) > 0.95
    # Half of the sphere is left out of the search, not of the images.
    upper = search.rotations[:, 2, 2] > 0.1
    half = replace(
        search, rotations=search.rotations[upper], slices=search.slices[:, upper],
        power=search.power[:, upper],
    )  # fmt: skip

    def drawn(_, n, options, generator):
        return planted_poses(search, n, options, generator)

    monkeypatch.setattr(planted, "planted_poses", drawn)
    missed, found = planted_missed(
        case.view, case.c, case.reference, Search(half, DEPTH), OPTIONS, _generator()
    )
    assert 0.3 < float(missed.double().mean()) < 0.7
    assert float((missed & found).double().mean()) < 0.05


def test_planted_poses_lie_between_the_points_of_the_grid():
    search = Case("c1", 1, noise=1.0).search()
    rotations, _ = planted_poses(search, 50, OPTIONS, _generator())
    trace = torch.einsum("nij,qij->nq", rotations, search.rotations)
    angle = torch.acos(((trace.amax(1) - 1) / 2).clamp(-1, 1))
    assert float(angle.max()) < search.step_rad
    assert float(angle.median()) > math.radians(1)
