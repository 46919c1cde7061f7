"""How well twist and rise are found in noisy half maps of exact helices.

    python benchmarks/helices.py [5O3L.pdb.gz]

Half maps of made-up subunits, and of a layer of the atomic model of a fibril if one is given, with
white noise so strong that their FSC falls to 0.143 at the resolution named. Printed: error and
uncertainty (95 %) of twist and rise, of a search over all twists and rises from 1 to 40 Å.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import cryorefine as cr
from cryorefine.fourier.fft import volume_to_half
from cryorefine.fourier.shell import shell_power
from cryorefine.geometry.helix import Helix
from cryorefine.io.model import read_model
from cryorefine.model.atoms import Atoms
from cryorefine.model.filament import filament_atoms, filament_map, made_up_subunit

_BOX_PX = 128
_CASES = (
    (Helix(27.4, 1.4), 1.5, 6.0),
    (Helix(-27.4, 1.4), 1.5, 6.0),
    (Helix(22.03, 1.408), 1.5, 6.0),
    (Helix(-22.03, 1.408), 1.5, 6.0),
    (Helix(29.4, 21.8, fold=6), 2.2, 6.0),
    (Helix(-29.4, 21.8, fold=6), 2.2, 6.0),
)


def layer_of_fibril(path: Path) -> tuple[np.ndarray, Helix]:
    """Return the atoms of one layer about its axis, z, and the helix that takes it to the next."""
    model = read_model(path)
    chains = model.copies[0]
    a, b = chains[0], chains[1]
    u, _, vh = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    turn = vh.T @ np.diag([1, 1, np.sign(np.linalg.det(vh.T @ u.T))]) @ u.T
    move = b.mean(0) - turn @ a.mean(0)
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    twist_rad = np.arctan2(np.linalg.norm(axis), np.trace(turn) - 1)
    axis /= np.linalg.norm(axis)
    if axis @ move < 0:
        axis, twist_rad = -axis, -twist_rad
    x = np.cross([0.0, 1.0, 0.0], axis)
    x /= np.linalg.norm(x)
    frame = np.stack([x, np.cross(axis, x), axis])
    # A point of the axis: where turning and moving within the section cancel.
    flat = move - (axis @ move) * axis
    point = np.linalg.lstsq(np.eye(3) - turn, flat, rcond=None)[0]
    n = len(model.xyz_A) // len(chains)
    first, other = 0, len(chains) // 2
    atoms = np.concatenate([model.xyz_A[i * n : (i + 1) * n] for i in (first, other)])
    layer = (atoms - point) @ frame.T
    layer[:, 2] -= layer[:, 2].mean()
    return layer, Helix(float(np.degrees(twist_rad)), float(axis @ move))


def fibril_unit(layer_A: np.ndarray) -> Atoms:
    """Return the atoms of a layer as carbon, with the B-factor of made-up subunits."""
    like = made_up_subunit(100.0, 0)
    n = len(layer_A)
    return replace(
        like,
        xyz_A=layer_A,
        type_index=np.zeros(n, np.int64),
        bfactor_A2=np.full(n, float(like.bfactor_A2[0])),
        occupancy=np.ones(n),
    )


def helical_map(unit: Atoms, helix: Helix, voxel_A: float) -> torch.Tensor:
    """Return the map of a helix that is longer than the box."""
    atoms = filament_atoms(unit, helix, box_A=_BOX_PX * voxel_A)
    return filament_map(atoms, size_px=_BOX_PX, voxel_A=voxel_A)


def row(name: str, unit: Atoms, helix: Helix, voxel_A: float, resolution_A: float) -> str:
    """Make half maps, search, and return a row of the table."""
    volume = helical_map(unit, helix, voxel_A)
    power = shell_power(volume_to_half(volume), _BOX_PX)
    shell = round(_BOX_PX * voxel_A / resolution_A)
    noise_power = float(power[shell - 2 : shell + 3].mean()) * (1 / 0.143 - 1)
    amplitude = (noise_power / _BOX_PX**3) ** 0.5
    halves = [
        cr.Volume(
            (
                volume
                + amplitude
                * torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed))
            ).numpy(),
            voxel_A,
        )
        for seed in (1, 2)
    ]
    begin = time.perf_counter()
    case = (
        f"| {name} | {helix.twist_deg:.3f}°, {helix.rise_A:.3f} Å, C{helix.fold} | {resolution_A:g}"
    )
    try:
        found = cr.helical_search(*halves, symmetry=f"c{helix.fold}")
    except cr.InputError as error:
        return f"{case} | refused: {error.what.partition(':')[0].partition(',')[0]} | | | |"
    best = found.best.helix
    return (
        f"{case} | {best.twist_deg - helix.twist_deg:+.4f} ± {found.twist_uncertainty_deg:.4f} "
        f"| {best.rise_A - helix.rise_A:+.4f} ± {found.rise_uncertainty_A:.4f} "
        f"| {found.ranges.resolution_A:.2f} | {time.perf_counter() - begin:.0f} |"
    )


def main() -> None:
    """Print the table."""
    print(
        "| map | truth | FSC 0.143 (Å) | twist error (°) | rise error (Å) | used (Å) | time (s) |"
    )
    print("|---|---|---|---|---|---|---|")
    for path in sys.argv[1:]:
        layer, helix = layer_of_fibril(Path(path))
        for resolution_A in (6.0, 4.0):
            print(row("fibril", fibril_unit(layer), helix, 1.5, resolution_A), flush=True)
    for helix, voxel_A, resolution_A in _CASES:
        unit = made_up_subunit(0.6 * _BOX_PX * voxel_A, int(100 * abs(helix.twist_deg)))
        print(row("made up", unit, helix, voxel_A, resolution_A), flush=True)


if __name__ == "__main__":
    main()
