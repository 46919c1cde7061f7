"""What a simulated set is to be like: one record, made of values that are in range."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from cryorefine.engine.memory import free_bytes
from cryorefine.errors import InputError
from cryorefine.geometry.helix import Helix
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.model.simulate import SimulationPlan
from cryorefine.model.tubes import TubePlan, micrograph_side_px

__all__ = ["SimulationOptions", "make_options"]

_NOISES = ("coloured", "white", "ice")
_POSES = ("uniform", "axis")

_LARGEST_LENGTH_A = 1e6
"""Of the optics and shifts in Å: what particle files may hold, too."""

_RANGES: dict[str, tuple[float, float, str]] = {
    "particles": (1, 10**9, "1 or more, up to a billion"),
    "box_px": (16, 4096, "16 or more, up to 4096"),
    "pixel_angstrom": (0.05, 100, "positive, 0.05 to 100"),
    "snr": (1e-6, 1e6, "positive, 1e-6 to 1e6"),
    "atom_bfactor": (0, 1e6, "0 to 1e6"),
    "imaging_bfactor": (0, 1e6, "0 to 1e6"),
    "defocus_error_angstrom": (0, _LARGEST_LENGTH_A, "0 to 1e6, not negative"),
    "astigmatism_angstrom": (-_LARGEST_LENGTH_A, _LARGEST_LENGTH_A, "-1e6 to 1e6"),
    "voltage_kv": (0.1, 5000, "positive, 0.1 to 5000"),
    "cs_mm": (-100, 100, "-100 to 100"),
    "amplitude_contrast": (0, 1, "0 to 1"),
    "shift_angstrom": (0, 1e5, "0 to 1e5"),
    "axis_tilt_deg": (-360, 360, "-360 to 360"),
    "axis_spread_deg": (0, 360, "0 to 360"),
    "axis_fraction": (0, 1, "0 to 1"),
    "scale_spread": (0, 100, "0 to 100"),
    "optics_groups": (1, 10**6, "1 or more, up to a million"),
    "per_micrograph": (1, 10**9, "1 or more, up to a billion"),
    "reference_angstrom": (0.1, 10_000, "positive, 0.1 to 10000"),
    "diameter_angstrom": (40, 10_000, "40 or more, up to 10000"),
    "helical_twist_deg": (-360, 360, "-360 to 360"),
    "helical_rise_angstrom": (0.1, 10_000, "positive, 0.1 to 10000"),
    "segments_per_tube": (1, 10**6, "1 or more, up to a million"),
    "segment_step_angstrom": (0.1, 1e6, "positive, 0.1 to 1e6"),
    "tube_tilt_spread_deg": (0, 15, "0 to 15"),
    "psi_prior_error_deg": (0, 90, "0 to 90"),
    "seed": (0, 2**62, "0 to 2^62"),
}
"""Least and largest value of the options, and how a message says it. Those that a particle file
has, too, are what one may hold; the others are far beyond use, and keep numbers finite."""

_BYTES_A_VOXEL = 40
"""Of the true map while it is made: single precision, its transform, and copies of both."""

_FILAMENT = 3.4
"""So many times as large is the map that the true one of a filament is cut from."""

_TUBES: dict[str, float] = {
    "segments_per_tube": 10,
    "tube_tilt_spread_deg": 5.0,
    "psi_prior_error_deg": 2.0,
}
"""What is not given of a filament: ten segments are a good piece of one, filaments lie flat in ice
to about 5°, and lines that are drawn along them are right to about 2°. Not measured."""

_STEP_SHARE = 0.1
"""Of the box, from segment to segment: neighbours share nine tenths of their images, as usual."""


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """All options of a simulation, which :func:`cryorefine.simulate` describes."""

    particles: int = 1000
    box_px: int = 128
    pixel_angstrom: float = 2.0
    symmetry: str = "c1"
    assembly: str | None = None
    diameter_angstrom: float = 120.0
    snr: float = 0.05
    noise: Literal["coloured", "white", "ice"] = "coloured"
    atom_bfactor: float | None = None
    imaging_bfactor: float = 0.0
    defocus_angstrom: tuple[float, float] = (8000.0, 20000.0)
    defocus_error_angstrom: float = 0.0
    astigmatism_angstrom: float = 200.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    shift_angstrom: float = 3.0
    poses: Literal["uniform", "axis"] = "uniform"
    axis_tilt_deg: float = 0.0
    axis_spread_deg: float = 15.0
    axis_fraction: float = 1.0
    scale_spread: float = 0.0
    junk_fraction: float = 0.0
    optics_groups: int = 1
    per_micrograph: int = 50
    reference_angstrom: float = 30.0
    seed: int = 0
    helical_twist_deg: float | None = None
    helical_rise_angstrom: float | None = None
    segments_per_tube: int | None = None
    segment_step_angstrom: float | None = None
    tube_tilt_spread_deg: float | None = None
    psi_prior_error_deg: float | None = None

    @property
    def helix(self) -> Helix | None:
        """Of filaments; None: single particles are simulated.

        Raises
        ------
        InputError
            If the point group is not one about an axis.
        """
        if self.helical_twist_deg is None or self.helical_rise_angstrom is None:
            return None
        group = parse_symmetry(self.symmetry)
        if group.name[0] not in "cd" or not group.name[1:].isdecimal():
            raise InputError(
                f"a helix has no point group {group.name}",
                where="--symmetry",
                do="give a cyclic or dihedral one, such as c1, c6 or d1",
            )
        return Helix(
            self.helical_twist_deg,
            self.helical_rise_angstrom,
            int(group.name[1:]),
            is_dihedral=group.name[0] == "d",
        )

    @property
    def tubes(self) -> TubePlan | None:
        """How filaments lie; None: single particles are simulated."""
        if self.helix is None:
            return None
        given = {name: getattr(self, name) for name in _TUBES}
        chosen = {**_TUBES, **{k: v for k, v in given.items() if v is not None}}
        return TubePlan(
            self.helix,
            segments_per_tube=int(chosen["segments_per_tube"]),
            step_A=self.segment_step_angstrom or _STEP_SHARE * self.box_px * self.pixel_angstrom,
            tilt_spread_deg=chosen["tube_tilt_spread_deg"],
            prior_error_deg=chosen["psi_prior_error_deg"],
        )

    @property
    def plan(self) -> SimulationPlan:
        """What to simulate of a particle, whatever it is."""
        low, high = self.defocus_angstrom
        return SimulationPlan(
            n_particles=self.particles,
            box_px=self.box_px,
            pixel_A=self.pixel_angstrom,
            snr=self.snr,
            n_groups=self.optics_groups,
            particles_per_micrograph=self.per_micrograph,
            voltage_kV=self.voltage_kv,
            cs_mm=self.cs_mm,
            amplitude_contrast=self.amplitude_contrast,
            defocus_min_A=low,
            defocus_max_A=high,
            astigmatism_A=self.astigmatism_angstrom,
            defocus_error_A=self.defocus_error_angstrom,
            bfactor_A2=self.imaging_bfactor,
            pose_axis_tilt_deg=self.axis_tilt_deg if self.poses == "axis" else None,
            pose_axis_spread_deg=self.axis_spread_deg,
            pose_axis_fraction=self.axis_fraction,
            shift_A=self.shift_angstrom,
            scale_spread=self.scale_spread,
            junk_fraction=self.junk_fraction,
            noise=self.noise,
            seed=self.seed,
            tubes=self.tubes,
        )


def make_options(values: Mapping[str, Any]) -> SimulationOptions:
    """Return the options of a simulation, with defaults for those that are not given.

    Raises
    ------
    InputError
        If values are out of range: names all of them as options.
    """
    defaults = {field.name: field.default for field in fields(SimulationOptions)}
    v: dict[str, Any] = {**defaults, **values}
    low, high = v["defocus_angstrom"]
    problems = [
        f"--{name.replace('_', '-')} must be {allowed}"
        for name, (least, most, allowed) in _RANGES.items()
        if v[name] is not None and not least <= v[name] <= most  # nor is NaN
    ]
    problems += [
        text
        for bad, text in (
            (v["noise"] not in _NOISES, f"--noise must be one of {', '.join(_NOISES)}"),
            (v["poses"] not in _POSES, f"--poses must be one of {', '.join(_POSES)}"),
            (not low <= high, "--defocus-angstrom must be given as smallest, then largest"),
            (
                max(abs(low), abs(high)) > _LARGEST_LENGTH_A,
                "--defocus-angstrom must be -1e6 to 1e6",
            ),
            (not 0 <= v["junk_fraction"] < 1, "--junk-fraction must be 0 or more, below 1"),
        )
        if bad
    ]
    problems += _problems_of_tubes(v)
    if problems:
        raise InputError("; ".join(problems), do="correct the options")
    options = SimulationOptions(**v)
    _require_room_for_tubes(options)
    n_voxels = v["box_px"] ** 3 * (1 if options.tubes is None else _FILAMENT)
    _require_memory(v["particles"], v["box_px"], n_voxels)
    return options


def _problems_of_tubes(v: Mapping[str, Any]) -> list[str]:
    """Say which options of filaments do not go together."""
    both = ("helical_twist_deg", "helical_rise_angstrom")
    shown = [f"--{name.replace('_', '-')}" for name in both]
    is_helical = [v[name] is not None for name in both]
    problems = [
        f"{one} needs {other}"
        for one, other, given in zip(shown, shown[::-1], is_helical, strict=True)
        if given and not all(is_helical)
    ]
    if not any(is_helical):
        names = [name for name in (*_TUBES, "segment_step_angstrom") if v[name] is not None]
        problems += [f"--{n.replace('_', '-')} needs {shown[0]} and {shown[1]}" for n in names]
    elif v["poses"] != "uniform":
        problems.append("--poses axis cannot be of a helix, which is seen from its side")
    return problems


def _require_room_for_tubes(options: SimulationOptions) -> None:
    """Refuse a helix that does not repeat in the box, and tubes longer than a micrograph."""
    tubes, box_px, pixel_A = options.tubes, options.box_px, options.pixel_angstrom
    if tubes is None:
        return
    if tubes.helix.rise_A > box_px * pixel_A / 2:
        raise InputError(
            f"a rise of {tubes.helix.rise_A:g} Å does not repeat within a box of "
            f"{box_px * pixel_A:g} Å",
            where="--helical-rise-angstrom",
            do="give a smaller rise, or a larger box or pixel",
        )
    longest = min(tubes.segments_per_tube, options.particles, options.per_micrograph)
    length_px = (longest - 1) * tubes.step_A / pixel_A + box_px
    # Picks may stray by a few standard deviations.
    length_px += 10 * options.shift_angstrom / pixel_A
    side_px = micrograph_side_px(box_px)
    if length_px > side_px:
        raise InputError(
            f"a tube of {longest} segments is {length_px:.0f} pixels long, and a micrograph has "
            f"{side_px}",
            where="--segments-per-tube, --segment-step-angstrom, --shift-angstrom",
            do="give fewer segments, a smaller step or a smaller shift",
        )


def _require_memory(n_particles: int, box_px: int, n_voxels: float) -> None:
    """Refuse a set that this machine cannot hold: all images, in half precision, and a map."""
    needed = 2 * n_particles * box_px**2 + _BYTES_A_VOXEL * n_voxels
    free = free_bytes()
    if needed > free:
        raise InputError(
            f"{n_particles} images of {box_px} pixels and their map need {needed / 1e9:.0f} GB of "
            f"memory, and {free / 1e9:.0f} GB are free",
            where="--particles, --box-px",
            do="give fewer particles or a smaller box",
        )
