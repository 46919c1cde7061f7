"""Functions that write their own machine code, against the same operations in NumPy."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, types
from numba.core.errors import NumbaError

from cryorefine.unrolled import Complex, unrolled

NUMBERS = st.floats(-1e6, 1e6, width=32)
ODD = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0]


def operations(a, b):
    """Each operator with a symbol, with a constant on either side, or with a second symbol."""
    return [
        a + b, a - b, a * b, a / b, -a, a + 2, 2 + a, a - 2, 2 - a, a * 0.5, 0.5 * a, a / 4, 4 / a,
    ]  # fmt: skip


def comparisons(a, b):
    return [a < b, a <= b, a > b, a >= b, a == b, a != b, a > 0, ~(a > b), (a > 0) & (b > 0),
            (a > 0) | (b > 0)]  # fmt: skip


@unrolled()
def _operate(code, a, b, out):
    for i, value in enumerate(operations(a, b)):
        out[i] = value


@unrolled()
def _compare(code, a, b, out):
    for i, condition in enumerate(comparisons(a, b)):
        out[i] = code.where(condition, 1, 0.0)


@njit
def operate(a, b, out):
    """Write the operations."""
    _operate(a, b, out)


@njit
def compare(a, b, out):
    """Write the comparisons."""
    _compare(a, b, out)


KINDS = [
    (np.float64, np.float64),
    (np.float32, np.float32),
    (np.float32, np.float64),
    (np.int64, np.float64),
    (np.float32, np.int32),
]


@pytest.mark.parametrize(("kind_a", "kind_b"), KINDS)
@given(NUMBERS, NUMBERS)
@settings(max_examples=30, deadline=None)
def test_operators_give_what_numpy_gives(kind_a, kind_b, a, b):
    a, b = kind_a(a), kind_b(b)
    kind = np.float64
    if {kind_a, kind_b} <= {np.float32, np.int32}:
        kind = np.float32  # an integer makes no float wider, as in most languages
    out = np.zeros(13)
    operate(a, b, out)
    one, other = kind(a), kind(b)
    with np.errstate(all="ignore"):
        alone = np.float64(a) if kind_a is np.int64 else a
        expected = [*operations(one, other)[:4], *operations(alone, alone)[4:]]
    np.testing.assert_array_equal(out, np.array(expected, np.float64))


@pytest.mark.parametrize("a", ODD)
@pytest.mark.parametrize("b", ODD)
def test_comparisons_are_pythons_also_of_what_is_no_number(a, b):
    out = np.zeros(10)
    compare(a, b, out)
    np.testing.assert_array_equal(out, np.array(comparisons(np.array(a), np.array(b)), float))


@unrolled(returns=types.UniTuple(types.int64, 4))
def _whole_numbers(code, a, b):
    return a * b, a + 3, a >> 1, code.int64(code.float64(a) * 0.5)


@njit
def whole_numbers(a, b):
    """Return results for integers."""
    return _whole_numbers(a, b)


@given(st.integers(-1000, 1000), st.integers(-1000, 1000))
@settings(max_examples=50, deadline=None)
def test_integers_stay_whole_and_fractions_are_cut_towards_zero(a, b):
    assert whole_numbers(a, b) == (a * b, a + 3, a // 2, int(a / 2))


@unrolled(returns=types.UniTuple(types.float64, 5))
def _known(code, a):
    return [code.call(name, a) for name in ("sqrt", "floor", "fabs", "sin", "cos")]


@njit
def known(a):
    """Return functions of a number."""
    return _known(a)


@pytest.mark.parametrize("a", [0.0, 0.3, 2.0, -1.5, 1e5])
def test_functions_are_those_of_numpy(a):
    with np.errstate(invalid="ignore"):
        expected = [f(a) for f in (np.sqrt, np.floor, np.abs, np.sin, np.cos)]
    np.testing.assert_allclose(known(a), expected, rtol=1e-15)


@unrolled(returns=types.float64, fastmath=True)
def _sum_and_clip(code, values, clipped):
    total = code.sums(2)
    for y in code.over(values.shape[0]):
        row = values[y]
        for x in code.over(row.shape[0]):
            total[0] += row[x]
            with code.when(row[x] > 1.0):
                clipped[y, x] = 1.0
                total[1] += 1
    return total[0] + 1000 * total[1]


@njit
def sum_and_clip(values, clipped):
    """Return the sum, and a thousand for each that is clipped."""
    return _sum_and_clip(values, clipped)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 7), (40, 33)])
def test_loops_over_arrays_visit_every_item_once(shape):
    values = np.random.default_rng(0).uniform(-2, 2, shape).astype(np.float32)
    clipped = values.copy()
    found = sum_and_clip(values, clipped)
    assert found == pytest.approx(values.sum() + 1000 * (values > 1).sum(), rel=1e-5)
    np.testing.assert_array_equal(clipped, np.minimum(values, np.float32(1)))
    every_second = np.repeat(values, 2, axis=1)[:, ::2]
    assert sum_and_clip(every_second, clipped) == pytest.approx(found, rel=1e-5)


@unrolled()
def _conjugate(code, values, out):
    for i in code.over(values.shape[0]):
        value = values[i]
        out[i] = Complex(value.real, -value.imag)


@njit
def conjugate(values, out):
    """Write complex conjugates."""
    _conjugate(values, out)


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_complex_numbers_are_read_and_written_by_their_parts(kind):
    values = np.array([1 + 2j, -3 - 4j, 0.5j], kind)
    out = np.zeros_like(values)
    conjugate(values, out)
    np.testing.assert_array_equal(out, values.conj())


@unrolled()
def _swap(code, points, out):
    points = points.in_rows_of(2)
    for i in code.over(points.shape[0]):
        out[i, 0], out[i, 1] = points[i, 1], points[i, 0]


@unrolled(returns=types.float64)
def _item(code, values, i, j):
    return values[i, j]


@njit(boundscheck=True)
def swap(points, out):
    """Write pairs the other way round."""
    _swap(points, out)


@njit(boundscheck=True)
def item(values, i, j):
    """Return an item."""
    return _item(values, i, j)


def test_rows_of_a_known_length_are_read_as_they_lie():
    points = np.arange(10.0).reshape(5, 2)
    out = np.zeros_like(points)
    swap(points, out)
    np.testing.assert_array_equal(out, points[:, ::-1])


def test_indices_are_checked_where_numba_checks_them():
    values = np.arange(6.0).reshape(2, 3)
    assert item(values, 1, 2) == 5
    for i, j in ((2, 0), (0, 3), (-1, 0), (0, -1)):
        with pytest.raises(IndexError):
            item(values, i, j)
    for length in (1, 3):
        with pytest.raises(IndexError):
            swap(np.zeros((4, length)), np.zeros((4, 2)))


def test_a_function_that_decides_by_a_value_is_refused():
    @unrolled(returns=types.float64)
    def absolute(code, a):
        return a if a > 0 else -a

    @njit
    def call(a):
        return absolute(a)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((TypeError, NumbaError), match=r"use code\.where"):
            call(1.0)
