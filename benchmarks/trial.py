"""What the benchmarks share: simulate a set, refine it as a user would, judge it by the truth."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.evaluate.fsc import fsc_within, resolution
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.model import read_model
from cryorefine.io.mrc import Volume, read_volume
from cryorefine.masks.soft import solvent_mask
from cryorefine.model.atoms import Atoms, scattering_basis, volume_from_atoms
from cryorefine.particles.table import ParticleTable
from cryorefine.settings import RefineSettings, make_settings
from measured import Cost, measure

_MASK_RESOLUTION_A = 15.0

ICE: dict[str, object] = {
    "noise": "ice", "defocus_error_angstrom": 150, "scale_spread": 0.1
}  # fmt: skip
"""What ``simulate`` is told for images as real ones are: coloured noise, with the signal measured
against the white noise that it is made of; defocus and grey values that the file does not know."""


@dataclass(frozen=True)
class MapQuality:
    """Two half maps, within a soft mask of the truth if that is known, else of their average.

    Attributes
    ----------
    truth_A
        Where the FSC of their average with the truth falls below 0.5.
    truth_mean, halves_mean
        Mean FSC of the average with the truth, and of one half with the other, over the shells
        asked for.
    """

    truth_A: float | None
    truth_mean: float | None
    halves_mean: float


def run_cryorefine(*arguments: object, log: Path | None = None, prelude: str = "") -> Cost:
    """Run the program in a process of its own, after the statements given; stop if it fails."""
    program = ["-m", "cryorefine"]
    if prelude:
        program = ["-c", f"{prelude}; from cryorefine.cli.main import main; main()"]
    code, cost = measure([sys.executable, *program, *arguments], log)
    if code:
        raise SystemExit(f"cryorefine {arguments[0]} failed{f': see {log}' if log else ''}")
    return cost


def arguments_of(options: dict[str, object]) -> list[object]:
    """Return command-line arguments for named options; None is left out, True is the name alone."""
    arguments: list[object] = []
    for name, value in options.items():
        if value is not None:
            arguments.append("--" + name.replace("_", "-"))
        if value is not None and value is not True:
            arguments.append(value)
    return arguments


def simulate(model: str, folder: Path, **options: object) -> Path:
    """Simulate a set unless the folder is there already; return the folder."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        run_cryorefine(
            "simulate", model, "--output", folder, *arguments_of(options),
            log=folder.with_name(f"{folder.name}.log"),
        )  # fmt: skip
    return folder


def refine(
    star: Path, reference: Path | None, output: Path, *, prelude: str = "", **options: object
) -> Cost:
    """Refine a set; return what it cost. Progress goes to a file beside the run.

    Without a reference the poses make one. Statements in ``prelude`` come before the program, such
    as ones that give a constant another value.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    return run_cryorefine(
        "refine", star, *arguments_of({"reference": reference, **options}), "--output", output,
        "--overwrite", prelude=prelude, log=output.with_name(f"{output.name}.log"),
    )  # fmt: skip


def parser_of_set(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that name a set: particles, a reference and a symmetry."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("particles", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--symmetry", default="c1")
    return parser


def settings_of_set(options: argparse.Namespace, **others: object) -> RefineSettings:
    """Return the settings of a refinement of the set that :func:`parser_of_set` was told of."""
    named = {"particles": options.particles, "reference": (options.reference,)}
    return make_settings({**named, "symmetry": options.symmetry, **others})


def model_map(path: Path, size_px: int, voxel_A: float) -> Volume:
    """Return a map from an MRC file, or of an atomic model centred on its atoms."""
    if path.suffix in (".mrc", ".map"):
        return read_volume(path)
    file = read_model(path)
    types, a, b = file.scattering()
    atoms = Atoms(file.xyz_A - file.xyz_A.mean(0), a, b, types, file.bfactor_A2, file.occupancy)
    basis = scattering_basis(atoms, 0.95 / voxel_A)
    data = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=voxel_A)
    return Volume(data, voxel_A)


def map_quality(
    halves: tuple[Path, Path],
    truth: Volume | None,
    shells_A: tuple[float, float] | None = None,
) -> MapQuality:
    """Judge half maps.

    Parameters
    ----------
    shells_A
        Coarsest and finest resolution of the means; None: all shells up to Nyquist.
    """
    first, second = (read_volume(path) for path in halves)
    size_px, voxel_A = first.size_px, first.voxel_A
    average = (first.data + second.data) / 2
    mask = solvent_mask(
        average if truth is None else truth.data,
        voxel_A=voxel_A,
        radius_px=size_px / 2,
        resolution_A=_MASK_RESOLUTION_A,
    )
    between = fsc_within(first.data, second.data, mask)
    frequency = torch.arange(len(between)).double() / (size_px * voxel_A)
    low, high = shells_A or (np.inf, 2 * voxel_A)
    chosen = (frequency >= max(1 / low, float(frequency[1]))) & (frequency <= 1 / high + 1e-9)

    def mean(curve: Float[Tensor, "s"]) -> float:
        return float(curve[chosen].mean())

    if truth is None:
        return MapQuality(None, None, mean(between))
    curve = fsc_within(average, truth.data, mask)
    return MapQuality(resolution(curve, frequency, 0.5), mean(curve), mean(between))


def pose_errors(
    found: ParticleTable, truth: ParticleTable, symmetry: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return angles in degrees, modulo symmetry, and shifts in ångströms, found to true.

    Particles are known by their place in the stack, of which there must be one.
    """
    order = np.argsort(truth.image_index)
    rows = order[np.searchsorted(truth.image_index[order], found.image_index)]
    angle = parse_symmetry(symmetry).distance(
        matrix_from_euler(torch.from_numpy(found.euler_rad)),
        matrix_from_euler(torch.from_numpy(truth.euler_rad[rows])),
    )
    shift = np.linalg.norm(found.shift_A - truth.shift_A[rows], axis=1)
    return np.rad2deg(angle.numpy()), shift


def run_halves(run: Path) -> tuple[Path, Path]:
    """Return the half maps of a run of cryorefine."""
    return run / "half1.mrc", run / "half2.mrc"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number for a table, a dash for one that does not exist."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.{digits}f}"


def markdown(rows: list[list[str]]) -> str:
    """Return a table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])
