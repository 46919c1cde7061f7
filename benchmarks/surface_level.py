"""How much of a protein's volume the level of ``open_in_chimerax.cxc`` encloses.

    python benchmarks/surface_level.py 4hhb.cif.gz 1WCM.pdb.gz

Maps are made of atomic models without noise, low-passed, and masked as a run does it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from cryorefine.fourier.filter import low_pass
from cryorefine.io.model import ModelFile, read_model
from cryorefine.masks.soft import solvent_mask
from cryorefine.model.atoms import Atoms, scattering_basis, volume_from_atoms
from cryorefine.records.chimerax_script import surface_level

A3_PER_DALTON = 1.21  # of proteins, 0.73 cm³/g
HYDROGENS = 1.07  # a protein's mass over that of its other atoms
BFACTOR_A2 = 60.0
VOXELS_A = {4.2: 2.0, 6.0: 2.0, 8.0: 3.0, 12.0: 3.0}  # by resolution


def mass_da(model: ModelFile) -> float:
    import gemmi

    mass = sum(gemmi.Element(str(symbol)).weight for symbol in model.element)
    return mass if (model.element == "H").any() else HYDROGENS * mass


def enclosed(model: ModelFile, resolution_A: float) -> tuple[float, float]:
    """Return the volumes in the mask and above the level, over that of the protein."""
    voxel_A = VOXELS_A[resolution_A]
    index, a, b = model.scattering()
    xyz_A = model.xyz_A - model.xyz_A.mean(0)
    radius_A = float(np.linalg.norm(xyz_A, axis=1).max())
    size_px = 2 * int((radius_A + 25) / voxel_A)
    atoms = Atoms(xyz_A, a, b, index, np.full(len(xyz_A), BFACTOR_A2), model.occupancy)
    basis = scattering_basis(atoms, 0.95 / voxel_A)
    sharp = volume_from_atoms(atoms, basis, size_px=size_px, voxel_A=voxel_A)
    volume = low_pass(sharp, voxel_A=voxel_A, resolution_A=resolution_A)
    mask = solvent_mask(volume, voxel_A=voxel_A, radius_px=(radius_A + 10) / voxel_A)
    inside = mask > 0.5
    above = volume[inside] >= surface_level(volume, mask)
    unit = voxel_A**3 / (A3_PER_DALTON * mass_da(model))
    return float(inside.sum()) * unit, float(above.sum()) * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in options.models:
        model = read_model(path)
        print(f"{path.name}: {mass_da(model) / 1e3:.0f} kDa")
        for resolution_A in VOXELS_A:
            in_mask, above = enclosed(model, resolution_A)
            print(f"  {resolution_A:4} Å: mask {in_mask:.2f}, above the level {above:.2f}")


if __name__ == "__main__":
    main()
