import pytest

from cryorefine.optics.group import Envelope
from cryorefine.particles.formats.relion import read_relion, write_relion
from tests.builders import optics_columns, particle_columns, refused, write_particle_star

COLUMNS = {
    "rlnChromaticAberration": 2.0,
    "rlnEnergyLoss": 0.9,
    "rlnLensStability": 0.4,
    "rlnConvergenceCone": 0.05,
    "rlnLongitudinalDisplacement": 30.0,
    "rlnTransversalDisplacement": 1.5,
}
EXPECTED = Envelope(
    chromatic_mm=2.0, energy_loss_eV=0.9, lens_stability_ppm=0.4, convergence_mrad=0.05,
    longitudinal_A=30.0, transversal_A=1.5,
)  # fmt: skip


def test_the_terms_of_the_envelope_are_read_from_the_optics_groups(tmp_path):
    path = write_particle_star(tmp_path / "p.star", optics=optics_columns(**COLUMNS))
    assert read_relion(path).optics[0].envelope == EXPECTED
    assert read_relion(path, ctf=False).optics[0].envelope == Envelope()


def test_particles_may_have_them_if_those_of_a_group_agree(tmp_path):
    path = write_particle_star(tmp_path / "p.star", particle_columns(2, **COLUMNS))
    assert read_relion(path).optics[0].envelope == EXPECTED
    differing = particle_columns(2, **{**COLUMNS, "rlnEnergyLoss": [0.9, 1.1]})
    path = write_particle_star(tmp_path / "q.star", differing)
    with refused("'1.1' differs", "rlnEnergyLoss", "optics group of their own"):
        read_relion(path)


def test_a_file_without_them_has_no_envelope(tmp_path):
    assert read_relion(write_particle_star(tmp_path / "p.star")).optics[0].envelope == Envelope()


def test_they_survive_being_written(tmp_path):
    path = write_particle_star(tmp_path / "p.star", optics=optics_columns(**COLUMNS))
    write_relion(tmp_path / "out.star", read_relion(path))
    assert read_relion(tmp_path / "out.star").optics[0].envelope == EXPECTED


@pytest.mark.parametrize(("label", "value"), [("rlnEnergyLoss", -1.0), ("rlnConvergenceCone", 1e3)])
def test_terms_that_no_microscope_has_are_refused(tmp_path, label, value):
    path = write_particle_star(tmp_path / "p.star", optics=optics_columns(**{label: value}))
    with refused(label, "is not in the range"):
        read_relion(path)
