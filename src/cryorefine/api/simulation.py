"""Simulated particle images with known poses, from Python."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from cryorefine.api.boundary import library_call
from cryorefine.api.particles import Particles, read_particles
from cryorefine.api.progress import ProgressDisplay
from cryorefine.api.volume import Volume, read_volume
from cryorefine.errors import InputError
from cryorefine.events import Listener, WorkAdvanced
from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.symmetry import SymmetryGroup, parse_symmetry
from cryorefine.io.model import read_model
from cryorefine.io.mrc import write_stack, write_volume
from cryorefine.model.atoms import Atoms
from cryorefine.model.orient import orienting_rotation
from cryorefine.model.phantom import make_phantom
from cryorefine.model.simulate import (
    SimulationPlan,
    draw_parameters,
    simulate_images,
    truth_volume,
)
from cryorefine.model.simulated_table import simulated_table
from cryorefine.particles.formats.relion import write_relion

__all__ = ["Simulation", "simulate", "write_simulation"]

_NOISES = ("coloured", "white", "ice")
_POSES = ("uniform", "axis")


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


@library_call
def simulate(
    model: str | os.PathLike[str] = "phantom",
    *,
    output: str | os.PathLike[str],
    progress: bool = False,
    particles: int = 1000,
    box_px: int = 128,
    pixel_angstrom: float = 2.0,
    symmetry: str = "c1",
    assembly: str | None = None,
    diameter_angstrom: float = 120.0,
    snr: float = 0.05,
    noise: Literal["coloured", "white", "ice"] = "coloured",
    atom_bfactor: float | None = None,
    imaging_bfactor: float = 0.0,
    defocus_angstrom: tuple[float, float] = (8000.0, 20000.0),
    defocus_error_angstrom: float = 0.0,
    astigmatism_angstrom: float = 200.0,
    voltage_kv: float = 300.0,
    cs_mm: float = 2.7,
    amplitude_contrast: float = 0.1,
    shift_angstrom: float = 3.0,
    poses: Literal["uniform", "axis"] = "uniform",
    axis_tilt_deg: float = 0.0,
    axis_spread_deg: float = 15.0,
    axis_fraction: float = 1.0,
    scale_spread: float = 0.0,
    junk_fraction: float = 0.0,
    optics_groups: int = 1,
    per_micrograph: int = 50,
    reference_angstrom: float = 30.0,
    seed: int = 0,
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
        Point group; a model is turned to its conventional axes.
    assembly
        Biological assembly of the model; None takes the first.
    diameter_angstrom
        Of the phantom.
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
    options = dict(locals())
    source, folder = os.fspath(options.pop("model")), Path(options.pop("output"))
    if options.pop("progress"):
        with ProgressDisplay() as display:
            write_simulation(source, folder, options, display)
    else:
        write_simulation(source, folder, options)
    return Simulation(
        particles=read_particles(folder / "particles.star"),
        reference=read_volume(folder / "reference.mrc"),
        true_particles=read_particles(folder / "truth_particles.star"),
        true_map=read_volume(folder / "truth_map.mrc"),
        output=folder,
    )


def write_simulation(
    model: str, output: Path, options: dict[str, Any], listener: Listener | None = None
) -> None:
    """Simulate a set into a new folder.

    Parameters
    ----------
    options
        By the names of the parameters of :func:`simulate`; errors name them as options.
    listener
        Is told how far it is.

    Raises
    ------
    InputError
        If an option is out of range, the model cannot be read, or the folder exists.
    """
    _check(options)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError("exists and is not empty", where=str(output), do="give a new folder")
    group = parse_symmetry(options["symmetry"])
    atoms = _atoms(model, group, options)
    low, high = options["defocus_angstrom"]
    plan = SimulationPlan(
        n_particles=options["particles"],
        box_px=options["box_px"],
        pixel_A=options["pixel_angstrom"],
        snr=options["snr"],
        n_groups=options["optics_groups"],
        particles_per_micrograph=options["per_micrograph"],
        voltage_kV=options["voltage_kv"],
        cs_mm=options["cs_mm"],
        amplitude_contrast=options["amplitude_contrast"],
        defocus_min_A=low,
        defocus_max_A=high,
        astigmatism_A=options["astigmatism_angstrom"],
        defocus_error_A=options["defocus_error_angstrom"],
        bfactor_A2=options["imaging_bfactor"],
        pose_axis_tilt_deg=options["axis_tilt_deg"] if options["poses"] == "axis" else None,
        pose_axis_spread_deg=options["axis_spread_deg"],
        pose_axis_fraction=options["axis_fraction"],
        shift_A=options["shift_angstrom"],
        scale_spread=options["scale_spread"],
        junk_fraction=options["junk_fraction"],
        noise=options["noise"],
        seed=options["seed"],
    )
    extent_A = 2 * float(np.linalg.norm(atoms.xyz_A, axis=1).max())
    if extent_A > plan.box_px * plan.pixel_A:
        raise InputError(
            f"the particle is {extent_A:.0f} Å across, the box {plan.box_px * plan.pixel_A:.0f} Å",
            where="--box-px",
            do="give a larger box or pixel",
        )
    drawn = draw_parameters(atoms, plan)
    output.mkdir(parents=True, exist_ok=True)
    images = torch.empty(plan.n_particles, plan.box_px, plan.box_px, dtype=torch.float16)
    for rows, batch in simulate_images(atoms, plan, drawn):
        images[torch.from_numpy(rows)] = batch.half()
        if listener is not None:
            listener(
                WorkAdvanced(stage="simulating", done=int(rows[-1]) + 1, total=plan.n_particles)
            )
    stack = output / "particles.mrcs"
    write_stack(stack, images, plan.pixel_A, half=True)
    truth = truth_volume(atoms, plan, drawn)
    write_volume(output / "truth_map.mrc", truth, plan.pixel_A)
    start = low_pass(truth, voxel_A=plan.pixel_A, resolution_A=options["reference_angstrom"])
    write_volume(output / "reference.mrc", start, plan.pixel_A)
    write_relion(output / "particles.star", simulated_table(drawn, stack, with_poses=False))
    write_relion(
        output / "truth_particles.star",
        simulated_table(drawn, stack, with_poses=True),
        quality={
            "cryorefineTrueScale": drawn.scale.double().numpy(),
            "cryorefineTrueDefocusError": (drawn.defocus.u_A - drawn.stated_defocus.u_A).numpy(),
            "cryorefineIsJunk": drawn.is_junk.astype(np.int64),
        },
    )


def _check(options: dict[str, Any]) -> None:
    """Refuse options out of range, all at once."""
    low, high = options["defocus_angstrom"]
    problems = [
        text
        for bad, text in (
            (options["particles"] < 1, "--particles must be 1 or more"),
            (options["noise"] not in _NOISES, f"--noise must be one of {', '.join(_NOISES)}"),
            (options["poses"] not in _POSES, f"--poses must be one of {', '.join(_POSES)}"),
            (options["box_px"] < 16, "--box-px must be 16 or more"),
            (options["pixel_angstrom"] <= 0, "--pixel-angstrom must be positive"),
            (options["snr"] <= 0, "--snr must be positive"),
            (low > high, "--defocus-angstrom must be given as smallest, then largest"),
            (not 0 <= options["junk_fraction"] < 1, "--junk-fraction must be 0 or more, below 1"),
            (not 0 <= options["axis_fraction"] <= 1, "--axis-fraction must be 0 to 1"),
            (
                options["defocus_error_angstrom"] < 0,
                "--defocus-error-angstrom must not be negative",
            ),
            (not 0 <= options["amplitude_contrast"] <= 1, "--amplitude-contrast must be 0 to 1"),
            (options["optics_groups"] < 1, "--optics-groups must be 1 or more"),
            (options["per_micrograph"] < 1, "--per-micrograph must be 1 or more"),
            (options["voltage_kv"] <= 0, "--voltage-kv must be positive"),
            (options["reference_angstrom"] <= 0, "--reference-angstrom must be positive"),
            (options["diameter_angstrom"] < 40, "--diameter-angstrom must be 40 or more"),
        )
        if bad
    ]
    if problems:
        raise InputError("; ".join(problems), do="correct the options")


def _atoms(model: str, group: SymmetryGroup, options: dict[str, Any]) -> Atoms:
    """Return the atoms of a phantom or model file, centred and turned to the group's axes."""
    if model == "phantom":
        return make_phantom(group, diameter_A=options["diameter_angstrom"], seed=options["seed"])
    file = read_model(Path(model), assembly=options["assembly"])
    centre = file.xyz_A.mean(0)
    copies = [[chain - centre for chain in chains] for chains in file.copies]
    matrix = orienting_rotation(copies, group)
    types, a, b = file.scattering()
    bfactor = options["atom_bfactor"]
    return Atoms(
        xyz_A=(file.xyz_A - centre) @ matrix.T,
        gaussian_a=a,
        gaussian_b_A2=b,
        type_index=types,
        bfactor_A2=file.bfactor_A2 if bfactor is None else np.full(len(types), bfactor),
        occupancy=file.occupancy,
    )
