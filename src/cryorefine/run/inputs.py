"""From settings to what a run works on: everything is checked here, before anything is written."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.engine.device import device_of_run
from cryorefine.engine.device_memory import device_free_bytes, plan_device_memory
from cryorefine.engine.freed_memory import release_memory
from cryorefine.engine.memory import MemoryPlan, RunSize, free_bytes, held_bytes, plan_memory
from cryorefine.engine.protocol import Engine
from cryorefine.engine.threads import threads_of
from cryorefine.errors import InputError, Problems
from cryorefine.evaluate.contrast import is_dark
from cryorefine.evaluate.symmetry_agreement import symmetry_agreement
from cryorefine.events import EventLog, RadiusMeasured
from cryorefine.filaments.crowding import warn_of_crowded_segments
from cryorefine.filaments.imposition import check_room_for_helix, with_helix_as_given
from cryorefine.formats.read import read_particles
from cryorefine.fourier.crop import resample_volume
from cryorefine.fourier.filter import low_pass
from cryorefine.geometry.cosets import coset_representatives
from cryorefine.geometry.protocol import Symmetry
from cryorefine.geometry.rotation import matrix_from_euler
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.io.mrc import Volume, read_volume
from cryorefine.masks.soft import solvent_mask
from cryorefine.model.observe import select_statistics
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.half_sets import assign_halves
from cryorefine.particles.images import ImageSource, open_images
from cryorefine.particles.table import ParticleTable
from cryorefine.reconstruct.symmetrise import symmetrise_volume
from cryorefine.refine.image_statistics import Screening, screen_images
from cryorefine.refine.noise import initial_noise
from cryorefine.refine.restoration import check_restorations
from cryorefine.refine.start import reconstruct_start, start_from_poses
from cryorefine.refine.user_command import COMMAND_VARIABLES
from cryorefine.restore.command import check_command
from cryorefine.settings import RefineSettings
from cryorefine.state.earlier_values import VALUE_LABELS, WEIGHT_LABEL, earlier_values
from cryorefine.state.particle_batches import make_half_optics, particle_stack
from cryorefine.state.plan import Geometry
from cryorefine.state.state import Inputs, Poses, State

__all__ = [
    "NO_POSE",
    "Opened",
    "first_state",
    "open_inputs",
    "screen",
    "screened_inputs",
    "starting_state",
    "without_unassigned",
]

NO_POSE = "no pose, find one with --alignment global"
"""Why a particle takes no part where given poses are kept."""

_SMALLEST_BOX_PX = 16
"""Side of the smallest images: eight shells, of which an alignment compares three at least."""

_MOST_BOXES = 8
"""Side of the maps in sides of the largest images: more is needed only where optics groups have
pixels eight times as large as others, of which one is a mistake."""

_MIN_SYMMETRIC = 0.55
"""Correlation of a reference with a symmetric copy, radial means left out, below which a warning is
given. Of phantoms of C1, C4, D2, D7, O and I at 30 Å, three of each, right groups have 0.6 or more
with noise of a third of the map's contrast; D2 as C4, D7, O or I has less than 0.1, and C4 as D2
less than 0.4. C1 as C2 has 0.4 to 0.6, and D7 as C2 0.6 to 0.7: such maps are nearly symmetric."""

_FAR_DEFOCUS_A = 1e5
"""Defocus from which a warning is given: single particles are imaged within 5 µm."""

_NEAR_FOCUS_A = 100.0
"""Mean defocus below which a warning is given: images so near focus show nothing of a particle.
Values of fewer units are in nanometres or micrometres, negative ones of the other sign."""

_SAME_SIZE = 0.01
"""By what a voxel may differ from a pixel and be meant for the same: sizes are rounded."""

_MASKED = 1e-3
"""Least value of a mask's densest voxel: a mask of less would leave nothing of a map."""

_RADIUS_MARGIN = 1.05
"""Factor on the radius that is measured on the reference: the start is a map at low resolution,
whose mask may miss what is thin. Not measured."""


