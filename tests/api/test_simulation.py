import inspect

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cryorefine as cr
from cryorefine.api.simulation_options import make_options
from cryorefine.cli.simulate import command
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
