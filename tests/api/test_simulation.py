import inspect

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cryorefine as cr
from cryorefine.cli.simulate import command
from cryorefine.model.simulation_options import make_options
from tests.builders import refused


def test_parameters_and_defaults_are_those_of_the_command():
    mine = {
        name: parameter.default
        for name, parameter in inspect.signature(cr.simulate).parameters.items()
        if name not in ("model", "output", "progress")
    }
    given = command.make_context("simulate", ["phantom", "--output", "new"]).params
    assert mine == {k: v for k, v in given.items() if k not in ("model", "output")}


def test_a_set_is_that_of_the_command_to_the_bit(tmp_path):
    cr.simulate(output=tmp_path / "a", particles=6, box_px=32, pixel_angstrom=5.0, snr=0.1)
    arguments = ["--particles", "6", "--box-px", "32", "--pixel-angstrom", "5.0", "--snr", "0.1"]
    arguments = ["phantom", "--output", str(tmp_path / "b"), *arguments]
    end = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert end.exit_code == 0
    a, b = (cr.read_particles(tmp_path / name / "truth_particles.star") for name in "ab")
    np.testing.assert_array_equal(a.images(), b.images())
    np.testing.assert_array_equal(a.euler_deg, b.euler_deg)
    maps = [cr.read_volume(tmp_path / name / "reference.mrc").data for name in "ab"]
    np.testing.assert_array_equal(*maps)


