"""Refine cryo-EM single-particle images to the highest resolution that they hold.

Paths or objects go in, result objects come out; everything works on one homogeneous set of
particle images and its maps:

    import cryorefine as cr

    particles = cr.read_particles("particles.star")      # table and lazy images
    sharp = particles[particles.defocus_u_A < 25000]     # a selection is Particles, too
    result = cr.refine(sharp, "start.mrc", symmetry="d2", output="run", progress=True)
    result.resolution_A                                  # from the corrected FSC
    result.map.write("map.mrc")                          # .half_maps, .mask, .fsc, .history
    result.particles.sigma_rotation_deg                  # scores of every particle

    run = cr.open_run("run")                             # later, or in another process
    run.resume(alignment="local", iterations=2)
    cr.write_report("run")                               # report.html

Objects
    Particles, Volume, FscCurves, Inspection, Conversion, Export, Refinement, Run, Iteration,
    Simulation
Read and write
    read_particles, read_volume, convert, export, open_run, write_report
Compute
    inspect, refine, reconstruct, fsc, sharpen, helical_search, impose_helix, project,
    rotations_from_euler, simulate; and the modules restore, with a function for each
    restoration of half maps, and symmetry, which finds and converts axes of maps
Errors
    CryorefineError, and of its kind InputError (what, where and what to do about it) and
    StoppedEarly (whole iterations are safe)

Lengths are in ångströms where a name ends in ``_A`` or ``_angstrom``, angles in degrees where it
ends in ``_deg``; arrays are (z, y, x) and (y, x), vectors (x, y, z); ``docs/conventions.md`` has
the rest. Importing this package changes nothing in a program, and after each call the program has
the numbers of threads that it had before.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryorefine.api import restore, symmetry
    from cryorefine.api.correlation import FscCurves, fsc, sharpen
    from cryorefine.api.helices import helical_search, impose_helix
    from cryorefine.api.inspection import Inspection, inspect
    from cryorefine.api.particles import Particles, read_particles
    from cryorefine.api.projection import project, rotations_from_euler
    from cryorefine.api.refinement import reconstruct, refine
    from cryorefine.api.results import Iteration, Refinement
    from cryorefine.api.run_folder import Run, open_run
    from cryorefine.api.simulation import Simulation, simulate
    from cryorefine.api.volume import Volume, read_volume
    from cryorefine.conversion import Conversion, convert
    from cryorefine.errors import CryorefineError, InputError, StoppedEarly
    from cryorefine.interop.export import Export, export
    from cryorefine.report.build import write_report

    __version__: str

__all__ = [
    "Conversion",
    "CryorefineError",
    "Export",
    "FscCurves",
    "InputError",
    "Inspection",
    "Iteration",
    "Particles",
    "Refinement",
    "Run",
    "Simulation",
    "StoppedEarly",
    "Volume",
    "__version__",
    "convert",
    "export",
    "fsc",
    "helical_search",
    "impose_helix",
    "inspect",
    "open_run",
    "project",
    "read_particles",
    "read_volume",
    "reconstruct",
    "refine",
    "restore",
    "rotations_from_euler",
    "sharpen",
    "simulate",
    "symmetry",
    "write_report",
]

# Where a name is; its module, and torch with it, is loaded when the name is first used.
_MODULES = {
    "Conversion": "conversion",
    "CryorefineError": "errors",
    "Export": "interop.export",
    "FscCurves": "api.correlation",
    "InputError": "errors",
    "Inspection": "api.inspection",
    "Iteration": "api.results",
    "Particles": "api.particles",
    "Refinement": "api.results",
    "Run": "api.run_folder",
    "Simulation": "api.simulation",
    "StoppedEarly": "errors",
    "Volume": "api.volume",
    "convert": "conversion",
    "export": "interop.export",
    "fsc": "api.correlation",
    "helical_search": "api.helices",
    "impose_helix": "api.helices",
    "inspect": "api.inspection",
    "open_run": "api.run_folder",
    "project": "api.projection",
    "read_particles": "api.particles",
    "read_volume": "api.volume",
    "reconstruct": "api.refinement",
    "refine": "api.refinement",
    "restore": "api.restore",
    "rotations_from_euler": "api.projection",
    "sharpen": "api.correlation",
    "simulate": "api.simulation",
    "symmetry": "api.symmetry",
    "write_report": "report.build",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cryorefine")
    if name not in _MODULES:
        raise AttributeError(f"module 'cryorefine' has no attribute {name!r}")
    return getattr(import_module(f"cryorefine.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Library(ModuleType):
    """Keeps ``refine`` and ``reconstruct`` the functions that they are, and modules the library's.

    Packages have these names, too, and an import binds a package's name here when it first loads
    it. ``from cryorefine.refine import ...`` finds the package all the same.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Library