class Opened:
    """Inputs that were found to exist and to fit together, before any image has been read."""

    def __init__(self, settings: RefineSettings, *, is_continued: bool = False):
        self.settings = settings
        problems = Problems()
        with problems.collected():
            self.device = device_of_run(
                settings.device,
                refines_optics=settings.refines_optics,
                has_workers=settings.workers is not None,
            )
        with problems.collected():
            self.group = parse_symmetry(settings.symmetry)
        with problems.collected():
            check_restorations(settings)
        with problems.collected():
            self._read_particles(is_continued)
        references = []
        for path in settings.reference:
            with problems.collected():
                references.append(_read_reference(path, settings))
        masks = []
        for path in (
            settings.mask,
            settings.reference_mask,
            settings.post_symmetry_mask,
            settings.post_mask,
        ):
            with problems.collected():
                masks.append(None if path is None else _read_mask(path, settings))
        for command in (settings.reference_command, settings.post_command):
            with problems.collected():
                if command is not None:
                    check_command(command, COMMAND_VARIABLES, shell=settings.command_shell)
        comparison = None
        with problems.collected():
            if settings.compare_to is not None:
                comparison = read_volume(settings.compare_to)
        problems.raise_all()
        check_room_for_helix(settings, self.size_px * self.voxel_A)
        for path, volume in (
            (settings.mask, masks[0]), (settings.reference_mask, masks[1]),
            (settings.post_mask, masks[2]), (settings.compare_to, comparison),
        ):  # fmt: skip
            if volume is not None:
                other = self._other_voxel(volume, str(path))
                self.table = replace(self.table, remarks=(*self.table.remarks, *other))
        self.references = tuple(references)
        self.mask, self.reference_mask, self.post_symmetry_mask, self.post_mask = (
            None if mask is None else self._fitted(mask).clamp(0, 1) for mask in masks
        )
        self.comparison = None if comparison is None else self._fitted(comparison)

    def _read_particles(self, is_continued: bool) -> None:
        settings = self.settings
        table = read_particles(
            settings.particles,
            ctf=settings.ctf,
            ignored=_ignored(settings),
            image_root=settings.image_root,
        )
        table = replace(table, optics=tuple(_declared(g, settings) for g in table.optics))
        if settings.refine_defocus and any(g.correction == "premultiplied" for g in table.optics):
            raise InputError(
                "the images were multiplied by their CTF and hold no other defocus",
                where=str(settings.particles),
                do="leave out --refine-defocus, or extract the particles without that correction",
            )
        self.table, self.images = open_images(table, inverted=settings.invert_contrast)
        if not table.has_pose and not is_continued:
            self._require_no_poses()
        self.voxel_A, self.size_px = _volume_sampling(self.table)
        boxes_px = [g.box_px for g in self.table.optics]
        if self.size_px > _MOST_BOXES * max(boxes_px):
            raise InputError(
                f"pixels from {self.voxel_A:g} to {max(g.pixel_A for g in self.table.optics):g} Å "
                f"would need maps of {self.size_px} voxels a side",
                where=f"{settings.particles}, column _rlnImagePixelSize",
                do="correct the pixel sizes, or refine the optics groups apart from each other",
            )
        lowpass_A, extent_A = settings.initial_lowpass_angstrom, self.size_px * self.voxel_A
        if lowpass_A > extent_A and "initial_lowpass_angstrom" in settings.model_fields_set:
            raise InputError(
                f"{lowpass_A:g} Å is coarser than the box of {extent_A:.4g} Å, and leaves nothing",
                where="--initial-lowpass-angstrom",
                do="give a finer one",
            )
        if self.size_px < _SMALLEST_BOX_PX:
            raise InputError(
                f"images of {self.size_px} pixels are too small to refine",
                where=str(settings.particles),
                do=f"extract the particles in a box of {_SMALLEST_BOX_PX} pixels or more",
            )

    def _require_no_poses(self) -> None:
        """Refuse what needs poses in the file, which has none."""
        settings = self.settings
        needs = {
            "local": "local alignment starts from known poses",
            "none": "a reconstruction needs poses",
        }.get(settings.alignment, "" if settings.reference else "there is no initial map")
        if needs:
            raise InputError(
                f"{needs}, and the file has no angles (_rlnAngleRot, _rlnAngleTilt, _rlnAnglePsi)"
                + "".join(f"; {remark}" for remark in self.table.remarks if "_rlnAngle" in remark),
                where=str(settings.particles),
                do="give particles with poses, or an initial map with --reference and global "
                "alignment",
            )

    def _fitted(self, volume: Volume) -> Float[Tensor, "z y x"]:
        return resample_volume(
            volume.data,
            voxel_A=volume.voxel_A,
            new_voxel_A=self.voxel_A,
            new_size_px=self.size_px,
        )

    def start_volumes(self, events: EventLog) -> tuple[Tensor, Tensor]:
        """Return both halves' first references: rescaled, low-passed alike, symmetrised."""
        out = []
        for path, volume in zip(self.settings.reference, self.references, strict=True):
            if self.settings.reference_voxel_angstrom is None:
                for remark in self._other_voxel(volume, str(path)):
                    events.warn(f"{remark}, or --reference-voxel-angstrom given")
            fitted = self._fitted(volume)
            if is_dark(fitted, voxel_A=self.voxel_A):
                events.warn(
                    f"{path}: the particle is dark, and masks are made for white ones: multiply "
                    "the map by -1 (and give --invert-contrast if particles are black in the "
                    "images, too)"
                )
            symmetric = self._symmetrised(self._smooth(fitted), str(path), events)
            out.append(self._smooth(symmetric))  # splines leave a trace beyond the band
        return (out[0], out[-1])

    def _other_voxel(self, volume: Volume, name: str) -> list[str]:
        """Return what is to be said of a map in the images' box with other voxels than pixels."""
        boxes = {(g.box_px, g.pixel_A) for g in self.table.optics}
        near = [abs(volume.voxel_A / pixel_A - 1) < _SAME_SIZE for _, pixel_A in boxes]
        if volume.data.shape[0] in {box_px for box_px, _ in boxes} and not any(near):
            return [
                f"{name}: its box is that of the images, and its voxels of {volume.voxel_A:.4g} Å "
                f"are not their pixels ({self.voxel_A:.4g} Å): it is rescaled, unless its header "
                "is corrected"
            ]
        return []

    def _smooth(self, volume: Tensor) -> Tensor:
        return low_pass(
            volume,
            voxel_A=self.voxel_A,
            resolution_A=self.settings.initial_lowpass_angstrom,
        )

    def _symmetrised(self, volume: Tensor, name: str, events: EventLog) -> Tensor:
        if self.group.order == 1:
            return volume
        resolution_A = self.settings.initial_lowpass_angstrom
        coarse = _coarse(volume, voxel_A=self.voxel_A, resolution_A=resolution_A)
        found = symmetry_agreement(coarse.data, self.group)
        if found.correlation < _MIN_SYMMETRIC:
            axis = ", ".join(f"{x:.2f}" for x in found.axis)
            events.warn(
                f"{name} does not show symmetry {self.group.name} about the conventional axes: "
                f"turned by {found.angle_deg:.0f}° about ({axis}) it agrees with itself to "
                f"{found.correlation:.2f}, its radial mean left out (1 where the symmetry is "
                "right): check the symmetry and the map's orientation"
            )
        return symmetrise_low_resolution(
            volume, self.group, voxel_A=self.voxel_A, resolution_A=resolution_A
        )

    def radius_px(self, start: Tensor | None, events: EventLog) -> float:
        """Return the particle's radius in voxels: the user's, or measured on the reference.

        A user's radius that is not positive is half the box. Without either it is nine tenths of
        half the box.
        """
        largest = self.size_px / 2 - 1.0
        if self.settings.particle_radius_px is not None:
            if self.settings.particle_radius_px <= 0:
                return largest
            radius = self.settings.particle_radius_px * self.table.optics[0].pixel_A / self.voxel_A
            if radius > self.size_px / 2:
                raise InputError(
                    f"particle radius {self.settings.particle_radius_px:g} px is more than half "
                    f"the box of {self.table.optics[0].box_px} px",
                    where="--particle-radius-px",
                    do="give a smaller radius",
                )
            return min(radius, largest)
        if start is None:
            return 0.9 * largest
        measured = measure_radius(
            start, voxel_A=self.voxel_A, resolution_A=self.settings.initial_lowpass_angstrom
        )
        events.emit(RadiusMeasured(radius_A=measured * self.voxel_A))
        return min(measured, largest)


