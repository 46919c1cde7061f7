"""Tables with everything that formats may differ in, beside stacks that are there."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from cryorefine.optics.group import OpticsGroup
from cryorefine.particles.table import ParticleTable
from tests.builders import write_mrc

__all__ = ["POSE_ERROR_RAD", "assert_same_where_held", "full_table"]

N = 12
POSE_ERROR_RAD = 2e-6
"""Single precision of a rotation vector of up to π, and six decimals of degrees."""


def full_table(folder: Path) -> ParticleTable:
    """Return particles of two optics groups in three stacks, with all that a table can hold."""
    random = np.random.default_rng(3)
    stacks = []
    for i, (n, box_px) in enumerate(((5, 8), (4, 8), (3, 6))):
        stacks.append(folder / f"stack{i}.mrcs")
        images = random.normal(size=(n, box_px, box_px)).astype(np.float32)
        write_mrc(stacks[-1], images, pixel_A=(1.5, 1.5, 2.0)[i])
    groups = (
        OpticsGroup(
            "low dose", 1.5, 8, 300.0, 2.7, 0.1, (0.2, -0.4), (0.0, 0.1, 0.5), (0.1, 0.0, 0.3),
            (1.01, 0.002, -0.001, 0.99), correction="phase_flipped",
        ),
        OpticsGroup("second", 2.0, 6, 200.0, 1.4, 0.07, (-0.1, 0.3), correction="phase_flipped"),
    )  # fmt: skip
    index = np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2])
    stack = np.repeat([0, 1, 2], [5, 4, 3])
    order = random.permutation(N)
    index, stack = index[order], stack[order]
    return ParticleTable(
        stacks=tuple(stacks),
        stack_index=stack.astype(np.int32),
        image_index=index.astype(np.int64),
        optics=groups,
        optics_index=(stack == 2).astype(np.int32),
        micrographs=("a.mrc", "b c.mrc"),
        micrograph_index=np.arange(N, dtype=np.int64) % 2,
        euler_rad=random.uniform(0.05, 3.0, (N, 3)),
        shift_A=random.normal(0, 2, (N, 2)),
        has_pose=True,
        defocus_u_A=random.uniform(9000, 20000, N),
        defocus_v_A=random.uniform(9000, 20000, N),
        defocus_angle_rad=random.uniform(-1.5, 1.5, N),
        phase_shift_rad=random.uniform(0.1, 1.5, N),
        bfactor_A2=random.uniform(1, 30, N),
        ctf_scale=random.uniform(0.8, 1.2, N),
        half_set=(1 + np.arange(N) % 2).astype(np.int8),
        names=np.array([f"{i + 1:06d}@stack{s}.mrcs" for i, s in zip(index, stack, strict=True)]),
        extra={"rlnClassNumber": np.array([b"3"] * N)},
        source=folder / "made.star",
    )


PLAIN = {
    "poses": {"euler_rad": 0.0, "shift_A": 0.0, "has_pose": False},
    "half_sets": {"half_set": 0},
    "phase_shift": {"phase_shift_rad": 0.0},
    "bfactor": {"bfactor_A2": 0.0},
    "ctf_scale": {"ctf_scale": 1.0},
    "micrographs": {"micrographs": (), "micrograph_index": None},
    "contrast": {"is_inverted": False},
}
OF_GROUP = {
    "beam_tilt": {"beam_tilt_mrad": (0.0, 0.0)},
    "odd_zernike": {"odd_zernike": ()},
    "even_zernike": {"even_zernike": ()},
    "magnification": {"magnification": (1.0, 0.0, 0.0, 1.0)},
    "phase_flipped": {"correction": "none"},
}
"""What a table has where a format has lost a feature."""


def without(table: ParticleTable, lost: set[str]) -> ParticleTable:
    """Return a table as it is where features are lost."""
    changes, of_group = {}, {}
    for name in lost:
        for key, value in PLAIN.get(name, {}).items():
            if key == "micrograph_index":
                value = np.arange(len(table), dtype=np.int64)
            elif isinstance(value, float | int) and not isinstance(value, bool):
                value = np.full_like(getattr(table, key), value)
            changes[key] = value
        of_group |= OF_GROUP.get(name, {})
    groups = tuple(replace(g, **of_group) for g in table.optics)
    return replace(table, optics=groups, **changes)


def assert_same_where_held(found: ParticleTable, table: ParticleTable, lost: set[str]) -> None:
    """Compare all that is computed with; what was said to be lost is as in a plain table."""
    expected = without(table, lost)
    assert len(found) == len(expected)
    for name in ("has_pose", "is_inverted"):
        assert getattr(found, name) == getattr(expected, name), name
    for name, rtol, atol in (
        ("euler_rad", 0, POSE_ERROR_RAD), ("shift_A", 2e-7, 2e-6), ("defocus_u_A", 2e-7, 1e-6),
        ("defocus_v_A", 2e-7, 1e-6), ("defocus_angle_rad", 2e-7, 1e-6),
        ("phase_shift_rad", 2e-7, 1e-6), ("bfactor_A2", 2e-7, 1e-6), ("ctf_scale", 2e-7, 1e-6),
        ("half_set", 0, 0), ("image_index", 0, 0),
    ):  # fmt: skip
        mine, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=atol, err_msg=name)
    for row in range(len(found)):
        mine, theirs = (
            found.optics[found.optics_index[row]],
            expected.optics[expected.optics_index[row]],
        )
        for field in fields(OpticsGroup):
            if field.name in ("name", "box_px"):
                continue
            a, b = getattr(mine, field.name), getattr(theirs, field.name)
            if isinstance(a, float | tuple):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=field.name)
            else:
                assert a == b, field.name
        assert (
            found.stacks[found.stack_index[row]].resolve()
            == table.stacks[table.stack_index[row]].resolve()
        )
        if expected.micrographs:
            assert (
                found.micrographs[found.micrograph_index[row]]
                == expected.micrographs[expected.micrograph_index[row]]
            )
