"""The form as data: each parameter, its section, and the option of cryorefine that it stands for.

Names are those of Xmipp's HighRes where the meaning is the same. Nothing of Scipion is imported
here, so that cryorefine's own tests can read the map and hold it to the options that there are.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

__all__ = [
    "ALIGNMENTS",
    "FIXED_BY_RUN",
    "FROM_OBJECTS",
    "NOT_OFFERED",
    "SECTIONS",
    "FormParameter",
    "all_parameters",
    "default_values",
    "is_shown",
]

GLOBAL, LOCAL, AUTOMATIC, STOCHASTIC, NO_ALIGNMENT = range(5)
ALIGNMENTS = ("global", "local", "automatic", "stochastic", "none")
"""Modes of alignment in the order of HighRes, so that its numbers mean the same here."""

_SEARCHES = (GLOBAL, LOCAL, AUTOMATIC, STOCHASTIC)
_HAS_LOCAL = (LOCAL, AUTOMATIC)
_NEW_RUN = (("doContinue", (False,)),)
_ALIGNS = (("alignmentMethod", _SEARCHES),)
_LOCAL = (("alignmentMethod", _HAS_LOCAL),)


@dataclass(frozen=True)
class FormParameter:
    """A parameter of the form.

    Parameters
    ----------
    name
        Its name in the form.
    setting
        The setting of cryorefine, with underscores; empty where it only shows other parameters.
    kind
        flag, integer, number, text, choice, volume, volumes or mask.
    default
        What the form shows first; None for an empty field, which leaves the choice to cryorefine.
    choices
        Words of cryorefine that a choice stands for; of a flag, those for no and for yes.
    when
        Names of other parameters with the values that they must have for this one to be shown. What
        is not shown has no effect.
    factor
        What the number of the form is multiplied by for cryorefine, where units differ.
    only_yes
        Of a flag: no leaves the choice to cryorefine.
    """

    name: str
    setting: str
    kind: str
    label: str
    help: str
    default: Any = None
    choices: Tuple[str, ...] = ()
    when: Tuple[Tuple[str, Tuple[Any, ...]], ...] = ()
    advanced: bool = False
    factor: float = 1.0
    only_yes: bool = False


def _flag(
    name: str, setting: str, label: str, text: str, default: bool = False, **more: Any
) -> FormParameter:
    return FormParameter(name, setting, "flag", label, text, default, **more)


def _number(
    name: str, setting: str, label: str, text: str, default: Any = None, **more: Any
) -> FormParameter:
    return FormParameter(name, setting, "number", label, text, default, **more)


_INPUT = [
    FormParameter(
        "inputVolumes", "reference", "volumes", "Initial volumes",
        "A volume, or a set of two volumes: one for each half set. Without one, the start is "
        "reconstructed from the poses of the particles.",
        when=(*_NEW_RUN, *_ALIGNS),
    ),
    _number(
        "initialLowPass", "initial_lowpass_angstrom", "Initial low-pass (A)",
        "Low-pass of the initial volume, the same for both half sets (empty: 30 A; local "
        "alignment: "
        "the resolution that the poses of the particles support).",
        when=(*_NEW_RUN, *_ALIGNS),
    ),
    _number(
        "particleRadius", "particle_radius_px", "Radius of particle (px)",
        "Radius of a sphere that holds the particle, in pixels of the particles; -1: half the box; "
        "empty: measured on the reference.",
    ),
    FormParameter(
        "symmetryGroup", "symmetry", "text", "Symmetry group",
        "Point group: cN, dN, t, o, i1 to i4, with the axes of Xmipp and RELION.", "c1",
    ),
    FormParameter(
        "inputMask", "mask", "mask", "Mask",
        "Soft mask, 0 to 1, of references and resolution. Without one it is found in the map.",
    ),
    _flag(
        "useCTF", "ctf", "Do images have contrast transfer?",
        "No: images are used as if they had none.", True, advanced=True,
    ),
    _flag(
        "correctEnvelope", "ctf_envelope", "Correct CTF envelope?",
        "Correct for the envelopes (B-factors) that the particles declare.", True,
    ),
    _flag(
        "invertContrast", "invert_contrast", "Are particles black?",
        "Yes: images are inverted as they are read. Particles must be white, as in the volume.",
        when=_NEW_RUN, advanced=True, only_yes=True,
    ),
    _number(
        "maxEnergy", "max_energy", "Most energy of an image",
        "Images of more power than this many times their background's are rejected.", 30.0,
        advanced=True,
    ),
    FormParameter(
        "splitMethod", "split", "choice", "Half sets",
        "Fixed: drawn once, or as the particles have them. Stochastic: drawn anew at every "
        "iteration; half maps are then not independent, and their FSC is too good.",
        1, ("stochastic", "fixed"), advanced=True,
    ),
    _flag(
        "useFileWeights", "file_weights", "Use weights of an earlier run?",
        "Use the weights that an earlier run of cryorefine gave to the particles wherever their "
        "poses are reconstructed.", True, advanced=True,
    ),
    _flag(
        "useFileValues", "file_values", "Use grey values of an earlier run?",
        "Begin with the grey scale, grey offset and magnification that an earlier run of "
        "cryorefine "
        "gave to the particles.", True, advanced=True,
    ),
    FormParameter(
        "compareTo", "compare_to", "volume", "Known map",
        "The FSC with this map is shown; it is never used to refine.", advanced=True,
    ),
    _flag(
        "saveSpace", "intermediate", "Remove intermediate files?",
        "Yes: volumes of the last two iterations stay. No: those of all, and the references as "
        "images were compared with them.",
        True, choices=("keep", "remove"), advanced=True,
    ),
]  # fmt: skip

_NEXT_REFERENCE = [
    _flag(
        "nextLowPass", "", "Low pass filter?",
        "Low-pass the next reference at the resolution plus an offset. Without it, references are "
        "damped shell by shell by their FSC, which needs no sharp limit.",
        when=_ALIGNS,
    ),
    _number(
        "nextResolutionOffset", "resolution_offset_angstrom", "Resolution offset (A)",
        "Added to the resolution; less than 0 lets references reach beyond it.", 2.0,
        when=(*_ALIGNS, ("nextLowPass", (True,))),
    ),
    _number(
        "nextResolutionCriterion", "fsc_criterion", "FSC criterion",
        "Value of the FSC that defines the resolution.", 0.143,
    ),
    FormParameter(
        "nextShape", "reference_shape", "choice", "Shape without a mask",
        "Found: a sphere of the particle's radius, and less noise outside a mask found in the map. "
        "Sphere; cylinder (about z, for filaments); none.",
        0, ("found", "sphere", "cylinder", "none"), when=_ALIGNS,
    ),
    FormParameter(
        "nextMask", "reference_mask", "mask", "Mask for the next reference",
        "Soft mask, 0 to 1, of the references only.", when=_ALIGNS,
    ),
    _flag(
        "nextPositivity", "positivity", "Positivity?",
        "Set negative density of the next reference to 0.", when=_ALIGNS,
    ),
    _number(
        "nextDropout", "dropout", "Dropout",
        "Probability that a voxel of the next reference, inside its mask, is set to 0.", 0.0,
        when=_ALIGNS, advanced=True,
    ),
    FormParameter(
        "nextReferenceScript", "reference_command", "text", "Next reference command",
        "Command that changes each next reference in place. {volume}, {sampling}, {dim}, {half}, "
        "{iteration} and {iterDir} are replaced.",
        when=_ALIGNS, advanced=True,
    ),
    _flag(
        "nextFromProcessed", "reference_from_processed", "Reference from processed halves?",
        "Make the next references of half maps after post-processing. The FSC stays that of the "
        "raw "
        "half maps.",
        when=_ALIGNS, advanced=True,
    ),
    _flag(
        "commandShell", "command_shell", "Run commands by a shell?",
        "Of the commands for next reference and post-processing; otherwise words are only split.",
        advanced=True,
    ),
]  # fmt: skip

_ANGULAR_ASSIGNMENT = [
    FormParameter(
        "alignmentMethod", "alignment", "choice", "Image alignment",
        "Automatic: from global to local, as the data show. Global: all orientations at every "
        "iteration. Local: from the poses of the particles. Stochastic: a random subset at each "
        "iteration. None: poses are kept, and reconstructed.",
        AUTOMATIC, ALIGNMENTS,
    ),
    FormParameter(
        "automaticSchedule", "automatic_schedule", "choice", "Schedule",
        "Data: FSC and changes of poses tell when alignment becomes local and when it ends. "
        "Fixed: 3 "
        "global and 2 local iterations. HighRes: the same, and the last one refines grey values, "
        "scale and defocus of every particle.",
        0, ("data", "fixed", "highres"), when=(("alignmentMethod", (AUTOMATIC,)),),
    ),
    FormParameter(
        "numberOfIterations", "iterations", "integer", "Number of iterations",
        "Empty: automatic alignment ends by itself, after 25 iterations at most (with a fixed "
        "schedule: 5); stochastic makes 20, global and local 3. A continued run makes so many "
        "more.",
        when=_ALIGNS,
    ),
    FormParameter(
        "NimgsSGD", "stochastic_subset", "integer", "Images of a subset",
        "Images of each half in an iteration.", 250,
        when=(("alignmentMethod", (STOCHASTIC,)),),
    ),
    _number(
        "alphaSGD", "stochastic_mixing", "Mixing", "Share of the new subset in a reconstruction.",
        0.1, when=(("alignmentMethod", (STOCHASTIC,)),),
    ),
    _flag(
        "multiresolution", "multiresolution", "Multiresolution approach?",
        "Compare coarse detail first; otherwise all of it at every iteration.", True, when=_ALIGNS,
    ),
    FormParameter(
        "maximumTargetResolution", "target_resolution", "text", "Max. target resolution (A)",
        "Finest detail that poses are compared at, by iteration, such as 15 8 4; the last holds "
        "for "
        "all later ones. Empty: a tenth beyond the last resolution.",
        when=(*_ALIGNS, ("multiresolution", (True,))),
    ),
    _number(
        "angularMaxShift", "max_shift_percent", "Max. shift (%)",
        "In percent of the box.", 10.0,
    ),
    _number(
        "angularMinTilt", "min_tilt_deg", "Min. tilt angle (deg)",
        "0 is a top view, 90 a side view.", 0.0,
    ),
    _number("angularMaxTilt", "max_tilt_deg", "Max. tilt angle (deg)", "As above.", 180.0),
    _flag(
        "contShift", "refine_shifts", "Optimize shifts?", "In local iterations.", True, when=_LOCAL,
    ),
    _number(
        "contMaxShiftVariation", "max_shift_change_percent", "Max. shift variation (%)",
        "Largest change of a shift in a local iteration, in percent of the box. Empty: no limit "
        "but "
        "the largest shift.",
        when=(*_LOCAL, ("contShift", (True,))),
    ),
    _flag(
        "contAngles", "refine_angles", "Optimize angles?", "In local iterations.", True,
        when=_LOCAL,
    ),
    _number(
        "contMaxAngleVariation", "max_angle_change_deg", "Max. angle variation (deg)",
        "Largest rotation in a local iteration. Empty: no limit.",
        when=(*_LOCAL, ("contAngles", (True,))), advanced=True,
    ),
    _flag(
        "contGrayValues", "refine_grey", "Optimize gray values?",
        "Grey scale and offset of every particle.", when=_LOCAL, advanced=True,
    ),
    _number(
        "contMaxGrayScale", "max_grey_scale_change_percent", "Max. gray scale variation",
        "Largest change of a particle's grey scale; 0.5 is half of it.", 0.5,
        when=(*_LOCAL, ("contGrayValues", (True,))), factor=100.0, advanced=True,
    ),
    _number(
        "contMaxGrayShift", "max_grey_offset", "Max. gray shift variation",
        "In standard deviations of the background.", 3.0,
        when=(*_LOCAL, ("contGrayValues", (True,))), advanced=True,
    ),
    _flag(
        "contScale", "refine_scale", "Optimize scale?",
        "The magnification of every particle.", when=_LOCAL, advanced=True,
    ),
    _flag(
        "contMagnification", "refine_magnification", "Optimize magnification of each axis?",
        "The magnification of every particle along each axis, and their directions.",
        when=_LOCAL, advanced=True,
    ),
    _number(
        "contMaxScale", "max_magnification_change_percent", "Max. scale variation",
        "Largest change of a particle's magnification on any axis; 0.02 is 2 percent.", 0.02,
        when=_LOCAL, factor=100.0, advanced=True,
    ),
    _flag(
        "contDefocus", "refine_defocus", "Optimize defocus?",
        "Defocus and astigmatism of every particle.", when=_LOCAL, advanced=True,
    ),
    _number(
        "contMaxDefocus", "max_defocus_change_angstrom", "Max. defocus variation (A)",
        "Largest change of a particle's defocus on any axis.", 1000.0,
        when=(*_LOCAL, ("contDefocus", (True,))), advanced=True,
    ),
    _number(
        "contPadding", "fourier_padding", "Fourier padding factor",
        "Grid points per Fourier coefficient of references and sums.", 1.5, advanced=True,
    ),
    _flag(
        "restrictReconstructionAngles", "", "Restrict reconstruction angles?",
        "Only particles of some tilts are reconstructed, such as side views of filaments.",
        advanced=True,
    ),
    _number(
        "angularMinTiltReconstruct", "reconstruct_min_tilt_deg", "Min. tilt of reconstruction "
        "(deg)",
        "Of the particle, or of a symmetric copy.", 88.0,
        when=(("restrictReconstructionAngles", (True,)),), advanced=True,
    ),
    _number(
        "angularMaxTiltReconstruct", "reconstruct_max_tilt_deg", "Max. tilt of reconstruction "
        "(deg)",
        "Of the particle, or of a symmetric copy.", 92.0,
        when=(("restrictReconstructionAngles", (True,)),), advanced=True,
    ),
]  # fmt: skip

_WEIGHTS = [
    _flag("weightSSNR", "weight_ssnr", "Weight by SSNR?", "By the images' signal-to-noise ratio."),
    _flag(
        "weightContinuous", "weight_cost", "Weight by Continuous cost?",
        "By the correlation in local iterations.", when=_LOCAL,
    ),
    _flag(
        "weightJumper", "weight_stability", "Weight by angular stability?",
        "By how little the pose changed in two iterations.",
    ),
    _flag(
        "weightCC", "weight_cc", "Weight by CC percentile?",
        "By the percentile of the correlation among particles of like defocus. HighRes has it on "
        "by default.",
    ),
    _number(
        "weightCCmin", "min_cc_weight", "Minimum CC weight",
        "Weight of the lowest percentile.", 0.1, when=(("weightCC", (True,)),),
    ),
]  # fmt: skip

_POST_PROCESSING = [
    FormParameter(
        "postAdHocMask", "post_mask", "mask", "Mask",
        "Mask, 0 to 1, of the processed map and half maps; nothing else sees it.",
    ),
    _flag(
        "postSymmetryWithinMask", "", "Symmetrize volume within mask?",
        "Half maps are symmetrised within a mask; outside it they stay as they are.", advanced=True,
    ),
    FormParameter(
        "postSymmetryWithinMaskType", "post_symmetry", "text", "Mask symmetry",
        "Point group within the mask.", "i1",
        when=(("postSymmetryWithinMask", (True,)),), advanced=True,
    ),
    FormParameter(
        "postSymmetryWithinMaskMask", "post_symmetry_mask", "mask", "Symmetry mask",
        "Soft mask, 0 to 1. It should have the symmetry.",
        when=(("postSymmetryWithinMask", (True,)),), advanced=True,
    ),
    FormParameter(
        "postSymmetryAngles", "post_symmetry_angles_deg", "text", "Axes of the symmetry (deg)",
        "Rot, tilt and psi of the view in which the axes lie as usual, such as 30 0 90. Empty: "
        "they "
        "lie so in the map.",
        when=(("postSymmetryWithinMask", (True,)),), advanced=True,
    ),
    FormParameter(
        "postScript", "post_command", "text", "Post-processing command",
        "Command that changes a map in place. {volume}, {sampling}, {dim}, {half}, {iteration} and "
        "{iterDir} are replaced.", advanced=True,
    ),
    _flag(
        "postAlignHalves", "post_align_halves", "Align the half maps?",
        "Move half map 2 to where half map 1 lies.", advanced=True,
    ),
    _flag(
        "postSignificantDenoise", "post_denoise", "Significant denoising, real space?",
        "Make voxels quieter that are no louder than noise, or than signal is.", advanced=True,
    ),
    _flag(
        "postFilterBank", "post_filter_bank", "Significant denoising, Fourier space?",
        "The same in bands of frequencies that overlap.", advanced=True,
    ),
    _flag(
        "postLaplacian", "post_laplacian", "Laplacian denoising?",
        "Take away edges that the solvent has, too.", advanced=True,
    ),
    _flag(
        "postDeconvolve", "post_deconvolve", "Blind deconvolution?",
        "Find the Gaussian that blurs the map, and undo it as far as the FSC "
        "allows.", advanced=True,
    ),
    _flag(
        "postSoftNeg", "", "Attenuate undershooting?",
        "Compress values far below the solvent's mean.", advanced=True,
    ),
    _number(
        "postSoftNegK", "post_undershoot_sigmas", "Undershooting (sigmas)",
        "Values below the mean by more than so many standard deviations.", 9.0,
        when=(("postSoftNeg", (True,)),), advanced=True,
    ),
    _flag(
        "postDifference", "post_difference", "Evaluate difference?",
        "Pull halves together where they differ more than elsewhere. This mixes the halves.",
        advanced=True,
    ),
]  # fmt: skip

_HELIX = (("postHelical", (True,)),)

_HELICAL = [
    _flag(
        "postHelical", "", "Helical symmetry?",
        "Particles are segments of filaments along z of the map: a helix is imposed on half maps. "
        "The symmetry group says what axes there are, cN or dN.",
    ),
    _number(
        "helicalTwist", "helical_twist_deg", "Twist (deg)",
        "From one subunit to the next; positive is right-handed.", 0.0, when=_HELIX,
    ),
    _number(
        "helicalRise", "helical_rise_angstrom", "Rise (A)",
        "From one subunit to the next.", 1.0, when=_HELIX,
    ),
    FormParameter(
        "helicalTwistRange", "helical_twist_range_deg", "text", "Range of the twist (deg)",
        "Lowest and highest, such as 27 28: twist and rise are searched at every iteration. Empty: "
        "they stay as given.", when=_HELIX,
    ),
    FormParameter(
        "helicalRiseRange", "helical_rise_range_angstrom", "text", "Range of the rise (A)",
        "Lowest and highest, such as 1.3 1.5; with the range of the twist.", when=_HELIX,
    ),
    _number(
        "postHelicalRadius", "helical_radius_angstrom", "Radius of the filament (A)",
        "Half maps and references are empty outside. Empty: measured.", when=_HELIX,
    ),
    _number(
        "helicalInnerRadius", "helical_inner_radius_angstrom", "Radius of a channel (A)",
        "Along the axis, set to 0. Empty: none.", when=_HELIX, advanced=True,
    ),
    _number(
        "helicalFraction", "helical_fraction", "Part of the box that is averaged",
        "The middle along z, from 0.1 to 1.", 0.9, when=_HELIX, advanced=True,
    ),
    _number(
        "helicalMaxOutOfPlane", "helical_max_out_of_plane_deg", "Most out of the plane (deg)",
        "Tilts are 90 degrees plus or minus so much.", 15.0, when=_HELIX, advanced=True,
    ),
    _number(
        "helicalPsiRange", "helical_psi_range_deg", "Search of psi (deg)",
        "So far from the psi that the particles were picked with, in both directions.", 10.0,
        when=_HELIX, advanced=True,
    ),
]  # fmt: skip

_COMPUTING = [
    FormParameter(
        "seed", "seed", "integer", "Seed", "Of all random choices.", 0, when=_NEW_RUN, advanced=True
    ),
    FormParameter(
        "workers", "workers", "integer", "Worker processes",
        "They share the threads, and one that is killed is replaced. Empty: none. CPU only.",
        advanced=True,
    ),
]  # fmt: skip

SECTIONS: Dict[str, List[FormParameter]] = {
    "Input": _INPUT,
    "Next Reference": _NEXT_REFERENCE,
    "Angular assignment": _ANGULAR_ASSIGNMENT,
    "Weights": _WEIGHTS,
    "Post-processing": _POST_PROCESSING,
    "Helical symmetry": _HELICAL,
    "Computing": _COMPUTING,
}
"""Sections of the form in their order; the protocol adds particles and run to the first."""

FROM_OBJECTS: Dict[str, str] = {
    "particles": "the STAR file that the plugin writes of the input set",
    "phase_flipped": "whether the input set says that it is phase-flipped",
    "reference_voxel_angstrom": "sampling rate of the initial volumes",
    "mask_voxel_angstrom": "sampling rate of the masks, where all have the same",
    "device": "the GPU switch of Scipion",
    "threads": "the threads of Scipion",
}
"""Settings that follow from Scipion's objects, and what from."""

NOT_OFFERED: Dict[str, str] = {
    "image_root": "the STAR file that the plugin writes says where the images are",
    "ctf_premultiplied": "Scipion's sets cannot say it; optics groups of RELION do",
}
"""Settings that the form does not have, and why."""

FIXED_BY_RUN = (
    "reference", "initial_lowpass_angstrom", "reference_voxel_angstrom", "invert_contrast", "seed",
)  # fmt: skip
"""Settings that a continued run cannot change."""


def all_parameters() -> List[FormParameter]:
    """Return the parameters of all sections."""
    return [parameter for section in SECTIONS.values() for parameter in section]


def default_values() -> Dict[str, Any]:
    """Return what the form shows first, by name."""
    return {"doContinue": False, **{p.name: p.default for p in all_parameters()}}


def is_shown(parameter: FormParameter, values: Dict[str, Any]) -> bool:
    """Tell whether the form shows a parameter, and therefore whether it has an effect."""
    by_name = {p.name: p for p in all_parameters()}
    for name, needed in parameter.when:
        if values.get(name) not in needed:
            return False
        if name in by_name and not is_shown(by_name[name], values):
            return False
    return True
