"""``cryorefine simulate``."""

from pathlib import Path
from typing import Any

import click

from cryorefine.errors import InputError

__all__ = ["command"]


@click.command("simulate")
@click.argument("model", type=str)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option("--particles", default=1000, show_default=True, help="Number of images.")
@click.option("--box-px", default=128, show_default=True, help="Side of the images.")
@click.option("--pixel-angstrom", default=2.0, show_default=True, help="Pixel size.")
@click.option(
    "--symmetry",
    default="c1",
    show_default=True,
    help="Point group; the model is turned to its conventional axes.",
)
@click.option("--assembly", help="Biological assembly of the model (default: the first).")
@click.option(
    "--diameter-angstrom",
    default=120.0,
    show_default=True,
    help="Of the phantom; models have their own.",
)
@click.option(
    "--snr",
    default=0.05,
    show_default=True,
    help="Variance of the signal over that of the noise, over the whole box.",
)
@click.option(
    "--noise",
    type=click.Choice(["coloured", "white", "ice"]),
    default="coloured",
    show_default=True,
    help="Coloured noise is stronger at low resolution; ice more so, with the SNR measured against "
    "the white noise that it is made of.",
)
@click.option(
    "--atom-bfactor", type=float, help="B-factor of all atoms in Å² (default: the model's own)."
)
@click.option(
    "--imaging-bfactor",
    default=0.0,
    show_default=True,
    help="Further B-factor in Å², as part of the CTF.",
)
@click.option(
    "--defocus-angstrom",
    type=(float, float),
    default=(8000.0, 20000.0),
    show_default=True,
    help="Range of the mean defocus.",
)
@click.option(
    "--defocus-error-angstrom",
    default=0.0,
    show_default=True,
    help="Standard deviation of the particles' defocus about the one in particles.star.",
)
@click.option("--astigmatism-angstrom", default=200.0, show_default=True, help="Defocus U less V.")
@click.option("--voltage-kv", default=300.0, show_default=True, help="Acceleration voltage.")
@click.option("--cs-mm", default=2.7, show_default=True, help="Spherical aberration.")
@click.option("--amplitude-contrast", default=0.1, show_default=True, help="Fraction, 0 to 1.")
@click.option(
    "--shift-angstrom",
    default=3.0,
    show_default=True,
    help="Standard deviation of the particles' shifts along x and y.",
)
@click.option(
    "--poses",
    type=click.Choice(["uniform", "axis"]),
    default="uniform",
    show_default=True,
    help="Uniform, or spread about one viewing tilt.",
)
@click.option(
    "--axis-tilt-deg",
    default=0.0,
    show_default=True,
    help="Preferred viewing tilt (with --poses axis).",
)
@click.option(
    "--axis-spread-deg",
    default=15.0,
    show_default=True,
    help="Standard deviation of the tilt about it.",
)
@click.option(
    "--axis-fraction",
    default=1.0,
    show_default=True,
    help="Share of the particles with that tilt; the others' poses are uniform.",
)
@click.option(
    "--scale-spread",
    default=0.0,
    show_default=True,
    help="Standard deviation of the particles' relative amplitudes.",
)
@click.option(
    "--junk-fraction", default=0.0, show_default=True, help="Fraction of images without a particle."
)
@click.option("--optics-groups", default=1, show_default=True, help="Number of optics groups.")
@click.option("--per-micrograph", default=50, show_default=True, help="Particles a micrograph.")
@click.option(
    "--reference-angstrom",
    default=30.0,
    show_default=True,
    help="Low-pass of reference.mrc, a start for refinement.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all random choices.")
def command(model: str, output: Path, **options: Any) -> None:
    """Simulate particle images of MODEL: a .pdb or .cif file, or the word phantom.

    Writes particles.star and particles.mrcs, and the truth beside them: truth_particles.star with
    the true poses, truth_map.mrc, and reference.mrc (the truth low-passed).
    """
    _simulate(model, output, options)
    click.echo(f"particles   {output / 'particles.star'}")
    click.echo(f"reference   {output / 'reference.mrc'}")
    click.echo(f"truth       {output / 'truth_map.mrc'}, {output / 'truth_particles.star'}")


def _simulate(model: str, output: Path, options: dict[str, Any]) -> None:
    """Simulate a set into a new folder.

    Raises
    ------
    InputError
        If an option is out of range, the model cannot be read, or the folder exists.
    """
    import numpy as np
    import torch

    from cryorefine.cli.progress import ProgressDisplay
    from cryorefine.fourier.filter import low_pass
    from cryorefine.geometry.symmetry import parse_symmetry
    from cryorefine.io.mrc import write_stack, write_volume
    from cryorefine.model.simulate import (
        SimulationPlan,
        draw_parameters,
        simulate_images,
        truth_volume,
    )
    from cryorefine.model.simulated_table import simulated_table
    from cryorefine.particles.formats.relion import write_relion

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
    with ProgressDisplay() as display:
        for rows, batch in simulate_images(atoms, plan, drawn):
            images[torch.from_numpy(rows)] = batch.half()
            display(
                {"kind": "progress", "stage": "simulating", "done": int(rows[-1]) + 1,
                 "total": plan.n_particles}
            )  # fmt: skip
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


def _atoms(model: str, group: Any, options: dict[str, Any]) -> Any:
    """Return the atoms of a phantom or model file, centred and turned to the group's axes."""
    import numpy as np

    from cryorefine.io.model import read_model
    from cryorefine.model.atoms import Atoms
    from cryorefine.model.orient import orienting_rotation
    from cryorefine.model.phantom import make_phantom

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
