"""Settings of the values that single particles have of their own beside the pose."""

from pydantic import Field

from cryorefine.settings.group import SettingsGroup

__all__ = ["ParticleOpticsSettings"]


class ParticleOpticsSettings(SettingsGroup):
    """Values that single particles have of their own beside the pose."""

    refine_grey: bool = Field(
        False, description="Refine grey scale and offset of every particle (local iterations)."
    )
    max_grey_scale_change_percent: float = Field(
        50.0, ge=0.01, lt=100, description="Largest change of a particle's grey scale."
    )
    max_grey_offset: float = Field(
        3.0,
        ge=1e-3,
        le=1000,
        description="Largest grey offset of a particle, in standard deviations of its background.",
    )
    refine_scale: bool = Field(
        False, description="Refine the magnification of every particle (local iterations)."
    )
    refine_magnification: bool = Field(
        False,
        description="Refine the magnification of every particle along each axis, and their "
        "directions (local iterations).",
    )
    max_magnification_change_percent: float = Field(
        2.0, ge=1e-3, le=10, description="Largest change of a particle's magnification on any axis."
    )
    refine_defocus: bool = Field(
        False,
        description="Refine defocus and astigmatism of every particle (local iterations).",
    )
    max_defocus_change_angstrom: float = Field(
        1000.0, ge=0.1, le=1e6, description="Largest change of a particle's defocus on any axis."
    )
    file_values: bool = Field(
        True,
        description="Begin with the grey scale, grey offset and magnification of every particle "
        "that an earlier run has left in the particle file.",
    )

    @property
    def refines_optics(self) -> bool:
        """Whether single particles have values of their own beside the pose."""
        flags = (
            self.refine_grey, self.refine_scale, self.refine_magnification, self.refine_defocus
        )  # fmt: skip
        return any(flags)

    @property
    def largest_magnification(self) -> float:
        """Factor by which a particle's frequencies may lie beyond those of its image."""
        if not (self.refine_scale or self.refine_magnification):
            return 1.0
        return 1.0 + self.max_magnification_change_percent / 100
