"""What a particle file holds, and whether it can be used: facts, warnings and errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryorefine.errors import InputError
from cryorefine.formats.protocol import ReadOptions
from cryorefine.formats.registry import format_of
from cryorefine.io.open_stack import open_stack
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.half_sets import filaments, find_duplicates
from cryorefine.particles.images import open_images
from cryorefine.particles.table import ParticleTable
from cryorefine.units import DEG

__all__ = ["Inspection", "OpticsFacts", "PixelFacts", "inspect_particles"]

_BINS = 12
"""Of the histogram of the defocus: as many lines as can be taken in at a glance."""

_LISTED = 5
"""Unreadable stacks and bad images that are named; the others are counted."""

_BATCH = 256
"""Images that are looked at between two tellings of progress."""


@dataclass(frozen=True)
class OpticsFacts:
    """An optics group: its constants, what its images have, and how many particles."""

    name: str
    n_particles: int
    pixel_A: float
    box_px: int
    voltage_kV: float
    cs_mm: float
    amplitude_contrast: float
    has_ctf: bool
    correction: str
    aberrations: tuple[str, ...]


@dataclass(frozen=True)
class PixelFacts:
    """What looking at all pixels has shown.

    Attributes
    ----------
    n_images
        Images that were looked at: those that several rows show, once.
    n_not_finite, n_constant
        Images with NaN or infinite pixels, and images of one grey value.
    mean, deviation
        Lowest, median and highest of the images' means and standard deviations; NaN for no image.
    """

    n_images: int
    n_not_finite: int
    n_constant: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a particle file holds.

    Attributes
    ----------
    format
        What the file is, as told by what it holds; empty if it is nothing known.
    not_understood
        Of the file, what cannot be computed with; a clause for each.
    n_without_pose
        Particles without a pose: all where the file has no angles.
    ranges
        Lowest, median and highest value of each quantity, by a name that has its unit.
    defocus_edges_A, defocus_counts
        Histogram of the mean defocus; empty for images without contrast transfer.
    half_sets
        Particles of half 1 and of half 2, and of neither.
    n_repeated
        Rows that show the image of an earlier row.
    columns
        Labels that are kept without being read.
    earlier
        Labels of numbers that an earlier run of cryorefine wrote, or the simulator.
    pixels
        None unless the pixels were looked at.
    warnings, errors
        What a user should look at, and what keeps the file from being used.
    """

    path: Path
    format: str = ""
    n_particles: int = 0
    optics: tuple[OpticsFacts, ...] = ()
    n_stacks: int = 0
    n_unreadable_stacks: int = 0
    n_micrographs: int = 0
    n_filaments: int = 0
    n_without_pose: int = 0
    ranges: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    defocus_edges_A: tuple[float, ...] = ()
    defocus_counts: tuple[int, ...] = ()
    half_sets: tuple[int, int, int] = (0, 0, 0)
    n_repeated: int = 0
    columns: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    not_understood: tuple[str, ...] = ()
    pixels: PixelFacts | None = None
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 usable, 1 usable with warnings, 2 not usable."""
        return 2 if self.errors else 1 if self.warnings else 0


def inspect_particles(
    path: Path,
    *,
    ctf: bool = True,
    image_root: Path | None = None,
    scan: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Look at a particle file and at the headers of its stacks.

    Nothing is raised for what is wrong with them: it is among the errors of what is returned.

    Parameters
    ----------
    ctf
        Whether the images have contrast transfer.
    image_root
        Folder that stacks were moved to.
    scan
        Whether to read all images, too: NaN, images of one value, grey values.
    tell
        Is told how many images have been read, and of how many.
    """
    title = ""
    try:
        form = format_of(path)
        title = form.title
        reading = form.read(path, ReadOptions(ctf=ctf, image_root=image_root))
    except InputError as error:
        return Inspection(path, format=title, errors=(str(error),))
    table = reading.table
    errors = _unreadable_stacks(table)
    n_unreadable, warnings, pixels = len(errors), list(table.remarks), None
    errors = _first_few(errors, "stacks cannot be read, either")
    if not errors:
        try:
            table, images = open_images(table)
            warnings = list(table.remarks)
            if scan:
                pixels, bad = _scan(table, images.read, tell)
                warnings += bad
        except InputError as error:
            errors.append(str(error))
    same = find_duplicates(table)
    tubes = filaments(table)
    edges, counts = _histogram(table)
    in_half = [int((table.half_set == number).sum()) for number in range(3)]
    return Inspection(
        path=path,
        format=title,
        not_understood=reading.not_understood,
        n_particles=len(table),
        optics=tuple(
            _facts(group, int((table.optics_index == i).sum()))
            for i, group in enumerate(table.optics)
        ),
        n_stacks=len(table.stacks),
        n_unreadable_stacks=n_unreadable,
        n_micrographs=len(table.micrographs),
        n_filaments=0 if tubes is None else int(tubes.max(initial=-1)) + 1,
        n_without_pose=int(table.lacks_pose.sum()),
        ranges=_ranges(table),
        defocus_edges_A=edges,
        defocus_counts=counts,
        half_sets=(in_half[1], in_half[2], in_half[0]),
        n_repeated=int((same != np.arange(len(table))).sum()),
        columns=(*table.extra, *table.foreign),
        earlier=tuple(table.earlier),
        pixels=pixels,
        warnings=(*warnings, *_warnings(table, same)),
        errors=tuple(errors),
    )


def _unreadable_stacks(table: ParticleTable) -> list[str]:
    """Return what is wrong with each stack that cannot be read."""
    found = []
    for index, path in enumerate(table.stacks):
        try:
            open_stack(path)
        except InputError as error:
            n = int((table.stack_index == index).sum())
            found.append(f"{error} ({n} particle{'s' if n != 1 else ''})")
    return found


