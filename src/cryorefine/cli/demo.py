"""``cryorefine demo``."""

from functools import partial
from pathlib import Path

import click

from cryorefine.cli.environment import modules_of_a_run
from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import InputError
from cryorefine.io.output_path import is_there
from cryorefine.storage.layout import LOCK, committed_iterations
from cryorefine.storage.lock import locked
from cryorefine.storage.removal import remove_folder
from cryorefine.storage.result_folder import folder_made

__all__ = ["command"]

_MARK = ".demo.part"
"""Folder that is there until the demonstration is done."""


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
    _check_folder(output)
    with folder_made(output), locked(output):
        _check_folder(output)
        mark = output / _MARK
        mark.mkdir(exist_ok=True)
        try:
            _simulate_and_refine(context, output, particles, symmetry, seed)
        except BaseException:
            if not _names(output):
                mark.rmdir()
            raise
        mark.rmdir()


def _simulate_and_refine(
    context: click.Context, output: Path, particles: int, symmetry: str, seed: int
) -> None:
    with modules_of_a_run():
        from cryorefine.api.simulation import SIMULATED_FILES
        from cryorefine.cli.run_display import run_and_show
        from cryorefine.cli.simulate import command as simulate
        from cryorefine.run.loop import refine
        from cryorefine.settings import make_settings

    data, run = output / "particles", output / "run"
    remove_folder(data, SIMULATED_FILES)  # of a demonstration that was killed
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
    run_and_show(partial(refine, settings, run, overwrite=run.exists()), run)


def _check_folder(output: Path) -> None:
    """Refuse a folder that holds something, other than a demonstration that stopped too early.

    Raises
    ------
    InputError
        If so, or if there is a run to resume.
    """
    if not is_there(output) or not _names(output):
        return
    if not (output / _MARK).is_dir() or _names(output) - {"particles", "run"}:
        raise InputError("exists and is not empty", where=str(output), do="give a new --output")
    if committed_iterations(output / "run"):
        raise InputError(
            "holds a demonstration that has begun to refine",
            where=str(output),
            do=f"continue it with 'cryorefine resume {output / 'run'}', or give a new --output",
        )


def _names(output: Path) -> set[str]:
    return {path.name for path in output.iterdir()} - {LOCK, _MARK}
