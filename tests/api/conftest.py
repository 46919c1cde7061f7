"""One small simulated set, and one short run of it, for all tests of the library."""

from pathlib import Path

import pytest

import cryorefine as cr

SETTINGS = {"symmetry": "d2", "iterations": 2, "threads": 2}


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> cr.Simulation:
    return cr.simulate(
        output=tmp_path_factory.mktemp("api") / "data",
        particles=120,
        box_px=32,
        pixel_angstrom=5.0,
        symmetry="d2",
        snr=0.2,
        per_micrograph=10,
    )


@pytest.fixture(scope="session")
def run(small, tmp_path_factory) -> Path:
    """Folder of a run whose particles and reference were given by their paths."""
    output = tmp_path_factory.mktemp("api") / "run"
    folder = small.output
    cr.refine(folder / "particles.star", folder / "reference.mrc", output=output, **SETTINGS)
    return output
