"""Settings of the particles, and of how their images were made."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from cryorefine.settings.group import SettingsGroup

__all__ = ["ParticleSettings"]


class ParticleSettings(SettingsGroup):
    """The particles and how their images were made."""

    particles: Path = Field(
        description="Particle file of RELION, cryoSPARC, Xmipp, cisTEM or cryoDRGN."
    )
    image_root: Path | None = Field(
        None,
        description="Folder that the image stacks were moved to: the longest end of a stack's name "
        "that is there is taken (default: where the particle file says).",
    )
    symmetry: str = Field("c1", description="Point group: cN, dN, t, o, i1 to i4 (RELION's axes).")
    particle_radius_px: float | None = Field(
        None,
        ge=-65536,
        le=65536,
        description="Radius of a sphere that holds the particle, in image pixels; -1, or 0: half "
        "the box (default: measured on the reference).",
    )
    invert_contrast: bool | None = Field(
        None,
        description="Particles are black in the images: invert them as they are read. Particles "
        "must be white, as in the initial map (default: as the particle file says, which most do "
        "not).",
    )
    ctf: bool = Field(True, description="Whether the images have contrast transfer.")
    ctf_envelope: bool = Field(
        True, description="Correct for the envelopes (B-factors) that the particle file declares."
    )
    phase_flipped: bool | None = Field(
        None, description="Images are phase-flipped (default: as the particle file says)."
    )
    ctf_premultiplied: bool | None = Field(
        None,
        description="Images have been multiplied by their CTF (default: as the particle file "
        "says).",
    )
    split: Literal["fixed", "stochastic"] = Field(
        "fixed",
        description="Half sets. fixed: drawn once, or as the particle file has them; stochastic: "
        "drawn anew at every iteration, whatever the file has. Half maps are then not independent, "
        "and their FSC is too good.",
    )
    max_energy: float = Field(
        30.0,
        gt=1,
        le=1e9,
        description="Images of more power than this many times their background's are rejected.",
    )

    @field_validator("image_root")
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        # A run goes on from any working folder.
        return value if value is None or "\0" in str(value) else Path(os.path.abspath(value))

    def contrast_advice(self, *, of_file: bool) -> str:
        """Return which option gives the other contrast.

        Parameters
        ----------
        of_file
            Whether the particle file says that particles are black.
        """
        is_inverted = of_file if self.invert_contrast is None else self.invert_contrast
        if is_inverted:
            return "give --no-invert-contrast" if of_file else "leave out --invert-contrast"
        return "leave out --no-invert-contrast" if of_file else "give --invert-contrast"

    @field_validator("particle_radius_px")
    @classmethod
    def _check_radius(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < 1:
            raise ValueError(
                f"a radius is 1 pixel or more; -1 stands for half the box (given: {value})"
            )
        return value
