"""Settings of the initial map and of how the next references are shaped."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from cryorefine.settings.group import SettingsGroup

__all__ = ["ReferenceSettings"]


class ReferenceSettings(SettingsGroup):
    """The initial map, and how the maps are shaped that images are compared with."""

    reference: tuple[Path, ...] = Field(
        (),
        max_length=2,
        description="Initial map; two maps start one half each; none: reconstructed from the "
        "poses in the particle file.",
    )
    initial_lowpass_angstrom: float = Field(
        30.0,
        ge=0.1,
        le=1e6,
        description="Low-pass of the initial map, the same for both halves; local alignment starts "
        "at the resolution that the given poses support unless this is given.",
    )
    reference_voxel_angstrom: float | None = Field(
        None, ge=0.01, le=1000, description="Voxel size of the initial map, if its header is wrong."
    )
    mask: Path | None = Field(
        None,
        description="Soft mask, 0 to 1, for references and resolution (default: a sphere for the "
        "references, a mask found in the map for the resolution).",
    )
    reference_mask: Path | None = Field(
        None, description="Soft mask, 0 to 1, for the references only, instead of --mask."
    )
    mask_voxel_angstrom: float | None = Field(
        None,
        ge=0.01,
        le=1000,
        description="Voxel size of all masks, if their headers have none or a wrong one.",
    )
    reference_shape: Literal["found", "sphere", "cylinder", "none"] = Field(
        "found",
        description="What confines references where no mask is given. found: a sphere of the "
        "particle's radius, and less noise outside a mask found in the map; sphere; cylinder (about"
        " z, for filaments); none.",
    )
    resolution_offset_angstrom: float | None = Field(
        None,
        ge=-10,
        le=100,
        description="Low-pass the next references at the resolution plus this (default: no more "
        "than the FSC damps them). Less than 0: they reach, and poses are compared, beyond the "
        "resolution, at most twice as far.",
    )
    positivity: bool = Field(False, description="Set negative density of references to 0.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability that a voxel of the next reference, inside its mask, is set to 0.",
    )
    reference_command: str | None = Field(
        None,
        description="Command that changes each next reference in place; {volume}, {sampling}, "
        "{dim}, {half}, {iteration} and {iterDir} are replaced.",
    )
    reference_from_processed: bool = Field(
        False,
        description="Make the next references of half maps that have gone through --post-mask and "
        "--post-command; the FSC is that of the raw half maps all the same.",
    )
    command_shell: bool = Field(
        False, description="Run the commands by a shell; otherwise words are only split."
    )