def _first_few(found: list[str], of_the_others: str) -> list[str]:
    more = len(found) - _LISTED
    return found if more <= 0 else [*found[:_LISTED], f"{more} more {of_the_others}"]


def _facts(group: OpticsGroup, n: int) -> OpticsFacts:
    named = (
        ("beam tilt", any(group.beam_tilt_mrad)),
        ("odd Zernike polynomials", any(group.odd_zernike)),
        ("even Zernike polynomials", any(group.even_zernike)),
        ("magnification", group.magnification != (1.0, 0.0, 0.0, 1.0)),
    )
    return OpticsFacts(
        name=group.name,
        n_particles=n,
        pixel_A=group.pixel_A,
        box_px=group.box_px,
        voltage_kV=group.voltage_kV,
        cs_mm=group.cs_mm,
        amplitude_contrast=group.amplitude_contrast,
        has_ctf=group.has_ctf,
        correction=group.correction,
        aberrations=tuple(name for name, is_there in named if is_there),
    )


def _spread(values: np.ndarray) -> tuple[float, float, float]:
    """Return the lowest, median and highest of some numbers; NaN for none."""
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    return float(values.min()), float(np.median(values)), float(values.max())


def _has_ctf(table: ParticleTable) -> np.ndarray:
    return np.array([group.has_ctf for group in table.optics], bool)[table.optics_index]


def _ranges(table: ParticleTable) -> dict[str, tuple[float, float, float]]:
    with_ctf, with_pose = _has_ctf(table), ~table.lacks_pose
    out = {}
    if with_ctf.any():
        u, v = table.defocus_u_A[with_ctf], table.defocus_v_A[with_ctf]
        out["defocus_A"] = _spread((u + v) / 2)
        out["astigmatism_A"] = _spread(np.abs(u - v))
        out["phase_shift_deg"] = _spread(table.phase_shift_rad[with_ctf] / DEG)
        out["bfactor_A2"] = _spread(table.bfactor_A2[with_ctf])
        out["ctf_scale"] = _spread(table.ctf_scale[with_ctf])
    if with_pose.any():
        for i, name in enumerate(("rot_deg", "tilt_deg", "psi_deg")):
            out[name] = _spread(table.euler_rad[with_pose, i] / DEG)
        out["shift_A"] = _spread(np.hypot(*table.shift_A[with_pose].T))
    return out


def _histogram(table: ParticleTable) -> tuple[tuple[float, ...], tuple[int, ...]]:
    with_ctf = _has_ctf(table)
    if not with_ctf.any():
        return (), ()
    mean_A = (table.defocus_u_A[with_ctf] + table.defocus_v_A[with_ctf]) / 2
    counts, edges = np.histogram(mean_A, _BINS)
    return tuple(map(float, edges)), tuple(map(int, counts))


def _warnings(table: ParticleTable, same: np.ndarray) -> list[str]:
    """Return what a refinement would warn of, and what it would refuse for its half sets."""
    found = []
    repeated = same != np.arange(len(table))
    if repeated.any():
        row = int(np.argmax(repeated))
        found.append(
            f"{int(repeated.sum())} particles repeat an image of an earlier row (first: "
            f"{table.names[row]})"
        )
    half = table.half_set
    if (half > 0).any():
        if (half == 0).any():
            found.append(
                f"{int((half == 0).sum())} particles have no half set although others have one: a "
                "refinement refuses this"
            )
        crossing = half != half[same]
        if crossing.any():
            found.append(
                f"{int(crossing.sum())} images stand in both half sets: a refinement refuses this"
            )
    elif not table.micrographs:
        found.append(
            "the file names no micrographs: half sets will be dealt image by image, and neighbours "
            "that overlap may raise the FSC"
        )
    boxes_A = np.array([group.box_A for group in table.optics])[table.optics_index]
    far = ~table.lacks_pose & (np.abs(table.shift_A).max(1) > boxes_A / 2)
    if (boxes_A > 0).all() and far.any():
        found.append(f"the shifts of {int(far.sum())} particles lead out of their images")
    return found


def _scan(
    table: ParticleTable,
    read: Callable[[np.ndarray], object],
    tell: Callable[[int, int], None] | None,
) -> tuple[PixelFacts, list[str]]:
    """Look at every pixel of every image, an image that several rows show once."""
    rows = np.unique(find_duplicates(table))
    finite = np.ones(len(rows), bool)
    mean, deviation = np.zeros(len(rows)), np.zeros(len(rows))
    done = 0
    for g in range(len(table.optics)):
        of_group = np.flatnonzero(table.optics_index[rows] == g)
        for i in range(0, len(of_group), _BATCH):
            part = of_group[i : i + _BATCH]
            images = np.asarray(read(rows[part])).reshape(len(part), -1)
            finite[part] = np.isfinite(images).all(1)
            with np.errstate(invalid="ignore", over="ignore"):
                mean[part] = images.mean(1, dtype=np.float64)
                deviation[part] = images.std(1, dtype=np.float64)
            done += len(part)
            if tell is not None:
                tell(done, len(rows))
    constant = finite & (deviation == 0)
    facts = PixelFacts(
        n_images=len(rows),
        n_not_finite=int((~finite).sum()),
        n_constant=int(constant.sum()),
        mean=_spread(mean[finite]),
        deviation=_spread(deviation[finite]),
    )
    bad = [
        _bad_images(table.names[rows[which]], what)
        for which, what in ((~finite, "NaN or infinite pixels"), (constant, "one grey value only"))
        if which.any()
    ]
    return facts, bad


def _bad_images(names: Sequence[str] | np.ndarray, what: str) -> str:
    listed = ", ".join(str(name) for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} images have {what}: {listed}{more}; a refinement leaves them out"
