"""What a run was asked for, in sentences: every setting that changes a result and is no default."""

from collections.abc import Iterator

from cryorefine.settings import RefineSettings

__all__ = ["CHANGE_NO_RESULT", "changed_settings", "listed", "requested", "settings_sentences"]

CHANGE_NO_RESULT = {
    "device": "where a run computes changes rounding alone",
    "threads": "results are the same to the bit for any number",
    "workers": "results are the same to the bit for any number",
    "image_root": "where the images are, not what they are",
    "intermediate": "which files are kept",
    "compare_to": "a curve for people to look at, never used to refine",
}
"""Settings that the texts may leave out, and why. All others are named where they are no default;
a test goes over them all."""

WEIGHTS = {
    "weight_ssnr": "the signal-to-noise ratio of their images",
    "weight_cost": "their correlation in local iterations",
    "weight_stability": "the stability of their poses",
    "weight_cc": "the percentile of their correlation among particles of like defocus",
}
REFINED = {
    "refine_grey": "grey scale and offset",
    "refine_scale": "magnification",
    "refine_magnification": "anisotropic magnification",
    "refine_defocus": "defocus and astigmatism",
}


def listed(items: list[str]) -> str:
    """Return items as part of a sentence."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def requested(settings: RefineSettings, names: dict[str, str]) -> list[str]:
    """Return the texts of those of the named switches that are on."""
    return [text for name, text in names.items() if getattr(settings, name)]


def changed_settings(settings: RefineSettings) -> list[str]:
    """Return all settings that change a result and are no default, as the command line has them."""
    found = []
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in CHANGE_NO_RESULT or name == "particles" or value == info.default:
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found.append(f"--{option} {shown}")
    return found


def settings_sentences(settings: RefineSettings) -> list[str]:
    """Return sentences on all settings that have an effect and are no default.

    Those that stand in the method's own sentences are left to them: particles, symmetry, contrast
    transfer, initial maps and their low-pass, the mask, criterion and command of the resolution.
    """
    subjects = [_images, _file, _weighing, _reconstruction, _helix, _processing, _chance]
    if settings.alignment != "none":
        subjects[2:2] = [_schedule, _search, _references]
    if settings.has_local_iterations:
        subjects[4:4] = [_local, _own_values]
    return [sentence for subject in subjects for sentence in subject(settings)]


def _differs(settings: RefineSettings, *names: str) -> bool:
    fields = type(settings).model_fields
    return any(getattr(settings, name) != fields[name].default for name in names)


def _images(s: RefineSettings) -> Iterator[str]:
    if s.invert_contrast:
        yield "The contrast of the images was inverted as they were read."
    elif s.invert_contrast is False:
        yield "The contrast of the images was taken as it is in their files."
    if s.ctf and not s.ctf_envelope:
        yield "Envelopes that the particle file declares were not corrected."
    for state, what in (
        (s.phase_flipped, "phase-flipped"),
        (s.ctf_premultiplied, "multiplied by their contrast transfer"),
    ):
        if state is not None:
            yield f"The images were taken to be {'' if state else 'not '}{what}."
    if s.split == "stochastic":
        yield (
            "Half sets were drawn anew at every iteration: the half maps are not independent, and "
            "the resolution is not that of a gold-standard refinement."
        )
    if s.particle_radius_px is not None and s.particle_radius_px <= 0:
        yield "The radius of the particle was taken to be half the box."
    elif s.particle_radius_px is not None:
        yield f"The radius of the particle was given as {s.particle_radius_px:g} pixels."
    if _differs(s, "max_energy"):
        yield (
            f"Images of more than {s.max_energy:g} times the power of their background were "
            "rejected."
        )


def _schedule(s: RefineSettings) -> Iterator[str]:
    if s.automatic_schedule != "data":
        yield "Global and local iterations followed a fixed schedule."
    if s.iterations is not None:
        most = "at most " if s.is_data_driven else ""
        yield f"The number of iterations was set to {most}{s.iterations}."
    if s.alignment == "stochastic":
        yield (
            f"Each iteration of random subsets drew {s.stochastic_subset} particles of each half, "
            f"whose sums had a share of {s.stochastic_mixing:g} in those of the maps."
        )


def _search(s: RefineSettings) -> Iterator[str]:
    if not s.multiresolution:
        yield "All detail was compared at every iteration."
    if s.target_resolution:
        targets = listed([f"{value:g}" for value in s.target_resolution])
        yield f"Poses were compared at no finer than {targets} Å, by iteration."
    if _differs(s, "max_shift_percent"):
        yield f"Shifts were limited to {s.max_shift_percent:g} % of the box."


def _tilts(s: RefineSettings) -> Iterator[str]:
    if _differs(s, "min_tilt_deg", "max_tilt_deg"):
        yield (
            f"Viewing tilts were limited to {s.min_tilt_deg:g}° to {s.max_tilt_deg:g}°, or to a "
            "symmetric copy within."
        )
    if _differs(s, "reconstruct_min_tilt_deg", "reconstruct_max_tilt_deg"):
        yield (
            f"Only particles of tilts from {s.reconstruct_min_tilt_deg:g}° to "
            f"{s.reconstruct_max_tilt_deg:g}°, or with a symmetric copy within, were reconstructed."
        )


def _local(s: RefineSettings) -> Iterator[str]:
    fixed = [
        what for what, on in (("shifts", s.refine_shifts), ("angles", s.refine_angles)) if not on
    ]
    if fixed:
        yield f"Local iterations kept {listed(fixed)} as they were."
    if s.max_shift_change_percent is not None:
        yield (
            f"A local iteration changed shifts by at most {s.max_shift_change_percent:g} % of the "
            "box."
        )
    if s.max_angle_change_deg is not None:
        yield f"A local iteration turned poses by at most {s.max_angle_change_deg:g}°."


def _own_values(s: RefineSettings) -> Iterator[str]:
    refined = requested(s, REFINED)
    if refined:
        yield f"For each particle {listed(refined)} were refined."
    at_end = s.refines_values_at_end
    if at_end:
        defocus = [REFINED["refine_defocus"]] if s.ctf else []
        values = [REFINED["refine_grey"], REFINED["refine_scale"], *defocus]
        yield f"The last iteration refined {listed(values)} of each particle."
    bounds = (
        (s.refine_grey or at_end, "max_grey_scale_change_percent", "the grey scale by {:g} %"),
        (s.refine_grey or at_end, "max_grey_offset", "the grey offset by {:g} standard deviations"),
        (
            s.refine_scale or s.refine_magnification or at_end,
            "max_magnification_change_percent",
            "the magnification by {:g} %",
        ),
        (s.refine_defocus or at_end, "max_defocus_change_angstrom", "the defocus by {:g} Å"),
    )
    changed = [
        text.format(getattr(s, name)) for is_on, name, text in bounds if is_on and _differs(s, name)
    ]
    if changed:
        yield f"At most, {listed(changed)} could change."


def _references(s: RefineSettings) -> Iterator[str]:
    if s.reference_voxel_angstrom is not None:
        yield f"Voxels of the initial map were taken to be {s.reference_voxel_angstrom:g} Å."
    if s.reference_mask is not None:
        yield f"References were masked with {s.reference_mask.name}."
    elif s.mask is None and s.reference_shape != "found":
        shape = {"sphere": "a sphere", "cylinder": "a cylinder about z", "none": "nothing"}
        yield f"References were confined by {shape[s.reference_shape]}."
    if s.resolution_offset_angstrom is not None:
        yield (
            "References were low-pass filtered at the resolution "
            f"{s.resolution_offset_angstrom:+g} Å."
        )
    if s.positivity:
        yield "Negative density of references was set to 0 (positivity)."
    if s.dropout:
        yield (
            "Voxels of references within the mask were set to 0 with a probability of "
            f"{s.dropout:g} (dropout)."
        )
    if s.reference_command is not None:
        yield f"Each reference was changed by the command '{s.reference_command}'{_shell(s)}."
    if s.reference_from_processed:
        yield (
            "References were made of half maps after their post-processing; the resolution is that "
            "of the raw half maps."
        )


def _shell(s: RefineSettings) -> str:
    return ", run by a shell" if s.command_shell else ""


def _weighing(s: RefineSettings) -> Iterator[str]:
    weights = requested(s, WEIGHTS)
    if weights:
        yield f"In reconstructions particles were weighted by {listed(weights)}."
    if s.weight_cc and _differs(s, "min_cc_weight"):
        yield f"The lowest percentile had a weight of {s.min_cc_weight:g}."


def _file(s: RefineSettings) -> Iterator[str]:
    if not s.file_weights:
        yield "Weights in the particle file were not used."
    if not s.file_values:
        yield "Grey values and magnifications in the particle file were not used."


def _reconstruction(s: RefineSettings) -> Iterator[str]:
    yield from _tilts(s)
    if _differs(s, "fourier_padding"):
        yield f"References and sums were padded {s.fourier_padding:g} times in real space."


def _helix(s: RefineSettings) -> Iterator[str]:
    if not s.has_helix:
        return
    yield (
        "Half maps were symmetrised as a helix over the central part "
        f"({s.helical_fraction:g}) of the box, with a twist of {s.helical_twist_deg:g}° and a rise "
        f"of {s.helical_rise_angstrom:g} Å{' to begin with' if s.searches_helix else ''}; the "
        "resolution is that of the symmetrised half maps."
    )
    if s.searches_helix:
        low, high = s.helical_twist_range_deg
        least, most = s.helical_rise_range_angstrom
        yield (
            f"Twist and rise were searched in each half map by itself, within {low:g}° to "
            f"{high:g}° and {least:g} Å to {most:g} Å, and their mean used."
        )
    if s.helical_radius_angstrom is not None:
        yield f"The filament was confined to a radius of {s.helical_radius_angstrom:g} Å."
    if s.helical_inner_radius_angstrom is not None:
        yield f"A channel of {s.helical_inner_radius_angstrom:g} Å radius was set to 0."
    if s.alignment != "none":
        yield (
            f"Filaments lay within {s.helical_max_out_of_plane_deg:g}° of the image plane, and "
            f"searches within {s.helical_psi_range_deg:g}° of where the particle file says that "
            "they lie, if it does."
        )


_RESTORATIONS = {
    "post_align_halves": "half 2 was moved to where half 1 lies",
    "post_denoise": "significant denoising in real space",
    "post_filter_bank": "significant denoising in Fourier space",
    "post_laplacian": "Laplacian denoising",
    "post_deconvolve": "blind deconvolution",
    "post_difference": "difference evaluation, which mixes them",
}


def _processing(s: RefineSettings) -> Iterator[str]:
    if s.mask_voxel_angstrom is not None:
        yield f"Voxels of masks were taken to be {s.mask_voxel_angstrom:g} Å."
    what = "Processed half maps were" if s.restores_halves else "The processed map was"
    if s.post_symmetry is not None and s.post_symmetry_mask is not None:
        angles = " ".join(f"{angle:g}" for angle in s.post_symmetry_angles_deg)
        about = f" about axes turned by {angles}°" if angles else ""
        yield (
            f"Half maps were symmetrised by {s.post_symmetry.upper()}{about} within "
            f"{s.post_symmetry_mask.name}, for the processed map only."
        )
    steps = requested(s, _RESTORATIONS)
    if s.post_undershoot_sigmas is not None:
        steps.append(f"attenuation of values {s.post_undershoot_sigmas:g} σ below the solvent")
    if steps:
        yield f"For the processed map only, half maps underwent: {listed(steps)}."
    if s.post_mask is not None:
        yield f"{what} masked with {s.post_mask.name} (map_processed.mrc)."
    if s.post_command is not None:
        yield f"{what} changed by the command '{s.post_command}'{_shell(s)}."


def _chance(s: RefineSettings) -> Iterator[str]:
    if s.seed:
        yield f"Random choices began with seed {s.seed}."
