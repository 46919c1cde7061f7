"""``cryorefine reconstruct``."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from cryorefine.cli.environment import modules_of_a_run
from cryorefine.cli.file_path import FILE_PATH
from cryorefine.cli.options import given, settings_options
from cryorefine.settings.restoration import RestorationSettings

__all__ = ["command"]


@click.command("reconstruct")
@click.argument("particles", type=FILE_PATH)
@click.option("--output", type=FILE_PATH, required=True, help="Folder for the results.")
@click.option("--overwrite", is_flag=True, help="Replace a run that is in the folder already.")
def command(particles: Path, output: Path, overwrite: bool, **options: Any) -> None:
    """Reconstruct half maps from the poses in PARTICLES, without changing them.

    Fills a run folder as 'refine' does: half maps, FSC, weighted map, scores of the given poses.
    """
    with modules_of_a_run():
        from cryorefine.cli.run_display import run_and_show
        from cryorefine.run.loop import refine
        from cryorefine.settings import make_settings

    settings = make_settings({**given(options), "particles": particles, "alignment": "none"})
    run_and_show(partial(refine, settings, output, overwrite=overwrite), output)


settings_options(
    "image_root",
    "symmetry",
    "particle_radius_px",
    "mask",
    "mask_voxel_angstrom",
    "fsc_criterion",
    "invert_contrast",
    "ctf",
    "ctf_envelope",
    "phase_flipped",
    "ctf_premultiplied",
    "split",
    "max_energy",
    "fourier_padding",
    "reconstruct_min_tilt_deg",
    "reconstruct_max_tilt_deg",
    "weight_ssnr",
    "weight_stability",
    "weight_cc",
    "min_cc_weight",
    "file_weights",
    "file_values",
    "helical_twist_deg",
    "helical_rise_angstrom",
    "helical_twist_range_deg",
    "helical_rise_range_angstrom",
    "helical_radius_angstrom",
    "helical_inner_radius_angstrom",
    "helical_fraction",
    *RestorationSettings.model_fields,
    "command_shell",
    "compare_to",
    "seed",
    "threads",
    "device",
)(command)