def test_a_set_does_not_depend_on_the_callers_threads_and_gives_them_back(tmp_path):
    maps = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        output = tmp_path / str(threads)
        made = cr.simulate(output=output, particles=4, box_px=64, pixel_angstrom=3.0, noise="ice")
        maps.append((made.true_map.data, made.true_particles.images()))
        assert torch.get_num_threads() == threads
    for one, other in zip(*maps, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_out_of_range_is_named_by_its_parameter(tmp_path):
    with refused("box_px= must be 16 or more", "snr= must be positive", "the parameters"):
        cr.simulate(output=tmp_path / "a", box_px=8, snr=0)
    with refused("box_px", "across"):
        cr.simulate(output=tmp_path / "a", box_px=16, pixel_angstrom=1.0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("progress", [False, True])
def test_a_folder_that_is_not_empty_is_refused(tmp_path, progress):
    (tmp_path / "file").write_text("mine")
    with refused(str(tmp_path), "not empty"):
        cr.simulate(output=tmp_path, progress=progress)


def test_words_that_are_no_choice_are_refused(tmp_path):
    with refused("noise= must be one of coloured, white, ice", "poses= must be one of uniform"):
        cr.simulate(output=tmp_path / "a", noise="pink", poses="up")
    assert not any(tmp_path.iterdir())


def test_an_option_that_there_is_not_is_an_error_that_names_it(tmp_path):
    with pytest.raises(TypeError, match="shift_px"):
        cr.simulate(output=tmp_path / "a", shift_px=3.0)
    assert not any(tmp_path.iterdir())


def test_the_options_of_a_simulation_name_all_that_is_out_of_range_as_the_command_does():
    with refused("--box-px must be 16 or more", "; --snr must be positive", "Correct the options"):
        make_options({"box_px": 8, "snr": 0})


HELIX = {"helical_twist_deg": 33.0, "helical_rise_angstrom": 8.0}
SMALL = {"particles": 9, "box_px": 32, "pixel_angstrom": 5.0, "diameter_angstrom": 90.0}


def test_a_simulated_filament_says_its_tubes_and_its_map_shows_its_images(tmp_path):
    made = cr.simulate(
        output=tmp_path / "a", **SMALL, **HELIX, snr=1e5, segments_per_tube=2, per_micrograph=5,
        segment_step_angstrom=24.0, tube_tilt_spread_deg=0.0, defocus_angstrom=(0, 0),
        astigmatism_angstrom=0.0, cs_mm=0.0, amplitude_contrast=1.0,
    )  # fmt: skip
    particles, truth = made.particles, made.true_particles
    assert particles.rlnHelicalTubeID.astype(int).tolist() == [1, 1, 2, 2, 3, 1, 1, 2, 2]
    track_A = particles.rlnHelicalTrackLengthAngst.astype(float)
    np.testing.assert_allclose(track_A, [0, 24, 0, 24, 0, 0, 24, 0, 24])
    np.testing.assert_allclose(particles.rlnAngleTiltPrior.astype(float), 90.0)
    np.testing.assert_allclose(particles.rlnAnglePsiFlipRatio.astype(float), 0.5)
    prior_deg = particles.rlnAnglePsiPrior.astype(float)
    off_deg = (truth.euler_deg[:, 2] - prior_deg + 90) % 180 - 90  # either polarity
    assert np.abs(off_deg).max() < 10
    assert particles.rlnCoordinateX.astype(float).max() < 4096
    # Views of the map, of filaments that lie across it: their middle is as the images have it.
    views = cr.project(made.true_map, truth.rotations, truth.shift_A)
    middle = slice(10, 22)
    for view, image in zip(views, truth.images(), strict=True):
        pair = np.corrcoef(view[middle, middle].ravel(), image[middle, middle].ravel())
        assert pair[0, 1] > 0.95


def test_a_simulated_filament_has_the_hand_and_axis_that_were_given(tmp_path):
    for name, twist_deg, symmetry in (("right", 33.0, "c1"), ("left", -33.0, "d2")):
        options = {**HELIX, "helical_twist_deg": twist_deg, "symmetry": symmetry}
        made = cr.simulate(output=tmp_path / name, **SMALL, **options, atom_bfactor=900)
        fold, is_dihedral = (1, False) if symmetry == "c1" else (2, True)

        def left_over(twist_deg, rise_A, made=made, fold=fold, is_dihedral=is_dihedral):
            again = cr.impose_helix(
                made.true_map, twist_deg, rise_A, fold=fold, is_dihedral=is_dihedral,
                radius_angstrom=60,
            ).data  # fmt: skip
            return (again - made.true_map.data)[4:-4].std() / made.true_map.data.std()

        assert left_over(twist_deg, 8.0) < 0.05  # what lies beyond 60 Å
        assert left_over(-twist_deg, 8.0) > 0.2
        assert left_over(twist_deg, 9.5) > 0.2


def test_a_simulated_filament_depends_on_its_seed_and_not_on_threads(tmp_path):
    found = []
    for name, threads, seed in (("a", 1, 5), ("b", 2, 5), ("c", 2, 6)):
        torch.set_num_threads(threads)
        made = cr.simulate(output=tmp_path / name, **SMALL, **HELIX, seed=seed)
        found.append((made.true_map.data, made.true_particles.images()))
    for one, other in zip(found[0], found[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(found[0][1], found[2][1])


def test_a_model_is_one_unit_of_a_filament_about_the_z_axis_of_its_file(tmp_path):
    atom = "ATOM  {:5d}  CA  ALA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00 30.00           C\n"
    places = [(20.0, 0.0, 50.0), (26.0, 4.0, 52.0), (14.0, -5.0, 46.0)]
    path = tmp_path / "unit.pdb"
    path.write_text("".join(atom.format(i, i, *p) for i, p in enumerate(places, 1)) + "END\n")
    made = cr.simulate(path, output=tmp_path / "a", **SMALL, **HELIX)
    again = cr.impose_helix(made.true_map, 33.0, 8.0, radius_angstrom=60)
    error = (again.data - made.true_map.data)[4:-4].std() / made.true_map.data.std()
    assert error < 0.3  # sharp atoms in voxels of 5 Å
    y, x = np.indices((32, 32)) * 5.0 - 80.0
    profile = made.true_map.data.sum(0)
    at_A = (np.hypot(x, y) * np.maximum(profile, 0)).sum() / np.maximum(profile, 0).sum()
    assert 15 < at_A < 30  # not about its own middle


REFUSED = [
    ({"helical_twist_deg": 30.0}, "helical_twist_deg= needs helical_rise_angstrom="),
    ({"helical_rise_angstrom": 5.0}, "helical_rise_angstrom= needs helical_twist_deg="),
    ({"segments_per_tube": 3}, "segments_per_tube= needs helical_twist_deg= and"),
    ({**HELIX, "poses": "axis"}, "poses= axis cannot be of a helix"),
    ({**HELIX, "symmetry": "o"}, "a helix has no point group o"),
    ({**HELIX, "helical_rise_angstrom": 100.0}, "does not repeat within a box of 160 Å"),
    ({**HELIX, "helical_rise_angstrom": 0.0}, "helical_rise_angstrom= must be positive"),
    ({**HELIX, "segment_step_angstrom": 9999.0}, "a tube of 9 segments is"),
    ({**HELIX, "diameter_angstrom": 200.0}, "the particle is 200 Å across, the box 160 Å"),
]


@pytest.mark.parametrize(("options", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_options_of_filaments_that_do_not_go_together_are_refused(tmp_path, options, text):
    with refused(text):
        cr.simulate(output=tmp_path / "a", **{**SMALL, **options})
    assert not any(tmp_path.iterdir())
