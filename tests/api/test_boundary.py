"""The caller's threads come back, and errors speak of parameters."""

import pytest
import torch

from cryorefine.api.boundary import in_parameters, library_call, threads_restored
from cryorefine.compiled import kernel_threads
from cryorefine.engine.threads import use_threads
from cryorefine.errors import InputError, StoppedEarly


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ("--symmetry", "symmetry"),
        ("--device cuda:7", "device='cuda:7'"),
        ("--reconstruct-min-tilt-deg, --reconstruct-max-tilt-deg",
         "reconstruct_min_tilt_deg, reconstruct_max_tilt_deg"),
        ("give a folder with --output", "give a folder with output="),
        ("another --output, or say --overwrite", "another output=, or say overwrite=True"),
        ("or say --no-ctf if the images have none", "or say ctf=False if the images have none"),
        ("say --device cpu, or leave these options out",
         "say device='cpu', or leave these parameters out"),
        ("search with --alignment automatic and an initial map (--reference)",
         "search with alignment='automatic' and an initial map (reference=)"),
        ("--keep-above-percentile 120 is not between", "keep_above_percentile=120 is not between"),
        ("--iterations: alignment 'none' has one", "iterations: alignment 'none' has one"),
        ("--fourier-padding Input should be less", "fourier_padding Input should be less"),
        ("--radius-px no such setting (given: 3)", "radius_px no such setting (given: 3)"),
        ("--weight-cost acts in local iterations", "weight_cost=True acts in local iterations"),
        ("start one with 'cryorefine refine'", "start one with cryorefine.refine"),
        ("on with 'cryorefine resume a/b'", "on with cryorefine.open_run('a/b').resume()"),
        ("'cryorefine resume run --alignment global --iterations 1'",
         "cryorefine.open_run('run').resume(alignment='global', iterations=1)"),
        ("pip install torch --index-url https://x", "pip install torch --index-url https://x"),
        ("/data/a--mask/x.star: no such file", "/data/a--mask/x.star: no such file"),
        ("resolution -- mask", "resolution -- mask"),
    ],
)  # fmt: skip
def test_a_message_about_options_becomes_one_about_parameters(options, parameters):
    assert in_parameters(options) == parameters


def test_parameters_of_the_function_itself_are_known_as_well():
    assert in_parameters("--box-px must be 16 or more", ["box_px"]) == "box_px= must be 16 or more"
    assert in_parameters("--box-px must be 16 or more") == "--box-px must be 16 or more"


def test_a_library_call_translates_all_three_parts_of_an_error():
    @library_call
    def fail():
        raise InputError("--mask is empty", where="--mask", do="give --mask or --no-ctf")

    with pytest.raises(InputError) as caught:
        fail()
    parts = caught.value.what, caught.value.where, caught.value.do
    assert parts == ("mask= is empty", "mask", "give mask= or ctf=False")


def test_a_library_call_translates_a_stop():
    @library_call
    def stop():
        raise StoppedEarly("stopped; go on with 'cryorefine resume run'")

    with pytest.raises(StoppedEarly, match=r"cryorefine\.open_run\('run'\)\.resume\(\)"):
        stop()


def test_the_callers_threads_come_back_also_after_an_error():
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2

    def fail():
        with threads_restored():
            torch.set_num_threads(other)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.get_num_threads() == before


def test_threads_that_the_kernels_were_given_come_back_too():
    before = kernel_threads()
    with threads_restored():
        use_threads(before + 1)
        assert kernel_threads() == before + 1
    assert kernel_threads() == before
