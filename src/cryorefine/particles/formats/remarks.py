"""What must be said of a particle file that can be read: columns that are not what they seem."""

import difflib
from collections.abc import Iterable, Iterator

from cryorefine.io.star import StarBlock

__all__ = ["hint", "misspelt", "remarks_on"]

_ALIKE = 0.85
"""Ratio of :mod:`difflib` from which a label may be another one misspelt: two letters that have
changed places in ``rlnAngleRot`` leave 0.91, one letter too many or too few 0.95."""

_MOST_LABELS, _LONGEST_LABEL = 300, 40
"""Labels of a block that are looked at, and characters of each: RELION's blocks have 60 at most,
and its longest labels that are read 28."""

_RELIONS_OWN = frozenset(
    {
        "rlnAnglePsiFlip", "rlnAnglePsiFlipRatio", "rlnAnglePsiPrior", "rlnAngleRotFlipRatio",
        "rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnBeamTiltClass", "rlnBeamTiltGroupName",
        "rlnCtfImage", "rlnDefocusAngleMin", "rlnDetectorPixelSize", "rlnGroupName",
        "rlnGroupNumber", "rlnImageId", "rlnImageOriginalName", "rlnImageSizeX", "rlnImageSizeY",
        "rlnImageSizeZ", "rlnMaskName", "rlnMicrographId", "rlnMicrographNameNoDW",
        "rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize", "rlnMovieName",
        "rlnOpticsGroupName", "rlnOriginX", "rlnOriginXPrior", "rlnOriginXPriorAngst", "rlnOriginY",
        "rlnOriginYPrior", "rlnOriginYPriorAngst", "rlnOriginZ", "rlnOriginZAngst",
        "rlnOriginZPrior", "rlnOriginZPriorAngst", "rlnPixelSize", "rlnReferenceImage",
        "rlnTomoName", "rlnTomoTiltSeriesPixelSize",
    }
)  # fmt: skip
"""Labels of RELION that look like one that is read, and mean something else."""

_SAME = ({"rlnPhaseShift", "rlnCtfPhaseShift"},)  # either is read

_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst")
_PIXEL_ORIGIN = ("rlnOriginX", "rlnOriginY")


def misspelt(block: StarBlock, known: Iterable[str]) -> dict[str, str]:
    """Return labels that nobody knows, with the known one each of them seems to be meant for.

    Only labels that the block lacks can be meant.

    Parameters
    ----------
    known
        Labels that are read.
    """
    known = set(known)
    missing = {label for label in known if label not in block}
    for alike in _SAME:
        if any(label in block for label in alike):
            missing -= alike
    plain = {_plain(label): label for label in sorted(missing)}
    found = {}
    for label in list(block.columns)[:_MOST_LABELS]:
        if label in known or label in _RELIONS_OWN or len(label) > _LONGEST_LABEL:
            continue
        nearest = difflib.get_close_matches(_plain(label), plain, n=1, cutoff=_ALIKE)
        if nearest:
            found[label] = plain[nearest[0]]
    return found


def _plain(label: str) -> str:
    """Return a label without what is written in several ways: case, underscores, the prefix."""
    return label.lower().replace("_", "").removeprefix("rln")


def hint(block: StarBlock, wanted: Iterable[str]) -> str:
    """Return what to ask about labels that are missing; empty if nothing is like them."""
    wanted = set(wanted)
    questions = [
        f"is {block.where_is(label)} meant for _{meant}?"
        for label, meant in misspelt(block, wanted).items()
    ]
    return f" ({' '.join(questions)})" if questions else ""


def remarks_on(
    particles: StarBlock,
    optics: StarBlock,
    known_particles: Iterable[str],
    known_optics: Iterable[str],
) -> tuple[str, ...]:
    """Return what a user should hear of a file whose blocks can be read: one sentence each."""
    return (
        *_of_labels(particles, known_particles),
        *_of_labels(optics, known_optics),
        *_of_poses(particles),
        *_of_the_end(optics),
        *_of_the_end(particles),
    )


def _of_labels(block: StarBlock, known: Iterable[str]) -> Iterator[str]:
    for label, meant in misspelt(block, known).items():
        yield (
            f"{block.where_is(label)} is not read, and there is no _{meant}: correct its name if "
            "it is meant for that"
        )


def _of_poses(particles: StarBlock) -> Iterator[str]:
    has = [label for label in _ANGLES if label in particles]
    lacks = [label for label in _ANGLES if label not in particles]
    # 2D classification leaves psi alone, and shifts.
    if lacks and has and has != ["rlnAnglePsi"]:
        yield (
            f"{particles.path}: no pose is read, for there is {_listed(has)} and no "
            f"{_listed(lacks)}"
        )
    if lacks:
        return
    lacks = [label for label in _ORIGIN if label not in particles]
    if len(lacks) == 1:
        yield f"{particles.path}: shifts along one axis are taken as 0: no {_listed(lacks)}"
    elif lacks:
        in_pixels = [label for label in _PIXEL_ORIGIN if label in particles]
        unread = f"; {_listed(in_pixels)} in pixels are not read" if in_pixels else ""
        yield f"{particles.path}: all shifts are taken as 0: no {_listed(lacks)}{unread}"
    is_marked = "cryorefineIsAssigned" in particles  # which says of each row whether it is one
    if not is_marked and not any(particles.floats(label).any() for label in _ANGLES):
        yield f"{particles.path}: all angles are 0, which is hardly the pose of every particle"


def _of_the_end(block: StarBlock) -> Iterator[str]:
    last = f"{len(block)} rows are read of data_{block.name}, the last from line "
    last += str(int(block.lines[-1])) if len(block.lines) else "unknown"
    if block.ending == "in a row":
        yield (
            f"{block.path}: the file ends in its last row, without a line break, and its last "
            f"value may be cut short; {last}: was the file copied whole?"
        )
    elif block.ending == "after a row":
        yield (
            f"{block.path}: the file ends without the empty line that is written after the last "
            f"row, and rows may be missing; {last}: was the file copied whole?"
        )


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(f"_{label}" for label in labels)
