"""``cryorefine demo``."""

from functools import partial
from pathlib import Path

import click

from cryorefine.cli.file_path import FILE_PATH

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--output",
    type=FILE_PATH,
    default=Path("demo-run"),
    show_default=True,
    help="New folder for simulated particles and the run.",
)
@click.option("--particles", default=1000, show_default=True, help="Number of images.")
@click.option("--symmetry", default="d2", show_default=True, help="Point group of the particle.")
@click.option("--seed", default=0, show_default=True, help="Seed of all random choices.")
@click.pass_context
def command(context: click.Context, output: Path, particles: int, symmetry: str, seed: int) -> None:
    """Simulate particles of a made-up protein and refine them from a 30 Å start.

    Everything a real refinement does, on images whose true map is known: the report shows the FSC
    against it.
    """
    from cryorefine.io.output_path import check_new_folder

    check_new_folder(output)
    from cryorefine.cli.run_display import run_and_show
    from cryorefine.cli.simulate import command as simulate
    from cryorefine.run.loop import refine
    from cryorefine.settings import make_settings

    data, run = output / "particles", output / "run"
    click.echo(f"simulating {particles} particles in {data}")
    context.invoke(
        simulate,
        model="phantom",
        output=data,
        particles=particles,
        box_px=72,
        pixel_angstrom=2.5,
        symmetry=symmetry,
        diameter_angstrom=125.0,
        snr=0.05,
        seed=seed,
    )
    settings = make_settings(
        {
            "particles": data / "particles.star",
            "reference": (data / "reference.mrc",),
            "symmetry": symmetry,
            "compare_to": data / "truth_map.mrc",
            "seed": seed,
        }
    )
    run_and_show(partial(refine, settings, run), run)
