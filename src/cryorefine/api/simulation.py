"""Simulated particle images with known poses, from Python."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.api.boundary import library_call, threads_restored
from cryorefine.api.particles import Particles, read_particles
from cryorefine.api.progress_display import ProgressDisplay
from cryorefine.api.volume import Volume, read_volume
from cryorefine.engine.threads import use_threads
from cryorefine.errors import InputError
from cryorefine.events import Listener, WorkAdvanced
from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.symmetry import SymmetryGroup, parse_symmetry
from cryorefine.io.model import read_model
from cryorefine.io.mrc import write_stack, write_volume
from cryorefine.model.atoms import Atoms
from cryorefine.model.filament import filament_atoms, made_up_subunit
from cryorefine.model.orient import orienting_rotation
from cryorefine.model.phantom import make_phantom
from cryorefine.model.simulate import (
    SimulatedSet,
    SimulationPlan,
    draw_parameters,
    simulate_images,
    truth_volume,
)
from cryorefine.model.simulated_table import simulated_table
from cryorefine.model.simulation_options import SimulationOptions, make_options
from cryorefine.particles.formats.relion import write_relion
from cryorefine.storage.result_folder import ResultFolder

__all__ = ["SIMULATED_FILES", "Simulation", "simulate", "write_simulation"]

SIMULATED_FILES = (
    "particles.mrcs",
    "truth_map.mrc",
    "reference.mrc",
    "truth_particles.star",
    "particles.star",
)
"""What a simulation leaves in its folder."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated set in its folder.

    Attributes
    ----------
    particles
        Without poses, as a refinement from a reference takes them.
    reference
        The true map, low-passed: a start for a refinement.
    true_particles
        The same particles with their true poses.
    true_map
        What the images were made of, on their grey scale.
    output
        The folder.
    """

    particles: Particles
    reference: Volume
    true_particles: Particles
    true_map: Volume
    output: Path


def _with_options(function: Callable[..., Simulation]) -> Callable[..., Simulation]:
    """Show and name the options of a function, which takes them as ``**options``, one by one."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = inspect.signature(SimulationOptions).parameters.values()
    shown = signature.replace(parameters=[*own, *options])
    function.__signature__ = shown  # type: ignore[attr-defined]  # inspect and help look here
    return function


@library_call
@_with_options
def simulate(
    model: str | os.PathLike[str] = "phantom",
    *,
    output: str | os.PathLike[str],
    progress: bool = False,
    **options: Any,
) -> Simulation:
    """Simulate particle images with known poses, noise and contrast transfer.

    Parameters
    ----------
    model
        A .pdb or .cif file, or ``phantom``, a made-up protein.
    output
        New folder for images, tables and maps.
    progress
        Whether to show how far it is.
    particles, box_px, pixel_angstrom, per_micrograph, optics_groups
        Number of images, their side, the size of their pixels in Å; particles a micrograph; number
        of optics groups.
    symmetry
        Point group; a model is turned to its conventional axes. Of a helix: that of its axis, z.
    assembly
        Biological assembly of the model; None takes the first.
    diameter_angstrom
        Of the phantom, or of its filament.
    snr
        Variance of the signal over that of the noise, over the whole box.
    noise
        ``coloured`` is stronger at low resolution, ``ice`` more so, with the SNR measured against
        the white noise that it is made of.
    atom_bfactor, imaging_bfactor
        B-factor of all atoms in Å² instead of the model's own; a further one as part of the CTF.
    defocus_angstrom, defocus_error_angstrom, astigmatism_angstrom
        Range of the mean defocus in Å; standard deviation of the true one about the one that is
        stated; defocus U less V.
    voltage_kv, cs_mm, amplitude_contrast
        Of the microscope; the contrast is 0 to 1.
    shift_angstrom
        Standard deviation of the shifts along x and y in Å.
    poses, axis_tilt_deg, axis_spread_deg, axis_fraction
        Uniform poses; or ``axis``: about one viewing tilt in degrees, with a standard deviation,
        for a share of the particles.
    scale_spread, junk_fraction
        Standard deviation of relative amplitudes; share of images without a particle.
    reference_angstrom
        Low-pass of ``reference`` in Å.
    seed
        Of all random choices.
    helical_twist_deg, helical_rise_angstrom
        Turn (positive is right-handed) and move of a step: the object is then a filament along z,
        longer than any image, and particles are segments of tubes. A model is one of its units,
        about the z axis of the file. Both tables hold the tubes' numbers, tracks, coordinates, and
        priors of tilt and psi.
    segments_per_tube, segment_step_angstrom
        Of a filament: 10, and a tenth of the box, if None.
    tube_tilt_spread_deg, psi_prior_error_deg
        Standard deviation of the filaments' tilts about 90°, and of their psi priors about their
        true psi (half a turn apart where a filament runs back): 5° and 2° if None.

    Raises
    ------
    InputError
        If a value is out of range, the model cannot be read, or the folder is not empty.

    Examples
    --------
    >>> import cryorefine as cr
    >>> made = cr.simulate(output="simulated", particles=4, box_px=32, pixel_angstrom=5.0)
    >>> made.true_particles.images().shape
    (4, 32, 32)
    """
    source, folder, chosen = os.fspath(model), Path(output), make_options(options)
    if progress:
        with ProgressDisplay() as display:
            write_simulation(source, folder, chosen, display)
    else:
        write_simulation(source, folder, chosen)
    return Simulation(
        particles=read_particles(folder / "particles.star"),
        reference=read_volume(folder / "reference.mrc"),
        true_particles=read_particles(folder / "truth_particles.star"),
        true_map=read_volume(folder / "truth_map.mrc"),
        output=folder,
    )


