"""What a user can choose. One model: the command line, the TOML file and the run folder use it."""

import json
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cryorefine.errors import InputError
from cryorefine.io.atomic import write_text

__all__ = ["RefineSettings", "load_settings", "make_settings", "save_settings"]

_UNUSED_WITHOUT_ALIGNMENT = (
    "reference_mask",
    "reference_shape",
    "resolution_offset_angstrom",
    "positivity",
    "dropout",
    "reference_command",
    "target_resolution",
    "multiresolution",
)


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
    alignment: Literal["automatic", "global", "local", "stochastic", "none"] = Field(
        "automatic",
        description="global searches all orientations at every iteration; local starts from the "
        "poses in the particle file; automatic goes from global to local by itself; stochastic "
        "searches for a random subset at each iteration and mixes its map into the one before; "
        "none keeps the poses of the file.",
    )
    automatic_schedule: Literal["data", "fixed"] = Field(
        "data",
        description="Schedule of automatic alignment. data: the FSC and the changes of poses tell "
        "when it becomes local and when it ends; fixed: 3 global and 2 local iterations, or of "
        "--iterations the last two fifths local.",
    )
    iterations: int | None = Field(
        None,
        ge=1,
        description="Iterations; automatic: at most this many (default 25), else exactly "
        "(default 3; automatic by a fixed schedule: 5; stochastic: 20; none: 1).",
    )
    stochastic_subset: int = Field(
        250, ge=1, description="Particles of each half in an iteration of stochastic alignment."
    )
    stochastic_mixing: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Share of the new subset in the sums of a stochastic reconstruction.",
    )
    target_resolution: tuple[float, ...] = Field(
        (),
        description='Finest detail that poses are compared at, by iteration, such as "15 8 4" in Å;'
        " the last holds for all later ones. At most twice as fine as the last resolution, in local"
        " iterations 1.25 times (default: a tenth beyond the last resolution).",
    )
    multiresolution: bool = Field(
        True, description="Compare coarse detail first; otherwise all of it at every iteration."
    )
    fourier_padding: float = Field(
        1.5,
        ge=1.25,
        le=3,
        description="Grid points per Fourier coefficient of references and sums: more is more "
        "exact, and costs its third power.",
    )
    particle_radius_px: float | None = Field(
        None,
        gt=0,
        description="Radius of a sphere that holds the particle, in image pixels "
        "(default: measured on the reference).",
    )
    initial_lowpass_angstrom: float = Field(
        30.0,
        gt=0,
        description="Low-pass of the initial map, the same for both halves; local alignment starts "
        "at the resolution that the given poses support unless this is given.",
    )
    reference_voxel_angstrom: float | None = Field(
        None, gt=0, description="Voxel size of the initial map, if its header is wrong."
    )
    mask: Path | None = Field(
        None,
        description="Soft mask, 0 to 1, for references and resolution (default: a sphere for the "
        "references, a mask found in the map for the resolution).",
    )
    reference_mask: Path | None = Field(
        None, description="Soft mask, 0 to 1, for the references only, instead of --mask."
    )
    reference_shape: Literal["found", "sphere", "cylinder", "none"] = Field(
        "found",
        description="What confines references where no mask is given. found: a sphere of the "
        "particle's radius, and less noise outside a mask found in the map; sphere; cylinder (about"
        " z, for filaments); none.",
    )
    resolution_offset_angstrom: float | None = Field(
        None,
        description="Low-pass the next references at the resolution plus this (default: no more "
        "than the FSC damps them).",
    )
    positivity: bool = Field(False, description="Set negative density of references to 0.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability that a voxel of the next reference, inside its mask, is set to 0.",
    )
    reference_command: str | None = Field(
        None,
        description="Command that changes each next reference in place; {volume}, {sampling}, "
        "{dim}, {half} and {iteration} are replaced.",
    )
    post_mask: Path | None = Field(
        None, description="Mask, 0 to 1, of map_processed.mrc; nothing else sees it."
    )
    post_command: str | None = Field(
        None,
        description="Command that changes map_processed.mrc in place, as --reference-command does.",
    )
    command_shell: bool = Field(
        False, description="Run the commands by a shell; otherwise words are only split."
    )
    max_shift_percent: float = Field(
        10.0, gt=0, le=50, description="Largest shift, in percent of the box."
    )
    min_tilt_deg: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Smallest viewing tilt; 0 is a top view, 90 a side view. Poses given outside "
        "the limits are set aside by local alignment and 'none'.",
    )
    max_tilt_deg: float = Field(180.0, ge=0, le=180, description="Largest viewing tilt.")
    fsc_criterion: float = Field(
        0.143, gt=0, lt=1, description="Value of the FSC that defines the resolution."
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
    max_energy: float = Field(
        30.0,
        gt=1,
        description="Images of more power than this many times their background's are rejected.",
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
    weight_ssnr: bool = Field(
        False, description="Weight particles by the signal-to-noise ratio of their images."
    )
    weight_cost: bool = Field(
        False, description="Weight particles by their correlation in local iterations."
    )
    weight_stability: bool = Field(
        False, description="Weight particles by how little their pose changed in two iterations."
    )
    weight_cc: bool = Field(
        False,
        description="Weight particles by the percentile of their correlation among those of like "
        "defocus.",
    )
    min_cc_weight: float = Field(
        0.1, ge=0, le=1, description="Weight of the lowest percentile, for --weight-cc."
    )
    refine_shifts: bool = Field(True, description="Refine shifts in local iterations.")
    refine_angles: bool = Field(True, description="Refine angles in local iterations.")
    max_shift_change_percent: float | None = Field(
        None,
        gt=0,
        le=50,
        description="Largest change of a shift in a local iteration, in percent of the box "
        "(default: no limit but --max-shift-percent).",
    )
    max_angle_change_deg: float | None = Field(
        None,
        gt=0,
        le=180,
        description="Largest rotation in a local iteration (default: no limit).",
    )
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
    intermediate: Literal["keep", "remove"] = Field(
        "remove",
        description="Whether references, and sums of stochastic runs, of all iterations are kept.",
    )
    compare_to: Path | None = Field(
        None,
        description="A known map, in place, to show the FSC against; never used to refine.",
    )
    seed: int = Field(0, ge=0, description="Seed of all random choices.")
    threads: int | None = Field(None, ge=1, description="CPU threads (default: all).")
    workers: int | None = Field(
        None,
        ge=1,
        description="Worker processes that share the threads; one that is killed is replaced, and "
        "its work done again (default: none, threads of one process). On the CPU only.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N.",
    )

    @field_validator("target_resolution", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_together(self) -> "RefineSettings":
        problems = [*self._ranges(), *self._alignment(), *self._local(), *self._images()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _ranges(self) -> Iterator[str]:
        for low, high in (
            ("min_tilt_deg", "max_tilt_deg"),
            ("reconstruct_min_tilt_deg", "reconstruct_max_tilt_deg"),
        ):
            if getattr(self, low) >= getattr(self, high):
                yield (
                    f"{_option(low)} {getattr(self, low):g} is not below {_option(high)} "
                    f"({getattr(self, high):g})"
                )
        if any(not 0 < value < math.inf for value in self.target_resolution):
            yield "--target-resolution: resolutions are positive numbers of Å"
        if self.command_shell and not (self.reference_command or self.post_command):
            yield "--command-shell: there is no command (--reference-command, --post-command)"

    def _alignment(self) -> Iterator[str]:
        if self.alignment == "none" and (self.iterations or 1) != 1:
            yield "--iterations: alignment 'none' has exactly one iteration"
        if self.alignment == "none" and self.reference:
            yield "--reference: alignment 'none' uses no initial map"
        if self.automatic_schedule == "fixed" and self.alignment != "automatic":
            yield f"--automatic-schedule: alignment '{self.alignment}' does not follow it"
        if self.target_resolution and not self.multiresolution:
            yield "--target-resolution: without multiresolution all detail is compared at once"
        if self.alignment == "none":
            for name in _UNUSED_WITHOUT_ALIGNMENT:
                if getattr(self, name) != type(self).model_fields[name].default:
                    yield f"{_option(name)}: alignment 'none' compares with no next reference"

    def _local(self) -> Iterator[str]:
        if self.refines_optics and not self.has_local_iterations:
            yield (
                "--refine-grey, --refine-scale, --refine-magnification and --refine-defocus act in "
                f"local iterations; alignment {self.alignment!r} has none"
            )
        limits = self.max_shift_change_percent, self.max_angle_change_deg
        is_free = self.refine_shifts and self.refine_angles and limits == (None, None)
        if not is_free and not self.has_local_iterations:
            yield (
                "--no-refine-shifts, --no-refine-angles, --max-shift-change-percent and "
                f"--max-angle-change-deg act in local iterations; alignment {self.alignment!r} has "
                "none"
            )
        if self.weight_cost and not self.has_local_iterations:
            yield f"--weight-cost acts in local iterations; alignment {self.alignment!r} has none"

    def _images(self) -> Iterator[str]:
        if self.refine_defocus and not self.ctf:
            yield "--refine-defocus: images without contrast transfer have no defocus"
        if self.phase_flipped and self.ctf_premultiplied:
            yield "--phase-flipped and --ctf-premultiplied exclude each other"
        if self.refine_defocus and self.ctf_premultiplied:
            yield "--refine-defocus: images multiplied by their CTF hold no other defocus"
        if not self.ctf and (self.phase_flipped or self.ctf_premultiplied):
            yield "--phase-flipped, --ctf-premultiplied: the images have no contrast transfer"

    @property
    def has_local_iterations(self) -> bool:
        """Whether any iteration starts from the poses of the one before."""
        return self.alignment in ("automatic", "local")

    @property
    def starts_from_poses(self) -> bool:
        """Whether the given poses' half maps tell at what resolution the run begins."""
        return self.alignment == "local" and (
            "initial_lowpass_angstrom" not in self.model_fields_set
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
    """Write resolved settings as TOML, each with its description; unset ones as comments.

    The initial low-pass is one of them where it was not given: a local run begins elsewhere then.
    """
    lines = []
    for name, info in RefineSettings.model_fields.items():
        value = getattr(settings, name)
        lines.append(f"# {info.description}")
        is_free = name == "initial_lowpass_angstrom" and name not in settings.model_fields_set
        if value is None or is_free:
            lines.append(f"# {name} =" + (f" {_toml(value)}" if is_free else ""))
        else:
            lines.append(f"{name} = {_toml(value)}")
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
