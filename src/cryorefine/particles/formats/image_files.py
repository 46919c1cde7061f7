"""Where image stacks are that a particle file names, and how a file to be written names them."""

import os
from pathlib import Path, PurePosixPath

import numpy as np

from cryorefine.particles.table import ParticleTable

__all__ = ["find_stack", "image_names"]


def find_stack(name: str, source: Path, root: Path | None = None) -> Path:
    """Find a stack: beside the particle file, in a folder above it, or in the working folder.

    Programs write paths from their project's folder, which is above the job's, or from the
    particle file. A name that is found nowhere is returned as it would be beside the file.

    Parameters
    ----------
    root
        Folder that stacks were moved to: the longest end of the name that is there is taken, before
        anything else is tried. A name of which it has nothing is returned as it would be there.
    """
    path = Path(name)
    if root is not None:
        parts = [p for p in PurePosixPath(name).parts if p not in ("/", "..")]
        for i in range(len(parts)):
            if os.path.exists(root.joinpath(*parts[i:])):
                return root.joinpath(*parts[i:])
        return root.joinpath(*parts[-1:])
    if path.is_absolute():
        return path
    folder = source.absolute().parent
    for base in (folder, *folder.parents, Path.cwd()):
        # Never raises, however odd the name; thousands of stacks are looked for in many folders.
        if os.path.exists(os.path.join(base, path)):
            return base / path
    return folder / path


def image_names(path: Path, table: ParticleTable, *, absolute: bool = False) -> np.ndarray:
    """Return image names that lead to the stacks from a file to be written.

    Names stay as they were read where they do so from ``path``'s folder or the working folder;
    others, or with ``absolute`` all, name the stack by its absolute path.
    """
    written = np.char.partition(table.names, "@")
    stack_names = {}
    for index in np.unique(table.stack_index):
        name = str(written[int(np.argmax(table.stack_index == index)), 2])
        target = table.stacks[index]
        if absolute:
            stack_names[int(index)] = str(target.absolute())
            continue
        found = find_stack(name, path)
        leads = found in [base / name for base in (Path.cwd(), path.absolute().parent)]
        same = leads and os.path.exists(found) and found.samefile(target)
        stack_names[int(index)] = name if same else str(target.absolute())
    return np.array(
        [
            f"{n}@{stack_names[int(s)]}"
            for n, s in zip(written[:, 0], table.stack_index, strict=True)
        ]
    )
