"""Settings of helical symmetry: twist and rise, what is searched, and where segments may lie."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator

from cryorefine.settings.group import SettingsGroup

__all__ = ["HelixSettings"]

_NEED_A_HELIX = (
    "helical_twist_range_deg",
    "helical_rise_range_angstrom",
    "helical_radius_angstrom",
    "helical_inner_radius_angstrom",
    "helical_fraction",
    "helical_max_out_of_plane_deg",
    "helical_psi_range_deg",
)


class HelixSettings(SettingsGroup):
    """Helical symmetry of particles that are segments of filaments along z of the map."""

    helical_twist_deg: float | None = Field(
        None,
        ge=-180,
        le=180,
        description="Twist of the helix that is imposed on half maps; positive is right-handed. "
        "Axes along and across the filament are those of --symmetry (cN or dN).",
    )
    helical_rise_angstrom: float | None = Field(
        None, ge=0.1, le=10_000, description="Rise of the helix that is imposed on half maps."
    )
    helical_twist_range_deg: tuple[float, ...] = Field(
        (),
        description='Lowest and highest twist, as in "27 28": twist and rise are then searched at '
        "every iteration, in each half map by itself (default: they stay as given).",
    )
    helical_rise_range_angstrom: tuple[float, ...] = Field(
        (), description='Lowest and highest rise, as in "1.3 1.5"; with --helical-twist-range-deg.'
    )
    helical_radius_angstrom: float | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Radius of the filament; half maps and references are empty outside (default: "
        "measured on the map of each iteration).",
    )
    helical_inner_radius_angstrom: float | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Radius of a channel along the axis that is set to 0 (default: none).",
    )
    helical_fraction: float = Field(
        0.9,
        ge=0.1,
        le=1,
        description="Part of the box along z, the middle, whose copies are averaged; the result "
        "fills the box.",
    )
    helical_max_out_of_plane_deg: float = Field(
        15.0,
        ge=0.1,
        le=90,
        description="Filaments lie by no more than this out of the image plane: poses have tilts "
        "of 90° plus or minus so much, within --min-tilt-deg and --max-tilt-deg.",
    )
    helical_psi_range_deg: float = Field(
        10.0,
        ge=1,
        le=180,
        description="Searches look this far from where rlnAnglePsiPrior of the particle file says "
        "that the filament lies, in both directions along it; without that column, all round.",
    )

    @field_validator("helical_twist_range_deg", "helical_rise_range_angstrom", mode="before")
    @classmethod
    def _split_range(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @property
    def has_helix(self) -> bool:
        """Whether helical symmetry is imposed."""
        return self.helical_twist_deg is not None and self.helical_rise_angstrom is not None

    @property
    def searches_helix(self) -> bool:
        """Whether twist and rise are searched at every iteration."""
        return self.has_helix and bool(self.helical_twist_range_deg)

    def problems_of_helix(self, symmetry: str) -> Iterator[str]:
        """Yield what does not fit together; the point group's name is given."""
        if (self.helical_twist_deg is None) != (self.helical_rise_angstrom is None):
            yield "--helical-twist-deg and --helical-rise-angstrom need each other"
            return
        if not self.has_helix:
            for name in _NEED_A_HELIX:
                if getattr(self, name) != HelixSettings.model_fields[name].default:
                    yield (
                        f"--{name.replace('_', '-')}: there is no helix (--helical-twist-deg, "
                        "--helical-rise-angstrom)"
                    )
            return
        if symmetry.strip().lower()[:1] not in ("c", "d"):
            yield f"--symmetry {symmetry}: a helix has the point groups cN and dN only"
        if bool(self.helical_twist_range_deg) != bool(self.helical_rise_range_angstrom):
            yield "--helical-twist-range-deg and --helical-rise-range-angstrom need each other"
        inner_A, outer_A = self.helical_inner_radius_angstrom, self.helical_radius_angstrom
        if inner_A is not None and outer_A is not None and inner_A >= outer_A:
            yield (
                f"--helical-inner-radius-angstrom {inner_A:g} is not below "
                f"--helical-radius-angstrom ({outer_A:g})"
            )
        for name, value in (
            ("helical_twist_range_deg", self.helical_twist_deg),
            ("helical_rise_range_angstrom", self.helical_rise_angstrom),
        ):
            yield from _problems_of_range(name, getattr(self, name), value)


def _problems_of_range(name: str, given: tuple[float, ...], value: float | None) -> Iterator[str]:
    option = f"--{name.replace('_', '-')}"
    if not given:
        return
    if len(given) != 2 or not given[0] < given[1]:
        yield f'{option}: give the lowest and the highest, as in "27 28"'
        return
    least = -360.0 if "twist" in name else 0.1
    if given[0] < least or given[1] > (360 if "twist" in name else 10_000):
        yield f"{option}: {given[0]:g} to {given[1]:g} goes beyond what can be meant"
    elif value is not None and not given[0] < value < given[1]:
        start = name.replace("_range", "").replace("_", "-")
        yield f"{option}: {given[0]:g} to {given[1]:g} does not hold --{start} {value:g}"
