import numba
import numpy as np

from cryorefine.kernels.scratch import on_stack

_table = on_stack((2, 3), numba.float64)
_index = on_stack((5,), numba.int32)


@numba.njit
def fill(n):
    """Fill both arrays in turn; return what each holds, and whether a turn finds the last one's."""
    found = 0
    for turn in range(n):
        table, index = _table(), _index()
        if turn > 0 and table[1, 2] == 10.0 * (turn - 1) + 12 and index[4] == turn + 3:
            found += 1
        for a in range(2):
            for b in range(3):
                table[a, b] = 10.0 * (turn + a) + b
        for i in range(5):
            index[i] = turn + i
    return table.copy(), index.copy(), found, table.shape, index.shape


def test_arrays_have_their_shape_and_hold_what_is_written_apart_from_each_other():
    table, index, _, *shapes = fill(3)
    assert shapes == [(2, 3), (5,)]
    assert table.dtype == np.float64
    assert index.dtype == np.int32
    np.testing.assert_array_equal(table, [[20.0, 21.0, 22.0], [30.0, 31.0, 32.0]])
    np.testing.assert_array_equal(index, [2, 3, 4, 5, 6])


def test_a_loop_gets_the_same_array_at_each_turn():
    assert fill(7)[2] == 6
