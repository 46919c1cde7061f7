"""Small files and values that tests are made of, written without the code under test."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cryorefine.errors import InputError
from cryorefine.evaluate.fsc import FscCurves
from cryorefine.geometry.helix import Helix
from cryorefine.geometry.symmetry import parse_symmetry
from cryorefine.model.atoms import Atoms
from cryorefine.model.filament import filament_atoms, filament_map
from cryorefine.model.observe import ImageStatistics
from cryorefine.model.phantom import make_phantom
from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.table import ParticleTable
from cryorefine.records.checkpoint_record import Checkpoint, OpticsSampling, SegmentConstants
from cryorefine.refine.image_statistics import Screening
from cryorefine.state.plan import IterationRecord
from cryorefine.state.scores import ParticleScores
from cryorefine.state.state import Evaluation, Poses, State

Columns = Mapping[str, Sequence[object]]


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """Expect an InputError of one line that holds all ``parts`` and says what to do."""
    with pytest.raises(InputError) as caught:
        yield
    text = str(caught.value)
    assert len(text.splitlines()) == 1, text
    assert caught.value.do, text
    for part in parts:
        assert part in text, f"{part!r} is not in {text!r}"


def line_of(path: Path, text: str) -> int:
    """Return the number of the only line of a file that holds a text."""
    found = [i for i, line in enumerate(path.read_text().split("\n"), 1) if text in line]
    assert len(found) == 1, found
    return found[0]


def loop(name: str, columns: Columns) -> str:
    """Return the text of a loop block; values are written bare, as they are."""
    lines = [f"data_{name}", "", "loop_"]
    lines += [f"_{label} #{i}" for i, label in enumerate(columns, 1)]
    lines += [" ".join(str(v) for v in row) for row in zip(*columns.values(), strict=True)]
    return "\n".join([*lines, "", ""])


def optics_columns(n: int = 1, **changes: object) -> dict[str, Sequence[object]]:
    """Return a plain optics block; a change is a value, a list of values, or None to leave out."""
    columns: dict[str, Sequence[object]] = {
        "rlnOpticsGroup": range(1, n + 1),
        "rlnOpticsGroupName": [f"opticsGroup{i}" for i in range(1, n + 1)],
        "rlnVoltage": [300.0] * n,
        "rlnSphericalAberration": [2.7] * n,
        "rlnAmplitudeContrast": [0.1] * n,
        "rlnImagePixelSize": [1.5] * n,
        "rlnImageSize": [8] * n,
        "rlnImageDimensionality": [2] * n,
    }
    return _changed(columns, n, changes)


def particle_columns(
    n: int, *, stack: str = "stack.mrcs", **changes: object
) -> dict[str, Sequence[object]]:
    """Return a plain particle block without poses or half sets."""
    columns: dict[str, Sequence[object]] = {
        "rlnImageName": [f"{i:06d}@{stack}" for i in range(1, n + 1)],
        "rlnMicrographName": [f"mic{i // 2}.mrc" for i in range(n)],
        "rlnOpticsGroup": [1] * n,
        "rlnDefocusU": [10000.0 + i for i in range(n)],
        "rlnDefocusV": [9900.0 + i for i in range(n)],
        "rlnDefocusAngle": [30.0] * n,
    }
    return _changed(columns, n, changes)


def _changed(columns: dict[str, Sequence[object]], n: int, changes: Mapping[str, object]):
    for label, value in changes.items():
        if value is None:
            columns.pop(label)
        elif isinstance(value, list):
            columns[label] = value
        else:
            columns[label] = [value] * n
    return columns


def write_particle_star(
    path: Path, particles: Columns | None = None, optics: Columns | None = None
) -> Path:
    """Write a RELION 3.1 particle file; two particles and one optics group by default."""
    blocks = {
        "optics": optics_columns() if optics is None else optics,
        "particles": particle_columns(2) if particles is None else particles,
    }
    path.write_text("\n".join(loop(name, columns) for name, columns in blocks.items()))
    return path


def write_mrc(
    path: Path,
    data: np.ndarray,
    *,
    pixel_A: float = 1.5,
    byte_order: str = "<",
    axes: tuple[int, int, int] = (1, 2, 3),
    extended: bytes = b"",
) -> Path:
    """Write an MRC file byte by byte after the MRC2014 table.

    Parameters
    ----------
    axes
        MAPC, MAPR, MAPS.
    extended
        Content of the extended header.
    """
    modes = {"i1": 0, "i2": 1, "f4": 2, "u2": 6, "f2": 12}
    kind = data.dtype.str[1:]
    nz, ny, nx = data.shape
    header = bytearray(1024)
    words = struct.pack(f"{byte_order}10i", nx, ny, nz, modes[kind], 0, 0, 0, nx, ny, nz)
    words += struct.pack(f"{byte_order}6f", nx * pixel_A, ny * pixel_A, nz * pixel_A, 90, 90, 90)
    words += struct.pack(f"{byte_order}3i", *axes)
    header[: len(words)] = words
    header[92:96] = struct.pack(f"{byte_order}i", len(extended))
    header[208:212] = b"MAP "
    header[212:216] = b"\x44\x44\x00\x00" if byte_order == "<" else b"\x11\x11\x00\x00"
    path.write_bytes(bytes(header) + extended + data.astype(byte_order + kind).tobytes())
    return path


def make_table(
    n: int,
    *,
    micrograph: Sequence[int] | None = None,
    stack: Sequence[int] | None = None,
    image: Sequence[int] | None = None,
    half: Sequence[int] | None = None,
    optics: tuple[OpticsGroup, ...] = (OpticsGroup("group", 1.5, 8),),
    optics_index: Sequence[int] | None = None,
    folder: Path = Path("/data"),
) -> ParticleTable:
    """Return a table of ``n`` particles of one stack, without poses, that exists in memory only."""
    zeros = np.zeros(n)
    stack_index = np.array(zeros if stack is None else stack, np.int32)
    image_index = np.array(np.arange(n) if image is None else image, np.int64)
    stacks = tuple(folder / f"s{i}.mrcs" for i in range(int(stack_index.max(initial=0)) + 1))
    names = np.array(
        [f"{i + 1:06d}@s{s}.mrcs" for s, i in zip(stack_index, image_index, strict=True)]
    )
    micrographs = () if micrograph is None else tuple(f"m{i}" for i in range(max(micrograph) + 1))
    return ParticleTable(
        stacks=stacks,
        stack_index=stack_index,
        image_index=image_index,
        optics=optics,
        optics_index=np.array(zeros if optics_index is None else optics_index, np.int32),
        micrographs=micrographs,
        micrograph_index=np.array(np.arange(n) if micrograph is None else micrograph, np.int64),
        euler_rad=np.zeros((n, 3)),
        shift_A=np.zeros((n, 2)),
        has_pose=False,
        defocus_u_A=zeros + 10000.0,
        defocus_v_A=zeros + 9900.0,
        defocus_angle_rad=zeros,
        phase_shift_rad=zeros,
        bfactor_A2=zeros,
        ctf_scale=zeros + 1.0,
        half_set=np.array(zeros if half is None else half, np.int8),
        names=names.reshape(n),
        source=folder / "particles.star",
    )


def make_record(iteration: int = 1, **changes) -> IterationRecord:
    """Return an iteration that aligned globally, still gains and still moves its particles."""
    values = {
        "iteration": iteration,
        "mode": "global",
        "resolution_A": 20.0,
        "align_resolution_A": 25.0,
        "reconstruct_resolution_A": 15.0,
        "median_turn_deg": 5.0,
        "jumped_fraction": 0.5,
        "median_sigma_rotation_deg": 1.0,
    }
    values |= changes
    values.setdefault("jumped_at_least", values["jumped_fraction"])
    values.setdefault("mean_fsc", 1 / values["resolution_A"])
    return IterationRecord(**values)


def make_state(
    iteration: int, *, n: int = 5, size_px: int = 16, n_groups: int = 2, compared: bool = True
) -> State:
    """Return a state of random numbers; before the first iteration it has neither poses nor maps.

    Noise spectra differ in length between groups, and the history has values that do not exist.
    """
    generator = torch.Generator().manual_seed(iteration)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    def pair() -> tuple[torch.Tensor, torch.Tensor]:
        return draw(size_px, size_px, size_px), draw(size_px, size_px, size_px)

    def spectra() -> tuple[torch.Tensor, ...]:
        return tuple(draw(6 + g, dtype=torch.float64).abs() for g in range(n_groups))

    poses = evaluation = halves = mask = None
    if iteration > 0:
        turn = draw(n, 3, 3, dtype=torch.float64)
        gap = draw(n, dtype=torch.float64)
        gap[0] = torch.inf
        poses = Poses(
            torch.linalg.matrix_exp(turn - turn.mT),
            draw(n, 2, dtype=torch.float64),
            ParticleScores(score=draw(n).double(), gap=gap, at_shift_limit=(draw(n) > 0).double()),
        )
        n_shells = size_px // 2 + 1
        curves = FscCurves(*(draw(n_shells, dtype=torch.float64) for _ in range(6)), float("inf"))
        comparison = draw(n_shells, dtype=torch.float64) if compared else None
        evaluation = Evaluation(curves, 1 / 3, float("inf"), comparison, 0.1 + 0.2, 7.3)
        halves = pair()
        mask = draw(size_px, size_px, size_px).clamp(0, 1)
    return State(
        iteration=iteration,
        poses=poses,
        references=pair(),
        is_scaled=iteration > 0,
        group_scale=((1.0,) * n_groups, (1.25,) * n_groups),
        noise=(spectra(), spectra()),
        halves=halves,
        mask=mask,
        evaluation=evaluation,
        history=[
            make_record(
                i,
                resolution_A=float("inf") if i == 1 else 10 / 3,
                median_turn_deg=float("nan") if i == 1 else 0.1,
            )
            for i in range(1, iteration + 1)
        ],
    )


def make_checkpoint(state: State, *, n_unused: int = 1, **changes: Any) -> Checkpoint:
    """Return a checkpoint with a state; the first particles of its file are not used.

    Changes go to its constants.
    """
    n = 5 if state.poses is None else len(state.poses.rotations)
    half = (np.arange(n) % 2 + 1).astype(np.int8)
    n_groups = len(state.noise[0])
    values = torch.arange(n_unused + n, dtype=torch.float32)
    reasons = ("constant",) * n_unused + ("",) * n
    constants = SegmentConstants(
        half=half,
        screening=Screening(ImageStatistics(values / 3, values / 7), reasons),
        radius_px=10 / 3,
        voxel_A=1.3,
        optics=tuple(OpticsSampling(f"α{g}", 1.3 - g / 100, 16 + g) for g in range(n_groups)),
        registry=None,
    )
    return Checkpoint(state, replace(constants, **changes), (0.1 + 0.2, 1e9), False)


@cache
def phantom(symmetry: str, diameter_A: float, seed: int) -> Atoms:
    """Return a made-up particle, made once for all tests of a process that ask for the same."""
    return make_phantom(parse_symmetry(symmetry), diameter_A=diameter_A, seed=seed)


def helical_map(
    helix: Helix, size_px: int, voxel_A: float, *, bfactor_A2: float = 900.0, seed: int = 0
) -> torch.Tensor:
    """Return a map of an exact helix, longer than the box, of made-up subunits of 150 atoms.

    They lie along the radius: rounder ones at a rise of 7 Å and 9 Å of detail are nearly alike
    after half a step and half a turn, so that no search could tell.
    """
    return _helical_map(helix, size_px, voxel_A, bfactor_A2, seed).clone()


@cache
def _helical_map(
    helix: Helix, size_px: int, voxel_A: float, bfactor_A2: float, seed: int
) -> torch.Tensor:
    """Make the map, once for all tests of a process that ask for the same."""
    rng = np.random.default_rng(seed)
    far_A = 0.3 * size_px * voxel_A
    radius = far_A * np.sqrt(rng.uniform((8 / far_A) ** 2, 1, 150))
    unit = Atoms(
        xyz_A=np.stack([radius, rng.normal(0, 8, 150), rng.normal(0, 8, 150)], -1),
        gaussian_a=np.array([[0.73, 1.19, 0.46, 0.12, 0.0]]),
        gaussian_b_A2=np.array([[37.0, 11.3, 2.8, 0.35, 0.0]]),
        type_index=np.zeros(150, np.int64),
        bfactor_A2=np.full(150, bfactor_A2),
        occupancy=np.ones(150),
    )
    atoms = filament_atoms(unit, helix, box_A=size_px * voxel_A)
    return filament_map(atoms, size_px=size_px, voxel_A=voxel_A)
