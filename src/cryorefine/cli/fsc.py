"""``cryorefine fsc``."""

import math
from pathlib import Path

import click

from cryorefine.cli.file_path import FILE_PATH
from cryorefine.errors import InputError

__all__ = ["command"]


@click.command("fsc")
@click.argument("half1", type=FILE_PATH)
@click.argument("half2", type=FILE_PATH)
@click.option("--mask", type=FILE_PATH, help="Soft mask, 0 to 1.")
@click.option(
    "--output",
    type=FILE_PATH,
    required=True,
    help="Table to write: .star of RELION, .xml of EMDB, or .csv.",
)
@click.option("--overwrite", is_flag=True, help="Replace the table if it exists.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=0,
    show_default=True,
    help="Seed of the randomised phases.",
)
def command(
    half1: Path, half2: Path, mask: Path | None, output: Path, overwrite: bool, seed: int
) -> None:
    """Fourier shell correlation of HALF1 and HALF2.

    With a mask the curve is corrected for what the mask itself contributes, by randomised phases.
    """
    from cryorefine.io.output_path import check_output_file

    check_output_file(output, overwrite=overwrite)
    from cryorefine.evaluate.fsc import half_map_fsc
    from cryorefine.io.mrc import read_volume
    from cryorefine.records.fsc_files import FscRecord, write_fsc

    first, second = read_volume(half1), read_volume(half2)
    weight = read_volume(mask) if mask is not None else None
    for path, volume in ((half2, second), (mask, weight)):
        if volume is None:
            continue
        same = math.isclose(volume.voxel_A, first.voxel_A, rel_tol=1e-3)
        if volume.size_px != first.size_px or not same:
            raise InputError(
                f"{volume.size_px} voxels of {volume.voxel_A:.4g} Å, but {half1} has "
                f"{first.size_px} of {first.voxel_A:.4g} Å",
                where=str(path),
                do="give maps of one box and sampling",
            )
    if weight is not None and (weight.data.min() < -0.01 or weight.data.max() > 1.01):
        raise InputError(
            "mask values are not between 0 and 1", where=str(mask), do="give another mask"
        )
    curves = half_map_fsc(
        first.data,
        second.data,
        voxel_A=first.voxel_A,
        mask=None if weight is None else weight.data.clamp(0, 1),
        seed=seed,
    )
    write_fsc(output, FscRecord(curves, curves.resolution_A()))
    for threshold in (0.143, 0.5):
        corrected = curves.resolution_A(threshold)
        unmasked = curves.resolution_A(threshold, curve="unmasked")
        click.echo(f"FSC {threshold:<5g} {corrected:7.2f} Å   unmasked {unmasked:7.2f} Å")
    click.echo(f"table     {output}")
