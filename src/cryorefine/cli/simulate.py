"""``cryorefine simulate``."""

from pathlib import Path
from typing import Any

import click

from cryorefine.cli.file_path import FILE_PATH

__all__ = ["command"]


@click.command("simulate")
@click.argument("model", type=str)
@click.option("--output", type=FILE_PATH, required=True, help="New folder.")
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
    help="Of the phantom, or of its filament; models have their own.",
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
@click.option(
    "--helical-twist-deg",
    type=float,
    help="Makes the object a filament, with --helical-rise-angstrom: turn of a step; positive is "
    "right-handed. --symmetry is then its axis along z (cN, or dN with two-fold axes across), a "
    "model is one unit about the z axis of its file, and particles are segments of tubes.",
)
@click.option("--helical-rise-angstrom", type=float, help="Move of a step of the filament.")
@click.option("--segments-per-tube", type=int, help="Segments of each filament.  [default: 10]")
@click.option(
    "--segment-step-angstrom",
    type=float,
    help="From segment to segment along the filament.  [default: a tenth of the box]",
)
@click.option(
    "--tube-tilt-spread-deg",
    type=float,
    help="Standard deviation of the filaments' tilts about 90°.  [default: 5]",
)
@click.option(
    "--psi-prior-error-deg",
    type=float,
    help="Standard deviation of the psi that filaments are given about their true one.  "
    "[default: 2]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all random choices.")
def command(model: str, output: Path, **options: Any) -> None:
    """Simulate particle images of MODEL: a .pdb or .cif file, or the word phantom.

    Writes particles.star and particles.mrcs, and the truth beside them: truth_particles.star with
    the true poses, truth_map.mrc, and reference.mrc (the truth low-passed). A filament ends in no
    image; both tables say its tubes, their tracks and the priors of the angles.
    """
    from cryorefine.api.progress_display import ProgressDisplay
    from cryorefine.api.simulation import write_simulation
    from cryorefine.model.simulation_options import make_options

    chosen = make_options(options)
    with ProgressDisplay() as display:
        write_simulation(model, output, chosen, display)
    click.echo(f"particles   {output / 'particles.star'}")
    click.echo(f"reference   {output / 'reference.mrc'}")
    click.echo(f"truth       {output / 'truth_map.mrc'}, {output / 'truth_particles.star'}")
