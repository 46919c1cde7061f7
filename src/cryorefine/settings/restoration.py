"""Settings of what is done to finished half maps, for people to look at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from cryorefine.settings.group import SettingsGroup

__all__ = ["RestorationSettings"]


class RestorationSettings(SettingsGroup):
    """What is done to finished half maps, in this order; raw half maps and the FSC stay."""

    post_symmetry: str | None = Field(
        None,
        description="Point group that half maps are symmetrised by within --post-symmetry-mask; "
        "outside it they stay as they are.",
    )
    post_symmetry_mask: Path | None = Field(
        None, description="Soft mask, 0 to 1, of --post-symmetry. It should have the symmetry."
    )
    post_symmetry_angles_deg: tuple[float, ...] = Field(
        (),
        description='How the axes of --post-symmetry lie: "rot tilt psi", in degrees, of the view '
        "in which they lie as usual (default: they lie so in the map itself).",
    )
    post_command: str | None = Field(
        None,
        description="Command that changes map_processed.mrc in place, as --reference-command does; "
        "with any other of these but the mask it changes each half map.",
    )
    post_align_halves: bool = Field(
        False,
        description="Move half map 2 to where half map 1 lies: three angles and three shifts, or "
        "what the symmetry leaves of them.",
    )
    post_denoise: bool = Field(
        False,
        description="Make voxels quieter that are no louder than noise, or than signal is.",
    )
    post_filter_bank: bool = Field(
        False, description="The same in bands of frequencies that overlap."
    )
    post_laplacian: bool = Field(
        False, description="Take away edges that the solvent has, too (retinex)."
    )
    post_deconvolve: bool = Field(
        False, description="Find the Gaussian that blurs the map, and undo it as far as FSC allows."
    )
    post_undershoot_sigmas: float | None = Field(
        None,
        ge=0.1,
        le=1000,
        description="Compress values below the solvent's mean by more than so many of its standard "
        "deviations; 9 is usual.",
    )
    post_difference: bool = Field(
        False,
        description="Pull halves together where they differ more than elsewhere, and map where "
        "that is. This mixes the halves; their average stays.",
    )
    post_mask: Path | None = Field(
        None,
        description="Mask, 0 to 1, of map_processed.mrc and of processed half maps; nothing else "
        "sees it.",
    )

    @field_validator("post_symmetry_angles_deg", mode="before")
    @classmethod
    def _split_angles(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @property
    def restores_halves(self) -> bool:
        """Whether half maps are to be processed, and not only the map that is made of them."""
        return (
            self.post_symmetry is not None
            or self.post_align_halves
            or self.post_denoise
            or self.post_filter_bank
            or self.post_laplacian
            or self.post_deconvolve
            or self.post_undershoot_sigmas is not None
            or self.post_difference
        )

    def problems_of_restorations(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if (self.post_symmetry is None) != (self.post_symmetry_mask is None):
            yield "--post-symmetry and --post-symmetry-mask need each other"
        if self.post_symmetry_angles_deg:
            if len(self.post_symmetry_angles_deg) != 3:
                yield '--post-symmetry-angles-deg: give three angles, as in "30 0 90"'
            if self.post_symmetry is None:
                yield "--post-symmetry-angles-deg: there is no --post-symmetry"
