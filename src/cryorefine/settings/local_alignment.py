"""Settings of local iterations: what they may change of a pose."""

from pydantic import Field

from cryorefine.settings.group import SettingsGroup

__all__ = ["LocalSettings"]


class LocalSettings(SettingsGroup):
    """What local iterations may change of a pose."""

    refine_shifts: bool = Field(True, description="Refine shifts in local iterations.")
    max_shift_change_percent: float | None = Field(
        None,
        ge=1e-3,
        le=50,
        description="Largest change of a shift in a local iteration, in percent of the box "
        "(default: no limit but --max-shift-percent).",
    )
    refine_angles: bool = Field(True, description="Refine angles in local iterations.")
    max_angle_change_deg: float | None = Field(
        None,
        ge=1e-3,
        le=180,
        description="Largest rotation in a local iteration (default: no limit).",
    )
