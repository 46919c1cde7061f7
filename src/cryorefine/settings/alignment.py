"""Settings of alignment: modes, iterations, resolution of comparisons, limits."""

from typing import Any, Literal

from pydantic import Field, field_validator

from cryorefine.settings.group import SettingsGroup

__all__ = ["AlignmentSettings"]


class AlignmentSettings(SettingsGroup):
    """How poses are found: modes, iterations, resolution of comparisons, limits."""

    alignment: Literal["automatic", "global", "local", "stochastic", "none"] = Field(
        "automatic",
        description="global searches all orientations at every iteration; local starts from the "
        "poses in the particle file; automatic goes from global to local by itself; stochastic "
        "searches for a random subset at each iteration and mixes its map into the one before; "
        "none keeps the poses of the file.",
    )
    automatic_schedule: Literal["data", "fixed", "highres"] = Field(
        "data",
        description="Schedule of automatic alignment. data: the FSC and the changes of poses tell "
        "when it becomes local and when it ends; fixed: 3 global and 2 local iterations, or of "
        "--iterations the last two fifths local; highres: the same, and the last one refines grey "
        "values, scale and defocus of every particle (on the CPU).",
    )
    iterations: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Iterations; automatic: at most this many (default 25), else exactly "
        "(default 3; automatic by a fixed schedule: 5; stochastic: 20; none: 1).",
    )
    stochastic_subset: int = Field(
        250,
        ge=1,
        le=2**31,
        description="Particles of each half in an iteration of stochastic alignment.",
    )
    stochastic_mixing: float = Field(
        0.1,
        ge=1e-4,
        le=1,
        description="Share of the new subset in the sums of a stochastic reconstruction.",
    )
    multiresolution: bool = Field(
        True, description="Compare coarse detail first; otherwise all of it at every iteration."
    )
    target_resolution: tuple[float, ...] = Field(
        (),
        description='Finest detail that poses are compared at, by iteration, such as "15 8 4" in Å;'
        " the last holds for all later ones. At most twice as fine as the last resolution, in local"
        " iterations 1.25 times (default: a tenth beyond the last resolution).",
    )
    max_shift_percent: float = Field(
        10.0, ge=0.01, le=50, description="Largest shift, in percent of the box."
    )
    min_tilt_deg: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Smallest viewing tilt; 0 is a top view, 90 a side view. Poses given outside "
        "the limits are set aside by local alignment and 'none'.",
    )
    max_tilt_deg: float = Field(180.0, ge=0, le=180, description="Largest viewing tilt.")

    @field_validator("target_resolution", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @property
    def has_local_iterations(self) -> bool:
        """Whether any iteration starts from the poses of the one before."""
        return self.alignment in ("automatic", "local")

    @property
    def is_data_driven(self) -> bool:
        """Whether the data decide what the iterations do and when they end."""
        return self.alignment == "automatic" and self.automatic_schedule == "data"

    @property
    def max_iterations(self) -> int:
        """Number of iterations after which the run ends at the latest."""
        if self.iterations is not None:
            return self.iterations
        if self.alignment == "automatic":
            return 25 if self.is_data_driven else 5
        return {"none": 1, "stochastic": 20}.get(self.alignment, 3)
