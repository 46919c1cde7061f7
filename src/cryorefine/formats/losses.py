"""What a table holds beyond what a format can say: nothing is dropped in silence."""

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from cryorefine.particles.table import ParticleTable

__all__ = ["FEATURES", "losses", "without_unassigned"]

FEATURES = {
    "poses": "angles and shifts of the poses",
    "shifts": "shifts of particles that have no angles",
    "unassigned": "which particles have no pose: their angles and shifts are written as 0",
    "half_sets": "half sets",
    "ctf": "defocus and microscope",
    "phase_shift": "phase shifts",
    "bfactor": "B-factors of the CTF",
    "ctf_scale": "scale factors of the CTF",
    "beam_tilt": "beam tilts",
    "odd_zernike": "antisymmetric aberrations (rlnOddZernike)",
    "even_zernike": "symmetric aberrations (rlnEvenZernike)",
    "magnification": "anisotropic magnification (rlnMagMat..)",
    "phase_flipped": "that images are phase-flipped: say --phase-flipped",
    "premultiplied": "that images are multiplied by their CTF: say --ctf-premultiplied",
    "groups": "optics groups that differ in nothing but their name: they become one",
    "group_names": "names of optics groups",
    "micrographs": "names of micrographs",
    "contrast": "that particles are black in the images: say --invert-contrast",
}
"""What a table may hold, and what a user hears where it is lost."""


def losses(
    table: ParticleTable,
    held: Collection[str],
    *,
    format_name: str,
    labels: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return what is lost when a table is written: one clause for each.

    Parameters
    ----------
    held
        Those of :data:`FEATURES` that the format holds.
    format_name
        Of the format: columns that came from the same are kept, and those of others are lost.
    labels
        Columns of RELION and cryorefine that the format keeps by other names.
    """
    lost = [FEATURES[name] for name in _present(table) if name not in held]
    kept = set(labels)
    if format_name != "relion":
        columns = [c for c in (*table.extra, *table.extra_optics, *table.earlier) if c not in kept]
        if columns:
            lost.append(f"columns without an equivalent: {', '.join(sorted(columns))}")
        if table.extra_blocks:
            lost.append(f"further blocks: {', '.join(table.extra_blocks)}")
    alone = sorted(set(table.foreign) - _read_labels(table.foreign_format))
    if alone and table.foreign_format != format_name:
        lost.append(f"fields of {table.foreign_format} alone: {', '.join(alone)}")
    return tuple(lost)


def _read_labels(format_name: str) -> set[str]:
    """Return the labels of a format that the table has the meaning of."""
    from cryorefine.formats.registry import FORMATS  # which imports the formats, and they this

    columns = [c for one in FORMATS if one.name == format_name for c in one.columns]
    return {column.label for column in columns if column.relion}


def _present(table: ParticleTable) -> Iterator[str]:
    """Yield those of the features that a table has."""
    groups = table.optics
    has = {
        "poses": table.has_pose,
        "shifts": not table.has_pose and bool(table.shift_A.any()),
        "unassigned": bool(table.has_pose and table.is_unassigned.any()),
        "half_sets": bool((table.half_set > 0).any()),
        "ctf": groups[0].has_ctf,
        "phase_shift": bool(table.phase_shift_rad.any()),
        "bfactor": bool(table.bfactor_A2.any()),
        "ctf_scale": bool((table.ctf_scale != 1).any()),
        "beam_tilt": any(any(g.beam_tilt_mrad) for g in groups),
        "odd_zernike": any(any(g.odd_zernike) for g in groups),
        "even_zernike": any(any(g.even_zernike) for g in groups),
        "magnification": any(not g.is_magnification_isotropic for g in groups),
        "phase_flipped": any(g.correction == "phase_flipped" for g in groups),
        "premultiplied": any(g.correction == "premultiplied" for g in groups),
        "groups": len({_without_name(table, g) for g in range(len(groups))}) < len(groups),
        "group_names": any(g.name != f"opticsGroup{i}" for i, g in enumerate(groups, 1)),
        "micrographs": bool(table.micrographs),
        "contrast": table.is_inverted,
    }
    yield from (name for name, is_there in has.items() if is_there)


def _without_name(table: ParticleTable, index: int) -> tuple[object, ...]:
    """Return what makes an optics group one of its own in files without such groups."""
    g = table.optics[index]
    return (g.pixel_A, g.voltage_kV, g.cs_mm, g.amplitude_contrast, g.correction)


def without_unassigned(table: ParticleTable, values: np.ndarray) -> np.ndarray:
    """Return values of poses, 0 where the table says that there is none."""
    values = np.array(values, np.float64)
    if len(table.is_unassigned):
        values[table.is_unassigned] = 0.0
    return values