def symmetrise_low_resolution(
    volume: Tensor, group: Symmetry, *, voxel_A: float, resolution_A: float
) -> Tensor:
    """Symmetrise a low-passed map on a grid no finer than it needs."""
    if group.order == 1:
        return volume
    coarse = _coarse(volume, voxel_A=voxel_A, resolution_A=resolution_A)
    symmetric = symmetrise_volume(coarse.data, group, voxel_A=coarse.voxel_A)
    return resample_volume(
        symmetric, voxel_A=coarse.voxel_A, new_voxel_A=voxel_A, new_size_px=volume.shape[-1]
    )


def _coarse(volume: Tensor, *, voxel_A: float, resolution_A: float) -> Volume:
    """Return a low-passed map with five points a period."""
    n = volume.shape[-1]
    size = min(n, max(24, 2 * math.ceil(n * voxel_A / (resolution_A / 5) / 2)))
    coarse_A = n * voxel_A / size
    small = resample_volume(volume, voxel_A=voxel_A, new_voxel_A=coarse_A, new_size_px=size)
    return Volume(small, coarse_A)


def measure_radius(volume: Tensor, *, voxel_A: float, resolution_A: float) -> float:
    """Return the radius in voxels of the sphere about the origin that holds a map's density."""
    n = volume.shape[-1]
    mask = solvent_mask(
        volume,
        voxel_A=voxel_A,
        radius_px=n / 2,
        resolution_A=resolution_A,
        grow_px=2.0,
        edge_px=1.0,
    )
    inside = torch.nonzero(mask > 0.5).double() - n // 2
    if len(inside) == 0:
        return n / 2
    return float(inside.norm(dim=1).max()) * _RADIUS_MARGIN


