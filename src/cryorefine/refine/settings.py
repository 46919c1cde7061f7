"""What a user can choose. One model: the command line, the TOML file and the run folder use it."""

import json
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text

__all__ = ["RefineSettings", "load_settings", "make_settings", "save_settings"]


class RefineSettings(BaseModel):
    """Settings of a refinement; frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    particles: Path = Field(description="Particle STAR file (RELION 3.1 to 5).")
    reference: tuple[Path, ...] = Field(
        (),
        max_length=2,
        description="Initial map; two maps start one half each; none: reconstructed from the "
        "poses in the particle file.",
    )
    symmetry: str = Field("c1", description="Point group: cN, dN, t, o, i1 to i4 (RELION's axes).")
    alignment: Literal["automatic", "global", "local", "none"] = Field(
        "automatic",
        description="global searches all orientations at every iteration; local starts from the "
        "poses in the particle file; automatic goes from global to local by itself; none keeps "
        "the poses of the file.",
    )
    automatic_schedule: Literal["data", "fixed"] = Field(
        "data",
        description="Schedule of automatic alignment. data: the FSC and the changes of poses tell "
        "when it turns local and when it ends; fixed: 3 global and 2 local iterations, or of "
        "--iterations the last two fifths local.",
    )
    iterations: int | None = Field(
        None,
        ge=1,
        description="Iterations; automatic: at most this many (default 25), else exactly "
        "(default 3; automatic by a fixed schedule: 5; none: 1).",
    )
    particle_radius_px: float | None = Field(
        None,
        gt=0,
        description="Radius of a sphere that holds the particle, in image pixels "
        "(default: measured on the reference).",
    )
    initial_lowpass_angstrom: float = Field(
        30.0, gt=0, description="Low-pass of the initial map, the same for both halves."
    )
    reference_voxel_angstrom: float | None = Field(
        None, gt=0, description="Voxel size of the initial map, if its header is wrong."
    )
    mask: Path | None = Field(
        None,
        description="Soft mask, 0 to 1, for references and resolution (default: a sphere for the "
        "references, a mask found in the map for the resolution).",
    )
    max_shift_percent: float = Field(
        10.0, gt=0, le=50, description="Largest shift, in percent of the box."
    )
    min_tilt_deg: float = Field(
        0.0, ge=0, le=180, description="Smallest viewing tilt; 0 is a top view, 90 a side view."
    )
    max_tilt_deg: float = Field(180.0, ge=0, le=180, description="Largest viewing tilt.")
    fsc_criterion: float = Field(
        0.143, gt=0, lt=1, description="Value of the FSC that defines the resolution."
    )
    ctf: bool = Field(True, description="Whether the images have contrast transfer.")
    refine_grey: bool = Field(
        False, description="Refine grey scale and offset of every particle (local iterations)."
    )
    refine_scale: bool = Field(
        False, description="Refine the magnification of every particle (local iterations)."
    )
    refine_magnification: bool = Field(
        False,
        description="Refine the magnification of every particle along each axis, and their "
        "directions (local iterations).",
    )
    refine_defocus: bool = Field(
        False,
        description="Refine defocus and astigmatism of every particle (local iterations).",
    )
    max_grey_scale_change_percent: float = Field(
        50.0, gt=0, lt=100, description="Largest change of a particle's grey scale."
    )
    max_grey_offset: float = Field(
        3.0,
        gt=0,
        description="Largest grey offset of a particle, in standard deviations of its background.",
    )
    max_magnification_change_percent: float = Field(
        2.0, gt=0, le=10, description="Largest change of a particle's magnification on any axis."
    )
    max_defocus_change_angstrom: float = Field(
        1000.0, gt=0, description="Largest change of a particle's defocus on any axis."
    )
    compare_to: Path | None = Field(
        None,
        description="A known map, in place, to show the FSC against; never used to refine.",
    )
    seed: int = Field(0, ge=0, description="Seed of all random choices.")
    threads: int | None = Field(None, ge=1, description="CPU threads (default: all).")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N.",
    )

    @model_validator(mode="after")
    def _check_tilts(self) -> "RefineSettings":
        if self.min_tilt_deg >= self.max_tilt_deg:
            raise ValueError(
                f"--min-tilt-deg {self.min_tilt_deg:g} is not below --max-tilt-deg "
                f"({self.max_tilt_deg:g})"
            )
        return self

    @model_validator(mode="after")
    def _check_alignment(self) -> "RefineSettings":
        if self.alignment == "none" and (self.iterations or 1) != 1:
            raise ValueError("--iterations: alignment 'none' has exactly one iteration")
        if self.alignment == "none" and self.reference:
            raise ValueError("--reference: alignment 'none' uses no initial map")
        if self.automatic_schedule == "fixed" and self.alignment != "automatic":
            raise ValueError(
                f"--automatic-schedule: alignment '{self.alignment}' does not follow it"
            )
        return self

    @model_validator(mode="after")
    def _check_refined_optics(self) -> "RefineSettings":
        if self.refines_optics and self.alignment not in ("automatic", "local"):
            raise ValueError(
                "--refine-grey, --refine-scale, --refine-magnification and --refine-defocus act in "
                f"local iterations; alignment {self.alignment!r} has none"
            )
        if self.refine_defocus and not self.ctf:
            raise ValueError("--refine-defocus: images without contrast transfer have no defocus")
        return self

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
        return 1 if self.alignment == "none" else 3


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def make_settings(values: dict[str, Any], *, where: str = "") -> RefineSettings:
    """Return validated settings.

    Raises
    ------
    InputError
        Listing every problem at once, by option name.
    """
    try:
        return RefineSettings(**values)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = _option(str(item["loc"][0])) if item["loc"] else ""
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message = "no such setting"
            given = (
                "" if item["type"] in ("missing", "value_error") else f" (given: {item['input']})"
            )
            problems.append(f"{name} {message}{given}".strip())
        raise InputError("; ".join(problems), where=where, do="correct the options") from None


def load_settings(path: Path) -> dict[str, Any]:
    """Read settings from a TOML file as a plain table.

    Raises
    ------
    InputError
        If the file is missing or not TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise InputError("no such settings file", where=str(path), do="check the path") from None
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror})", where=str(path), do="check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not a TOML file ({error})", where=str(path), do="correct it") from None


def save_settings(path: Path, settings: RefineSettings) -> None:
    """Write resolved settings as TOML, each with its description; unset ones as comments."""
    lines = []
    for name, info in RefineSettings.model_fields.items():
        value = getattr(settings, name)
        lines.append(f"# {info.description}")
        lines.append(f"# {name} =" if value is None else f"{name} = {_toml(value)}")
        lines.append("")
    write_text(path, "\n".join(lines))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    # TOML's escapes are those of JSON, and of DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
