import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.engine.blocks import Rows, plan_blocks


@st.composite
def parts(draw):
    """Particles dealt to halves, geometries and actions, and the parts that these make."""
    n = draw(st.integers(0, 9000))
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    key = generator.integers(0, draw(st.integers(1, 12)), n)
    return [
        Rows(1 + k % 2, k // 4, ("find", "check")[k // 2 % 2], np.flatnonzero(key == k))
        for k in range(12)
    ]


@given(parts=parts())
def test_every_particle_is_in_one_block_with_its_half_geometry_and_action(parts):
    blocks = plan_blocks(parts)
    for part in parts:
        mine = [
            block.rows
            for block in blocks
            if (block.half, block.geometry, block.action) == (part.half, part.geometry, part.action)
        ]
        found = np.concatenate([*mine, np.zeros(0, np.int64)])
        np.testing.assert_array_equal(found, part.rows)
    assert sum(len(block.rows) for block in blocks) == sum(len(part.rows) for part in parts)


@given(parts=parts())
def test_blocks_are_never_empty_nor_large_and_differ_by_one_particle_within_a_part(parts):
    sizes: dict[tuple, list[int]] = {}
    for block in plan_blocks(parts):
        key = block.half, block.geometry, block.action
        sizes.setdefault(key, []).append(len(block.rows))
    for of_part in sizes.values():
        assert 0 < min(of_part) <= max(of_part) <= min(2000, min(of_part) + 1)


def test_there_is_work_for_many_where_there_are_particles_and_full_batches_where_not():
    def sizes(n):
        return [len(b.rows) for b in plan_blocks([Rows(1, 0, "find", np.arange(n))])]

    assert len(sizes(20_000)) == 16
    assert max(sizes(400_000)) == 2000
    assert min(sizes(1000)) >= 60
    assert sizes(63) == [63]


@given(parts=parts(), other=parts())
def test_the_blocks_of_a_half_do_not_depend_on_the_other_half(parts, other):
    mine = [part for part in parts if part.half == 1]
    alone = plan_blocks(mine)
    beside = plan_blocks([*mine, *(part for part in other if part.half == 2)])
    kept = [block for block in beside if block.half == 1]
    assert len(alone) == len(kept)
    for a, b in zip(alone, kept, strict=True):
        assert (a.geometry, a.action) == (b.geometry, b.action)
        np.testing.assert_array_equal(a.rows, b.rows)


def test_the_first_two_blocks_are_of_different_halves():
    halves = [Rows(half, 0, "find", np.arange(1000)) for half in (1, 2)]
    assert [block.half for block in plan_blocks(halves)][:4] == [1, 2, 1, 2]
