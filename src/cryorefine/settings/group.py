"""What all groups of settings have in common."""

from pydantic import BaseModel, ConfigDict

__all__ = ["SettingsGroup"]


class SettingsGroup(BaseModel):
    """Settings of one subject; frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