def _ignored(settings: RefineSettings) -> frozenset[str]:
    """Return which columns of an earlier run are not to be used."""
    weights = () if settings.file_weights else (WEIGHT_LABEL,)
    return frozenset((*weights, *(() if settings.file_values else VALUE_LABELS)))


def _declared(group: OpticsGroup, settings: RefineSettings) -> OpticsGroup:
    """Return an optics group with what the user says of its images."""
    correction = group.correction
    for declared, state in (
        (settings.phase_flipped, "phase_flipped"),
        (settings.ctf_premultiplied, "premultiplied"),
    ):
        if declared:
            correction = state
        elif declared is False and correction == state:
            correction = "none"
    return replace(group, correction=correction, has_envelope=settings.ctf_envelope)


def _volume_sampling(table: ParticleTable) -> tuple[float, int]:
    """Return voxel and box of the maps: finest sampling and largest extent of all groups."""
    used = [table.optics[g] for g in np.unique(table.optics_index)]
    voxel_A = min(g.pixel_A for g in used)
    extent_A = max(g.box_A for g in used)
    return voxel_A, round(extent_A / voxel_A)


def _read_reference(path: Path, settings: RefineSettings) -> Volume:
    volume = read_volume(
        path,
        voxel_A=settings.reference_voxel_angstrom,
        voxel_option="--reference-voxel-angstrom",
    )
    # The spread of a constant may be rounded to something.
    if bool((volume.data == volume.data[0, 0, 0]).all()) or float(volume.data.std()) == 0:
        raise InputError("the map is constant", where=str(path), do="give another map")
    return volume


def _read_mask(path: Path, settings: RefineSettings) -> Volume:
    volume = read_volume(
        path, voxel_A=settings.mask_voxel_angstrom, voxel_option="--mask-voxel-angstrom"
    )
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < -0.01 or high > 1.01:
        raise InputError(
            f"mask values run from {low:.3g} to {high:.3g}",
            where=str(path),
            do="give a mask with values from 0 to 1",
        )
    if high < _MASKED:
        raise InputError("the mask is empty", where=str(path), do="give another mask")
    return volume


def open_inputs(settings: RefineSettings, *, is_continued: bool = False) -> Opened:
    """Check all inputs without reading any image or writing any file.

    A continued run has poses of its own where the file has none.

    Raises
    ------
    InputError
        If anything is missing, damaged or does not fit.
    """
    return Opened(settings, is_continued=is_continued)


