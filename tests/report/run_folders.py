"""Small synthetic run folders, as a refinement leaves them."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from cryorefine.io.mrc import write_volume
from cryorefine.io.star import write_star
from cryorefine.settings import RefineSettings, save_settings

BOX_PX, VOXEL_A, N_PARTICLES = 24, 3.0, 60


def fsc_columns(end_A: float) -> dict[str, np.ndarray]:
    frequency = np.arange(BOX_PX // 2 + 1) / (BOX_PX * VOXEL_A)
    curve = 1 / (1 + np.exp((frequency - 1 / end_A) * 150))
    return {
        "rlnSpectralIndex": np.arange(len(frequency)),
        "rlnResolution": frequency,
        "rlnFourierShellCorrelationCorrected": curve,
        "rlnFourierShellCorrelationUnmaskedMaps": 0.9 * curve,
        "rlnFourierShellCorrelationMaskedMaps": curve,
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": 0.1 * curve,
        "cryorefineFourierShellCorrelationOutsideMask": 0.05 * curve,
    }


def summary(iteration: int, *, finished: bool) -> dict:
    return {
        "resolution_A": 14.0 - 2.58 * iteration,
        "resolution_unmasked_A": 15.0 - 2.5 * iteration,
        "n_particles": N_PARTICLES + 1,
        "n_used": N_PARTICLES,
        "n_rejected": 1,
        "n_left_out": 3 * (iteration - 1),
        "n_not_drawn": 0,
        "iterations": iteration,
        "converged": finished,
        "finished": finished,
        "median_turn_deg": 3.0 / iteration,
        "median_sigma_rotation_deg": 2.0,
        "coverage": 0.87,
        "symmetry": "c1",
        "voxel_A": VOXEL_A,
        "box_px": BOX_PX,
        "wall_s": 40.0 * iteration,
        "cpu_s": 75.0 * iteration,
        "peak_rss_bytes": 1.25e9,
        "bfactor_A2": 80.0,
    }


def particle_blocks() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    n = N_PARTICLES
    shift_A = rng.normal(0, 2, (2, n))
    return {
        "optics": {
            "rlnOpticsGroup": np.array([1]),
            "rlnImagePixelSize": np.array([VOXEL_A]),
            "rlnImageSize": np.array([BOX_PX]),
        },
        "particles": {
            "rlnAngleRot": rng.uniform(-180, 180, n),
            "rlnAngleTilt": np.rad2deg(np.arccos(rng.uniform(-1, 1, n))),
            "rlnAnglePsi": rng.uniform(-180, 180, n),
            "rlnOriginXAngst": shift_A[0],
            "rlnOriginYAngst": shift_A[1],
            "cryorefineScore": rng.normal(50, 8, n),
            "cryorefineCorrelation": rng.normal(0.2, 0.02, n),
            "cryorefineSigmaRotationDeg": rng.normal(2, 0.1, n),
            "cryorefineShiftAtLimit": np.zeros(n, dtype=np.int64),
            "cryorefineAngleDiffDeg": rng.exponential(2, n),
            "cryorefineWeight": rng.uniform(0, 2, n),
            "cryorefinePercentile": np.linspace(0, 1, n),
            "cryorefineDefocusGroup": np.arange(n) // 20 + 1,
            "rlnRandomSubset": np.arange(n) % 2 + 1,
            "rlnDefocusU": 10_000.0 + 100 * np.arange(n),
            "rlnDefocusV": 10_000.0 + 100 * np.arange(n),
        },
    }


def begin_run(run: Path, now: float) -> list[dict]:
    """Write what a run folder holds before its first iteration."""
    run.mkdir()
    settings = RefineSettings(particles=Path("data/particles.star"), reference=(Path("start.mrc"),))
    save_settings(run / "settings.toml", settings)
    manifest = {
        "cryorefine": "0.1.0",
        "packages": {"torch": "2.8"},
        "machine": {"system": "Linux", "processor": "x86_64", "cpus": 4},
        "command": ["cryorefine", "refine", "my particles.star"],
        "inputs": {"data/particles.star": {"size_bytes": 1234, "sha256": "ab" * 32}},
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    start = {
        "time": now - 2,
        "kind": "start",
        "n_particles": N_PARTICLES + 1,
        "n_used": N_PARTICLES,
        "box_px": BOX_PX,
        "voxel_A": VOXEL_A,
        "symmetry": "c1",
    }
    warning = {"time": now - 2, "kind": "warning", "message": "1 image <b>left out</b> & kept"}
    write_events(run, [start, warning])
    return [start, warning]


def write_events(run: Path, events: list[dict]) -> None:
    (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def make_run(run: Path) -> Path:
    """Write a finished run of two iterations."""
    now = time.time()
    events = begin_run(run, now)
    for iteration in (1, 2):
        folder = run / f"iteration_{iteration:03d}"
        folder.mkdir()
        numbers = summary(iteration, finished=iteration == 2)
        (folder / "summary.json").write_text(json.dumps(numbers))
        (folder / "state.npz").write_text("by which a folder is known as an iteration's")
        write_star(folder / "fsc.star", {"fsc": fsc_columns(numbers["resolution_A"])})
        event = {
            "time": now - 1 + 0.1 * iteration,
            "kind": "iteration",
            "iteration": iteration,
            "mode": ("global", "local")[iteration - 1],
            "resolution_A": numbers["resolution_A"],
            "align_resolution_A": 27.0 / iteration,
            "jumped_fraction": 0.5 / iteration,
            "median_turn_deg": numbers["median_turn_deg"],
            "median_sigma_rotation_deg": 2.0,
            "cpu_s": numbers["cpu_s"],
        }
        events.append(event)
    for name in ("summary.json", "fsc.star"):
        shutil.copyfile(run / "iteration_002" / name, run / name)
    write_star(run / "particles.star", particle_blocks())
    grid = torch.arange(BOX_PX) - BOX_PX // 2
    z, y, x = torch.meshgrid(grid, grid, grid, indexing="ij")
    # Off the middle, to tell the axes and their directions apart.
    write_volume(
        run / "map.mrc",
        torch.exp(-((x + 3) ** 2 + (y - 2) ** 2 + (z + 1) ** 2) / 8.0),
        VOXEL_A,
    )
    write_volume(run / "mask.mrc", (x**2 + y**2 + z**2 <= 49).float(), VOXEL_A)
    write_events(run, [*events, {"time": now, "kind": "end", **summary(2, finished=True)}])
    return run
