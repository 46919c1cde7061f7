"""Settings of how maps are made of aligned images, measured and processed."""

from pathlib import Path

from pydantic import Field

from cryorefine.settings.group import SettingsGroup

__all__ = ["ReconstructionSettings"]


class ReconstructionSettings(SettingsGroup):
    """How maps are made of aligned images, measured and processed."""

    fourier_padding: float = Field(
        1.5,
        ge=1.25,
        le=3,
        description="Grid points per Fourier coefficient of references and sums: more is more "
        "exact, and costs its third power.",
    )
    reconstruct_min_tilt_deg: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Only particles of at least this tilt, or with a symmetric copy of it, are "
        "reconstructed.",
    )
    reconstruct_max_tilt_deg: float = Field(
        180.0,
        ge=0,
        le=180,
        description="Only particles of at most this tilt, or with a symmetric copy of it, are "
        "reconstructed.",
    )
    fsc_criterion: float = Field(
        0.143, ge=1e-3, lt=1, description="Value of the FSC that defines the resolution."
    )
    compare_to: Path | None = Field(
        None,
        description="A known map, in place, to show the FSC against; never used to refine.",
    )
    post_mask: Path | None = Field(
        None, description="Mask, 0 to 1, of map_processed.mrc; nothing else sees it."
    )
    post_command: str | None = Field(
        None,
        description="Command that changes map_processed.mrc in place, as --reference-command does.",
    )