def screened_inputs(
    opened: Opened,
    screening: Screening,
    half: np.ndarray | None,
    radius_px: float,
    events: EventLog,
) -> Inputs:
    """Leave out unusable images, draw or take halves, and put everything together.

    Parameters
    ----------
    half
        Halves of the usable particles from an earlier part of the run; None draws them.

    Raises
    ------
    InputError
        If no usable image is left, or halves cannot be made.
    """
    settings, table = opened.settings, opened.table
    _warn_of_odd_transfer(table, events)
    kept, rejected = _usable_rows(opened, screening, events)
    good = table.select(kept)
    if half is None:
        half = assign_halves(good, seed=settings.seed, events=events)
        if settings.helical_rise_angstrom is not None:
            warn_of_crowded_segments(good, settings.helical_rise_angstrom, events)
    release_memory(kept_bytes=0)  # what is free would be planned for as if it were in use
    return Inputs(
        settings=settings,
        table=good,
        images=ImageSource(good, opened.images.headers, inverted=opened.images.is_inverted),
        rejected=table.select(rejected),
        rejected_reasons=tuple(screening.reasons[r] for r in rejected),
        statistics=select_statistics(screening.statistics, kept),
        half=half,
        group=opened.group,
        voxel_A=opened.voxel_A,
        size_px=opened.size_px,
        radius_px=radius_px,
        geometry=_geometry(opened, radius_px, len(good)),
        mask=_on_device(opened, opened.mask),
        reference_mask=_on_device(opened, opened.reference_mask),
        post_symmetry_mask=_on_device(opened, opened.post_symmetry_mask),
        post_mask=_on_device(opened, opened.post_mask),
        comparison=_on_device(opened, opened.comparison),
        device=opened.device,
        memory=plan_memory(_run_size(opened), used_bytes=held_bytes(), free_bytes=free_bytes()),
        device_memory=_device_memory(opened),
    )


def _warn_of_odd_transfer(table: ParticleTable, events: EventLog) -> None:
    """Warn of values of the CTF that can be computed with, but are hardly what was meant."""
    if not any(group.has_ctf for group in table.optics):
        return
    mean_A = (table.defocus_u_A + table.defocus_v_A) / 2
    for odd, what in (
        (table.ctf_scale == 0, "a CTF scale factor of 0, and add nothing to the map"),
        (table.ctf_scale < 0, "a negative CTF scale factor, and add their contrast inverted"),
        (
            mean_A < _NEAR_FOCUS_A,
            f"a defocus below {_NEAR_FOCUS_A:g} Å (it is read in Å, positive for underfocus)",
        ),
        (np.abs(mean_A) > _FAR_DEFOCUS_A, f"a defocus beyond {_FAR_DEFOCUS_A / 1e4:g} µm"),
    ):
        if odd.any():
            first = table.where(int(np.argmax(odd)))
            events.warn(
                f"{int(odd.sum())} of {len(table)} particles have {what} (the first: {first})"
            )


