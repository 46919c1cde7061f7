"""All settings of a refinement in one model, and what must hold between them."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import model_validator

from cryorefine.io.output_path import why_no_name
from cryorefine.settings.alignment import AlignmentSettings
from cryorefine.settings.computing import ComputingSettings
from cryorefine.settings.group import SettingsGroup
from cryorefine.settings.helix import HelixSettings
from cryorefine.settings.local_alignment import LocalSettings
from cryorefine.settings.particle_optics import ParticleOpticsSettings
from cryorefine.settings.particles import ParticleSettings
from cryorefine.settings.reconstruction import ReconstructionSettings
from cryorefine.settings.reference import ReferenceSettings
from cryorefine.settings.restoration import RestorationSettings
from cryorefine.settings.weights import WeightSettings

__all__ = ["FILE_SETTINGS", "GROUPS", "RefineSettings", "option_name"]

GROUPS: dict[str, type[SettingsGroup]] = {
    "Particles and images": ParticleSettings,
    "Alignment": AlignmentSettings,
    "Local iterations": LocalSettings,
    "Values of single particles": ParticleOpticsSettings,
    "References": ReferenceSettings,
    "Reconstruction and resolution": ReconstructionSettings,
    "Helices": HelixSettings,
    "Restoration": RestorationSettings,
    "Weights": WeightSettings,
    "Computing and files": ComputingSettings,
}
"""Titles of the groups, in the order of help, documents and TOML files."""

FILE_SETTINGS = (
    "particles", "reference", "mask", "reference_mask", "post_symmetry_mask", "post_mask",
    "compare_to",
)  # fmt: skip
"""Settings that name files which a run reads."""

_UNUSED_WITHOUT_ALIGNMENT = (
    "reference_mask",
    "reference_shape",
    "resolution_offset_angstrom",
    "positivity",
    "dropout",
    "reference_command",
    "reference_from_processed",
    "target_resolution",
    "multiresolution",
)


_NARROWEST_BAND_DEG = 0.1
"""Between the tilt limits: no pose is known as exactly, and what is narrower holds no particle."""


class RefineSettings(
    # A model's fields begin with those of its last base: see GROUPS for the order.
    ComputingSettings,
    WeightSettings,
    RestorationSettings,
    HelixSettings,
    ReconstructionSettings,
    ReferenceSettings,
    ParticleOpticsSettings,
    LocalSettings,
    AlignmentSettings,
    ParticleSettings,
):
    """Settings of a refinement; frozen, unknown names refused."""

    @model_validator(mode="after")
    def _check_together(self) -> "RefineSettings":
        problems = [
            *self._names(),
            *self._ranges(),
            *self._alignment(),
            *self._local(),
            *self._images(),
            *self.problems_of_restorations(),
            *self.problems_of_helix(self.symmetry),
            *self._helix(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _names(self) -> Iterator[str]:
        for name, value in self:
            for text in value if isinstance(value, tuple) else (value,):
                reason = why_no_name(str(text)) if isinstance(text, str | Path) else ""
                if reason:
                    yield f"{option_name(name)}: {reason}"

    def _ranges(self) -> Iterator[str]:
        for low, high in (
            ("min_tilt_deg", "max_tilt_deg"),
            ("reconstruct_min_tilt_deg", "reconstruct_max_tilt_deg"),
        ):
            if getattr(self, low) >= getattr(self, high):
                yield (
                    f"{option_name(low)} {getattr(self, low):g} is not below {option_name(high)} "
                    f"({getattr(self, high):g})"
                )
            elif getattr(self, high) - getattr(self, low) < _NARROWEST_BAND_DEG:
                yield (
                    f"{option_name(low)} and {option_name(high)} are less than "
                    f"{_NARROWEST_BAND_DEG:g}° apart"
                )
        if any(not 0.1 <= value <= 10_000 for value in self.target_resolution):
            yield "--target-resolution: resolutions are positive numbers of Å, 0.1 to 10,000"
        masks = (self.mask, self.reference_mask, self.post_mask)
        if self.mask_voxel_angstrom is not None and masks == (None, None, None):
            yield "--mask-voxel-angstrom: there is no mask (--mask, --reference-mask, --post-mask)"
        processes = self.post_mask or self.post_command or self.restores_halves
        if self.reference_from_processed and not processes:
            yield (
                "--reference-from-processed: half maps are not processed (--post-mask and the "
                "other --post options)"
            )
        if self.reference_from_processed and self.post_difference:
            yield (
                "--reference-from-processed: --post-difference mixes the half maps, and the FSC of "
                "the next ones would be that of halves that know each other"
            )
        if self.command_shell and not (self.reference_command or self.post_command):
            yield "--command-shell: there is no command (--reference-command, --post-command)"

    def _alignment(self) -> Iterator[str]:
        if self.alignment == "none" and (self.iterations or 1) != 1:
            yield "--iterations: alignment 'none' has exactly one iteration"
        if self.alignment == "none" and self.reference:
            yield "--reference: alignment 'none' uses no initial map"
        if self.automatic_schedule != "data" and self.alignment != "automatic":
            yield f"--automatic-schedule: alignment '{self.alignment}' does not follow it"
        if self.target_resolution and not self.multiresolution:
            yield "--target-resolution: without multiresolution all detail is compared at once"
        if self.alignment == "none":
            for name in _UNUSED_WITHOUT_ALIGNMENT:
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield f"{option_name(name)}: alignment 'none' compares with no next reference"

    def _local(self) -> Iterator[str]:
        if self.refines_optics and not self.has_local_iterations:
            yield (
                "--refine-grey, --refine-scale, --refine-magnification and --refine-defocus act in "
                f"local iterations; alignment {self.alignment!r} has none"
            )
        limits = self.max_shift_change_percent, self.max_angle_change_deg
        is_free = self.refine_shifts and self.refine_angles and limits == (None, None)
        if not is_free and not self.has_local_iterations:
            yield (
                "--no-refine-shifts, --no-refine-angles, --max-shift-change-percent and "
                f"--max-angle-change-deg act in local iterations; alignment {self.alignment!r} has "
                "none"
            )
        if self.weight_cost and not self.has_local_iterations:
            yield f"--weight-cost acts in local iterations; alignment {self.alignment!r} has none"

    def _images(self) -> Iterator[str]:
        if self.refine_defocus and not self.ctf:
            yield "--refine-defocus: images without contrast transfer have no defocus"
        if self.phase_flipped and self.ctf_premultiplied:
            yield "--phase-flipped and --ctf-premultiplied exclude each other"
        if self.refine_defocus and self.ctf_premultiplied:
            yield "--refine-defocus: images multiplied by their CTF hold no other defocus"
        if not self.ctf and (self.phase_flipped or self.ctf_premultiplied):
            yield "--phase-flipped, --ctf-premultiplied: the images have no contrast transfer"

    def _helix(self) -> Iterator[str]:
        if not self.has_helix:
            return
        low, high = self.tilt_limits_deg
        if high - low < _NARROWEST_BAND_DEG:
            yield (
                f"--min-tilt-deg {self.min_tilt_deg:g} and --max-tilt-deg {self.max_tilt_deg:g} "
                f"leave no filament within {self.helical_max_out_of_plane_deg:g}° of the image "
                "plane (--helical-max-out-of-plane-deg)"
            )
        if self.reference_from_processed:
            yield "--reference-from-processed: references of helices are made of raw half maps"

    @property
    def tilt_limits_deg(self) -> tuple[float, float]:
        """Smallest and largest viewing tilt; those of filaments lie about 90°."""
        low, high = self.min_tilt_deg, self.max_tilt_deg
        if self.has_helix:
            reach = self.helical_max_out_of_plane_deg
            low, high = max(low, 90 - reach), min(high, 90 + reach)
        return low, high

    @property
    def refines_values_at_end(self) -> bool:
        """Whether the last iteration refines what single particles have, whatever was asked for."""
        return self.automatic_schedule == "highres"

    @property
    def refines_optics(self) -> bool:
        """Whether single particles have values of their own beside the pose."""
        return super().refines_optics or self.refines_values_at_end

    @property
    def largest_magnification(self) -> float:
        """Factor by which a particle's frequencies may lie beyond those of its image."""
        if self.refines_values_at_end:
            return 1.0 + self.max_magnification_change_percent / 100
        return super().largest_magnification

    @property
    def starts_from_poses(self) -> bool:
        """Whether the given poses' half maps tell at what resolution the run begins."""
        return self.alignment == "local" and (
            "initial_lowpass_angstrom" not in self.model_fields_set
        )


def option_name(name: str) -> str:
    """Return how the command line writes a setting's name."""
    return "--" + name.replace("_", "-")
