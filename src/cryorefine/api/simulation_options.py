"""What a simulated set is to be like: one record, made of values that are in range."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from cryorefine.errors import InputError
from cryorefine.model.simulate import SimulationPlan

__all__ = ["SimulationOptions", "make_options"]

_NOISES = ("coloured", "white", "ice")
_POSES = ("uniform", "axis")


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
        text
        for bad, text in (
            (v["particles"] < 1, "--particles must be 1 or more"),
            (v["noise"] not in _NOISES, f"--noise must be one of {', '.join(_NOISES)}"),
            (v["poses"] not in _POSES, f"--poses must be one of {', '.join(_POSES)}"),
            (v["box_px"] < 16, "--box-px must be 16 or more"),
            (v["pixel_angstrom"] <= 0, "--pixel-angstrom must be positive"),
            (v["snr"] <= 0, "--snr must be positive"),
            (low > high, "--defocus-angstrom must be given as smallest, then largest"),
            (not 0 <= v["junk_fraction"] < 1, "--junk-fraction must be 0 or more, below 1"),
            (not 0 <= v["axis_fraction"] <= 1, "--axis-fraction must be 0 to 1"),
            (v["defocus_error_angstrom"] < 0, "--defocus-error-angstrom must not be negative"),
            (not 0 <= v["amplitude_contrast"] <= 1, "--amplitude-contrast must be 0 to 1"),
            (v["optics_groups"] < 1, "--optics-groups must be 1 or more"),
            (v["per_micrograph"] < 1, "--per-micrograph must be 1 or more"),
            (v["voltage_kv"] <= 0, "--voltage-kv must be positive"),
            (v["reference_angstrom"] <= 0, "--reference-angstrom must be positive"),
            (v["diameter_angstrom"] < 40, "--diameter-angstrom must be 40 or more"),
        )
        if bad
    ]
    if problems:
        raise InputError("; ".join(problems), do="correct the options")
    return SimulationOptions(**v)
