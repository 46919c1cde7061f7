"""The public names: complete, documented, and harmless to import."""

import inspect
import json
import os
import re
import subprocess
import sys
from functools import cached_property

import pytest

import cryorefine as cr

EFFECTS = """
import json, os, sys, warnings
before = dict(os.environ), list(warnings.filters)
import cryorefine
has_torch = "torch" in sys.modules
import torch
threads = torch.get_num_threads()
cryorefine.refine, cryorefine.read_particles, cryorefine.simulate, cryorefine.write_report
print(json.dumps({
    "environment": dict(os.environ) == before[0],
    "filters": list(warnings.filters)[-len(before[1]):] == before[1],
    "threads": torch.get_num_threads() == threads,
    "loads torch": has_torch,
}))
"""
CALLS = """
import os, sys
import torch
torch.set_num_threads(1)
import cryorefine as cr
cr.simulate(output=sys.argv[1], particles=4, box_px=32, pixel_angstrom=5.0)
try:
    cr.refine(sys.argv[1] + "/particles.star", symmetry="x9", threads=2)
except cr.InputError:
    print(torch.get_num_threads(), "OMP_WAIT_POLICY" in os.environ)
"""


def printed_by(program, *arguments):
    hidden = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    end = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert end.returncode == 0, end.stderr
    return end.stdout.strip()


def test_the_public_names_are_these():
    names = """Conversion CryorefineError Export FscCurves InputError Inspection Iteration Particles
        Refinement Run Simulation StoppedEarly Volume __version__ convert export fsc helical_search
        impose_helix inspect open_run project read_particles read_volume reconstruct refine
        restore rotations_from_euler sharpen simulate symmetry write_report"""
    assert sorted(cr.__all__) == sorted(names.split())


@pytest.mark.parametrize("name", cr.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name):
    value = getattr(cr, name)
    if name == "__version__":
        assert value[0].isdigit()
        return
    assert value.__name__.rpartition(".")[2] == name
    assert callable(value) or name in ("restore", "symmetry")
    assert len(inspect.getdoc(value).splitlines()[0]) > 20


@pytest.mark.parametrize("name", [n for n in cr.__all__ if n[0].isupper()])
def test_every_attribute_of_a_public_class_says_what_it_is(name):
    for member, value in vars(getattr(cr, name)).items():
        if callable(value) or isinstance(value, property | cached_property):
            assert member.startswith("_") or inspect.getdoc(value), f"{name}.{member}"


def test_help_of_the_package_names_all_that_is_public():
    _, _, lists = cr.__doc__.partition("\nObjects\n")
    words = set(re.findall(r"\w+", lists))
    assert set(cr.__all__) - {"__version__"} <= words


def test_nothing_else_is_offered():
    assert dir(cr) == sorted(cr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'laplacian'"):
        cr.laplacian  # noqa: B018


def test_functions_keep_names_that_packages_have_too():
    from cryorefine.reconstruct import solve
    from cryorefine.refine import policy

    assert policy.__name__ == "cryorefine.refine.policy"
    assert solve.__name__ == "cryorefine.reconstruct.solve"
    assert inspect.isfunction(cr.refine)
    assert inspect.isfunction(cr.reconstruct)


def test_importing_changes_nothing_in_the_program_that_imports():
    found = json.loads(printed_by(EFFECTS))
    assert found == {"environment": True, "filters": True, "threads": True, "loads torch": False}


def test_a_call_gives_the_programs_threads_back_also_when_it_fails(tmp_path):
    assert printed_by(CALLS, tmp_path / "data") == "1 False"


def test_the_command_says_how_its_threads_wait():
    program = """
import os, sys
from cryorefine.cli.main import main
assert "torch" not in sys.modules
try:
    main(["--version"])
finally:
    print(os.environ["OMP_WAIT_POLICY"])
"""
    assert printed_by(program).splitlines()[-1] == "PASSIVE"
