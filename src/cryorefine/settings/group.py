"""What all groups of settings have in common."""

from pydantic import BaseModel, ConfigDict

__all__ = ["SettingsGroup"]


class SettingsGroup(BaseModel):
    """Settings of one subject; frozen, unknown names refused, and numbers that are not finite.

    Every number has a least and a largest value. They are far beyond use: they keep out what is
    meant in another unit or for another option, and what would silently switch something off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
