"""Atomic models from PDB and mmCIF files, through gemmi."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryorefine.errors import InputError

__all__ = ["ModelFile", "read_model"]


@dataclass(frozen=True, eq=False)
class ModelFile:
    """Atoms of a biological assembly, as the file places them.

    Attributes
    ----------
    xyz_A, bfactor_A2, occupancy
        Per atom.
    element
        Chemical symbol per atom.
    copies
        Groups of equivalent chains: each a list of (m, 3) arrays of the same m backbone atoms,
        from which the assembly's symmetry can be found.
    """

    xyz_A: np.ndarray
    bfactor_A2: np.ndarray
    occupancy: np.ndarray
    element: np.ndarray
    copies: list[list[np.ndarray]]

    def scattering(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return type of each atom and the types' Gaussian electron scattering factors (a, b).

        References
        ----------
        .. [1] International Tables for Crystallography C (2006), table 4.3.2.2.
        """
        import gemmi

        symbols, index = np.unique(self.element, return_inverse=True)
        a, b = np.zeros((len(symbols), 5)), np.zeros((len(symbols), 5))
        for i, symbol in enumerate(symbols):
            factor = gemmi.Element(str(symbol)).c4322
            if factor is None:
                raise InputError(
                    f"no electron scattering factor for element {symbol}",
                    do="remove these atoms from the model",
                )
            a[i], b[i] = factor.a, factor.b
        return index, a, b


def read_model(path: Path, *, assembly: str | None = None) -> ModelFile:
    """Read an atomic model; waters are left out.

    Parameters
    ----------
    assembly
        Name of the biological assembly to build; default: the first, or the atoms as they are if
        the file defines none. ``"none"`` takes the atoms as they are.

    Raises
    ------
    InputError
        If gemmi is not installed, or the file is missing, unreadable or without atoms.
    """
    try:
        import gemmi
    except ImportError:
        raise InputError(
            "reading atomic models needs the package gemmi",
            where=str(path),
            do="pip install 'cryorefine[model]'",
        ) from None
    path = Path(path)
    if not os.path.isfile(path):  # nor is a name that no file can have
        raise InputError("no such model", where=str(path), do="check the path, or say 'phantom'")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"not a PDB or mmCIF file ({error})", where=str(path), do="give a .pdb or .cif file"
        ) from None
    structure.setup_entities()
    names = [a.name for a in structure.assemblies]
    if assembly is not None and assembly != "none" and assembly not in names:
        raise InputError(
            f"no assembly '{assembly}'",
            where=str(path),
            do=f"choose one of: {', '.join(names) or 'none'}",
        )
    if names and assembly != "none":
        structure.transform_to_assembly(assembly or names[0], gemmi.HowToNameCopiedChain.AddNumber)
    structure.remove_waters()
    structure.remove_alternative_conformations()
    structure.remove_hydrogens()
    if len(structure) == 0:
        raise InputError("the model has no atoms", where=str(path), do="give another file")
    model = structure[0]
    rows = [
        (*atom.pos.tolist(), atom.b_iso, atom.occ, atom.element.name)
        for chain in model
        for residue in chain
        for atom in residue
    ]
    if not rows:
        raise InputError("the model has no atoms", where=str(path), do="give another file")
    return ModelFile(
        xyz_A=np.array([r[:3] for r in rows], dtype=np.float64),
        bfactor_A2=np.array([r[3] for r in rows], dtype=np.float64),
        occupancy=np.array([r[4] for r in rows], dtype=np.float64),
        element=np.array([r[5] for r in rows]),
        copies=_copies(model),
    )


def _copies(model) -> list[list[np.ndarray]]:
    """Group chains whose backbone atoms carry the same residue names."""
    groups: dict[tuple, list[np.ndarray]] = {}
    for chain in model:
        sites = [
            (residue.name, residue.seqid.num, atom.pos.tolist())
            for residue in chain
            for atom in residue
            if atom.name in ("CA", "P") and atom.element.name in ("C", "P")
        ]
        if len(sites) >= 3:
            key = tuple((name, number) for name, number, _ in sites)
            groups.setdefault(key, []).append(np.array([p for _, _, p in sites]))
    return list(groups.values())