def _usable_rows(
    opened: Opened, screening: Screening, events: EventLog
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are used and those that are left out, which a warning names."""
    table, usable = opened.table, screening.is_usable
    if not usable.any():
        raise InputError(
            f"none of the {len(table)} images can be used ({screening.reasons[0]})",
            where=str(opened.settings.particles),
            do="check the image stacks",
        )
    rejected = np.flatnonzero(~usable)
    if len(rejected):
        shown = ", ".join(f"{table.names[r]} ({screening.reasons[r]})" for r in rejected[:5])
        more = f" and {len(rejected) - 5} more" if len(rejected) > 5 else ""
        events.warn(
            f"{len(rejected)} of {len(table)} particles cannot be used and are left out: "
            f"{shown}{more}"
        )
    return np.flatnonzero(usable), rejected


def _geometry(opened: Opened, radius_px: float, n_particles: int) -> Geometry:
    """Return what the schedule has to know of the particles in use."""
    settings = opened.settings
    low, high = (math.radians(limit) for limit in settings.tilt_limits_deg)
    return Geometry(
        box_A=opened.size_px * opened.voxel_A,
        nyquist_A=2 * opened.voxel_A,
        radius_A=radius_px * opened.voxel_A,
        max_shift_A=settings.max_shift_percent / 100 * opened.size_px * opened.voxel_A,
        group_order=opened.group.order,
        tilt_fraction=(math.cos(low) - math.cos(high)) / 2,
        n_particles=n_particles,
    )


def _run_size(opened: Opened) -> RunSize:
    settings = opened.settings
    return RunSize(
        size_px=opened.size_px,
        oversampling=settings.fourier_padding,
        is_symmetric=opened.group.order > 1,
        is_turned=len(coset_representatives(opened.group)[0]) > 1,
        searches=_searches(settings),
        n_particles=len(opened.table),
        threads=threads_of(settings.threads),
        processes=settings.workers or 0,
    )


def _device_memory(opened: Opened) -> MemoryPlan | None:
    if opened.device.type == "cpu":
        return None
    return plan_device_memory(
        size_px=opened.size_px,
        oversampling=opened.settings.fourier_padding,
        searches=_searches(opened.settings),
        n_particles=len(opened.table),
        free_bytes=device_free_bytes(opened.device),
    )


def _searches(settings: RefineSettings) -> bool:
    return settings.alignment in ("automatic", "global", "stochastic")


def _on_device(opened: Opened, volume: Tensor | None) -> Tensor | None:
    return None if volume is None else volume.to(opened.device)


def first_state(
    inputs: Inputs, start: tuple[Tensor, Tensor] | None, events: EventLog, engine: Engine
) -> State:
    """Return the state before the first iteration; without ``start`` its references are empty."""
    if start is None:
        empty = torch.zeros((inputs.size_px,) * 3)
        start = (empty, empty)
    optics = make_half_optics(
        inputs.optics,
        volume_size_px=inputs.size_px,
        voxel_A=inputs.voxel_A,
        resolution_A=2 * min([inputs.voxel_A, *(group.pixel_A for group in inputs.optics)]),
        device=inputs.device,
    )
    stack = particle_stack(inputs)
    noise = initial_noise(stack, inputs.half, (optics, optics), events, engine)
    poses = None
    if inputs.table.has_pose:
        poses = Poses(
            matrix_from_euler(torch.from_numpy(inputs.table.euler_rad)),
            torch.from_numpy(inputs.table.shift_A),
            optics=earlier_values(inputs.table),
        )
        _warn_of_far_shifts(inputs, events)
    return State(
        iteration=0,
        poses=poses,
        references=start,
        is_scaled=False,
        group_scale=((1.0,) * len(inputs.optics), (1.0,) * len(inputs.optics)),
        noise=noise,
        halves=None,
        mask=None,
        evaluation=None,
        history=[],
    )


def starting_state(
    inputs: Inputs, start: tuple[Tensor, Tensor] | None, events: EventLog, engine: Engine
) -> State:
    """Return the state before the first iteration, with initial maps or, if None, without."""
    state = first_state(inputs, start, events, engine)
    if start is None:
        state = reconstruct_start(inputs, state, events, engine)
    elif inputs.settings.starts_from_poses:
        state = start_from_poses(inputs, state, events, engine)
    return replace(state, references=with_helix_as_given(inputs, state.references, events))


def _warn_of_far_shifts(inputs: Inputs, events: EventLog) -> None:
    """Warn of given shifts that local alignment would not leave as they are."""
    limit_A, percent = inputs.geometry.max_shift_A, inputs.settings.max_shift_percent
    n_beyond = int((np.linalg.norm(inputs.table.shift_A, axis=1) > limit_A * (1 + 1e-6)).sum())
    if n_beyond and inputs.settings.alignment == "local":
        events.warn(
            f"{inputs.settings.particles}: {n_beyond} of {len(inputs.table)} particles have shifts "
            f"beyond {percent:g} % of the box ({limit_A:.1f} Å), and are moved to that limit: "
            "raise --max-shift-percent, or extract the particles anew at their centres"
        )


def without_unassigned(opened: Opened, screening: Screening) -> Screening:
    """Set aside the particles that a run which keeps given poses has none of."""
    if opened.settings.alignment not in ("local", "none"):
        return screening
    lacks = opened.table.lacks_pose
    reasons = tuple(
        r or (NO_POSE if x else "") for r, x in zip(screening.reasons, lacks, strict=True)
    )
    return replace(screening, reasons=reasons)


def screen(opened: Opened, radius_px: float, events: EventLog, engine: Engine) -> Screening:
    """Say what is to be said of the particle file, and look at every image once."""
    for remark in opened.table.remarks:
        events.warn(remark)
    radius_A = radius_px * opened.voxel_A
    radii = np.array([radius_A / g.pixel_A for g in opened.table.optics])
    return screen_images(
        opened.table,
        opened.images,
        radii,
        events,
        engine,
        max_energy=opened.settings.max_energy,
        device=opened.device,
    )