def write_simulation(
    model: str, output: Path, options: SimulationOptions, listener: Listener | None = None
) -> None:
    """Simulate a set into a new folder.

    Parameters
    ----------
    model, output
        As for :func:`simulate`.
    listener
        Is told how far it is.

    Raises
    ------
    InputError
        If the model cannot be read or is larger than the box, or the folder holds something else
        than a simulation that was killed.
    """
    results = ResultFolder(output, "simulate", SIMULATED_FILES)
    results.check_new()
    group = parse_symmetry(options.symmetry)
    atoms, plan = _atoms(model, group, options), options.plan
    # A filament goes on along z.
    extent_A = 2 * float(np.linalg.norm(atoms.xyz_A[:, : 2 if plan.tubes else 3], axis=1).max())
    if extent_A > plan.box_px * plan.pixel_A:
        raise InputError(
            f"the particle is {extent_A:.0f} Å across, the box {plan.box_px * plan.pixel_A:.0f} Å",
            where="--box-px",
            do="give a larger box or pixel",
        )
    if plan.tubes is not None:
        atoms = filament_atoms(atoms, plan.tubes.helix, box_A=plan.box_px * plan.pixel_A)
    with threads_restored():
        use_threads(None)  # the same numbers on machines of one CPU and of many
        drawn = draw_parameters(atoms, plan)
        with results.filled(results.check_new) as folder:
            stack = folder / "particles.mrcs"
            write_stack(stack, _images(atoms, plan, drawn, listener), plan.pixel_A, half=True)
            truth = truth_volume(atoms, plan, drawn)
            write_volume(folder / "truth_map.mrc", truth, plan.pixel_A)
            start = low_pass(truth, voxel_A=plan.pixel_A, resolution_A=options.reference_angstrom)
            write_volume(folder / "reference.mrc", start, plan.pixel_A)
            _write_tables(folder, drawn, stack)


def _images(
    atoms: Atoms, plan: SimulationPlan, drawn: SimulatedSet, listener: Listener | None
) -> Float[Tensor, "n y x"]:
    """Return all images as they are stored, in half precision."""
    images = torch.empty(plan.n_particles, plan.box_px, plan.box_px, dtype=torch.float16)
    for rows, batch in simulate_images(atoms, plan, drawn):
        images[torch.from_numpy(rows)] = batch.half()
        if listener is not None:
            listener(
                WorkAdvanced(stage="simulating", done=int(rows[-1]) + 1, total=plan.n_particles)
            )
    return images


def _write_tables(output: Path, drawn: SimulatedSet, stack: Path) -> None:
    """Write the particles as a microscope would give them, and with what is true of them."""
    write_relion(output / "particles.star", simulated_table(drawn, stack, with_poses=False))
    write_relion(
        output / "truth_particles.star",
        simulated_table(drawn, stack, with_poses=True),
        quality={
            "cryorefineTrueScale": drawn.scale.double().numpy(),
            "cryorefineTrueDefocusError": (drawn.defocus.u_A - drawn.stated_defocus.u_A).numpy(),
            "cryorefineIsJunk": drawn.is_junk.astype(np.int64),
            **({} if drawn.tubes is None else {"cryorefineTruePolarity": drawn.tubes.polarity}),
        },
    )


def _atoms(model: str, group: SymmetryGroup, options: SimulationOptions) -> Atoms:
    """Return the atoms of a phantom or model file, centred and turned to the group's axes."""
    if model == "phantom" and options.helix is not None:
        unit = made_up_subunit(options.diameter_angstrom, options.seed)
        given = options.atom_bfactor
        return unit if given is None else replace(unit, bfactor_A2=np.full(len(unit), given))
    if model == "phantom":
        return make_phantom(group, diameter_A=options.diameter_angstrom, seed=options.seed)
    file = read_model(Path(model), assembly=options.assembly)
    centre = file.xyz_A.mean(0)
    if options.helix is not None:
        # One unit of a helix about z through the origin of its file: that is where its axis is.
        centre, group = centre * [0, 0, 1], parse_symmetry("c1")
    copies = [[chain - centre for chain in chains] for chains in file.copies]
    matrix = orienting_rotation(copies, group)
    types, a, b = file.scattering()
    bfactor = options.atom_bfactor
    return Atoms(
        xyz_A=(file.xyz_A - centre) @ matrix.T,
        gaussian_a=a,
        gaussian_b_A2=b,
        type_index=types,
        bfactor_A2=file.bfactor_A2 if bfactor is None else np.full(len(types), bfactor),
        occupancy=file.occupancy,
    )
