"""Settings of the particles, and of how their images were made."""

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
    symmetry: str = Field("c1", description="Point group: cN, dN, t, o, i1 to i4 (RELION's axes).")
    particle_radius_px: float | None = Field(
        None,
        ge=-65536,
        le=65536,
        description="Radius of a sphere that holds the particle, in image pixels; -1, or 0: half "
        "the box (default: measured on the reference).",
    )
    invert_contrast: bool = Field(
        False,
        description="Particles are black in the images: invert them as they are read. Particles "
        "must be white, as in the initial map.",
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

    @field_validator("particle_radius_px")
    @classmethod
    def _check_radius(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < 1:
            raise ValueError(
                f"a radius is 1 pixel or more; -1 stands for half the box (given: {value})"
            )
        return value
