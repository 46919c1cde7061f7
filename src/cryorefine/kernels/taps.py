"""The innermost loops on CPUs: the grid points around one sample, a row of them per instruction.

Numba turns loops over three neighbours into scalar code. These intrinsics write the vector
instructions themselves: a row along x is one load of eight floats (three complex neighbours and a
fourth of weight zero), whatever the processor's vectors are; LLVM splits or joins them.

Positions are in complex elements from the start of the array. ``table`` is
:func:`cryorefine.kernels.grid.packed_table`; ``ix, iy, iz`` are rows of it.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as numba_intrinsic

from cryorefine.kernels.grid import WIDTH

__all__ = [
    "add_taps",
    "read_plane_taps_and_weights",
    "read_taps",
    "read_taps_and_weights",
    "read_taps_with_gradient",
]

_FLOAT = ir.FloatType()
_FAST = ("fast",)
_LANES = 8
"""Floats of a vector register of AVX: 256 bits."""

_PAIRS = [0, 0, 1, 1, 2, 2, 3, 3]
"""Lanes that hold the tap of each neighbour, twice: for the real and the imaginary part."""

_SLOPE_PAIRS = [4, 4, 5, 5, 6, 6, 7, 7]
"""The same of the taps' slopes, which follow the taps."""


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as numba does; type checkers do not know that it takes the first argument away."""
    return numba_intrinsic(function)


class _Code:
    """Writes the instructions of one intrinsic."""

    def __init__(self, context, builder, signature, arguments, names):
        self.context, self.builder = context, builder
        self._types = dict(zip(names, signature.args, strict=True))
        self.values = dict(zip(names, arguments, strict=True))

    def integer(self, value):
        return ir.Constant(ir.IntType(64), value)

    def pointer(self, name, index, lanes):
        """Return a pointer to ``lanes`` floats, ``index`` floats into an array."""
        array = self.context.make_array(self._types[name])
        data = array(self.context, self.builder, self.values[name]).data
        floats = self.builder.bitcast(data, _FLOAT.as_pointer())
        vector = ir.VectorType(_FLOAT, lanes).as_pointer()
        return self.builder.bitcast(self.builder.gep(floats, [index]), vector)

    def shuffle(self, vector, lanes):
        kind = ir.VectorType(ir.IntType(32), len(lanes))
        mask = ir.Constant(kind, [ir.Constant(ir.IntType(32), lane) for lane in lanes])
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def vector(self, *scalars):
        out = ir.Constant(ir.VectorType(_FLOAT, len(scalars)), ir.Undefined)
        for lane, scalar in enumerate(scalars):
            out = self.builder.insert_element(out, scalar, ir.Constant(ir.IntType(32), lane))
        return out

    def times(self, a, b):
        return self.builder.fmul(a, b, flags=_FAST)

    def plus(self, total, a, b):
        """Return total + a b; a total of None is zero."""
        product = self.times(a, b)
        return product if total is None else self.builder.fadd(total, product, flags=_FAST)

    def row(self, name):
        """Load a row of the table of weights."""
        index = self.builder.mul(self.values[name], self.integer(_LANES))
        return self.builder.load(self.pointer("table", index, _LANES), align=4)

    def spread(self, row, first, lanes=_LANES):
        """Return each of an axis's weights in all lanes of a vector."""
        return [self.shuffle(row, [first + tap] * lanes) for tap in range(WIDTH)]

    def element(self, dz, dy):
        """Return the position of a row of neighbours."""
        b, v = self.builder, self.values
        z = b.mul(v["plane_length"], self.integer(dz))
        y = b.mul(v["row_length"], self.integer(dy))
        return b.add(v["position"], b.add(z, y))

    def double(self, index):
        return self.builder.shl(index, self.integer(1))

    def plane(self, dz):
        """Return a plane's values and weights summed along y."""
        wy = self.spread(self.row("iy"), 0)
        total = total_weight = None
        for dy in range(WIDTH):
            at = self.element(dz, dy)
            v = self.builder.load(self.pointer("values", self.double(at), _LANES), align=8)
            w = self.builder.load(self.pointer("weights", at, 4), align=4)
            total = self.plus(total, wy[dy], v)
            total_weight = self.plus(total_weight, self.shuffle(wy[dy], range(4)), w)
        return total, total_weight

    def value_and_weight(self, total, total_weight):
        """Sum along x; return real part, imaginary part and weight."""
        x = self.row("ix")
        value = self.complex_sum(self.times(total, self.shuffle(x, _PAIRS)))
        even, odd = self.complex_sum(self.times(total_weight, self.shuffle(x, range(4))))
        weight = self.builder.fadd(even, odd, flags=_FAST)
        return self.context.make_tuple(
            self.builder, types.UniTuple(types.float32, 3), [*value, weight]
        )

    def complex_sum(self, vector):
        """Add up the complex numbers in a vector; return real and imaginary part."""
        while vector.type.count > 2:
            n = vector.type.count // 2
            low, high = (self.shuffle(vector, range(i, i + n)) for i in (0, n))
            vector = self.builder.fadd(low, high, flags=_FAST)
        return [
            self.builder.extract_element(vector, ir.Constant(ir.IntType(32), lane))
            for lane in (0, 1)
        ]


_WHERE = ("position", "row_length", "plane_length", "table", "ix", "iy", "iz")


def _where(table):
    index = types.int64
    return index, index, index, table, index, index, index


@intrinsic
def read_taps(_, values, position, row_length, plane_length, table, ix, iy, iz):
    """Return the interpolated value as (real, imaginary)."""
    signature = types.UniTuple(types.float32, 2)(values, *_where(table))

    def generate(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments, ("values", *_WHERE))
        x, y, z = code.row("ix"), code.row("iy"), code.row("iz")
        wy, wz = code.spread(y, 0), code.spread(z, 0)
        total = None
        for dz in range(WIDTH):
            plane = None
            for dy in range(WIDTH):
                at = code.double(code.element(dz, dy))
                v = builder.load(code.pointer("values", at, _LANES), align=8)
                plane = code.plus(plane, wy[dy], v)
            total = code.plus(total, wz[dz], plane)
        value = code.complex_sum(code.times(total, code.shuffle(x, _PAIRS)))
        return context.make_tuple(builder, signature.return_type, value)

    return signature, generate


@intrinsic
def read_taps_with_gradient(_, values, position, row_length, plane_length, table, ix, iy, iz):
    """Return value and derivatives along x, y, z per grid step: four (real, imaginary) pairs."""
    signature = types.UniTuple(types.float32, 8)(values, *_where(table))

    def generate(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments, ("values", *_WHERE))
        x, y, z = code.row("ix"), code.row("iy"), code.row("iz")
        wy, wz, dwy, dwz = (code.spread(r, first) for first in (0, 4) for r in (y, z))
        total = along_y = along_z = None
        for dz in range(WIDTH):
            plane = slope = None
            for dy in range(WIDTH):
                at = code.double(code.element(dz, dy))
                v = builder.load(code.pointer("values", at, _LANES), align=8)
                plane, slope = code.plus(plane, wy[dy], v), code.plus(slope, dwy[dy], v)
            total = code.plus(total, wz[dz], plane)
            along_y = code.plus(along_y, wz[dz], slope)
            along_z = code.plus(along_z, dwz[dz], plane)
        wx, dwx = code.shuffle(x, _PAIRS), code.shuffle(x, _SLOPE_PAIRS)
        products = ((total, wx), (total, dwx), (along_y, wx), (along_z, wx))
        parts = [part for a, b in products for part in code.complex_sum(code.times(a, b))]
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, generate


@intrinsic
def read_taps_and_weights(
    _, values, weights, position, row_length, plane_length, table, ix, iy, iz
):
    """Return the interpolated value and weight as (real, imaginary, weight)."""
    signature = types.UniTuple(types.float32, 3)(values, weights, *_where(table))

    def generate(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments, ("values", "weights", *_WHERE))
        wz = code.spread(code.row("iz"), 0)
        total = total_weight = None
        for dz in range(WIDTH):
            plane, plane_weight = code.plane(dz)
            total = code.plus(total, wz[dz], plane)
            total_weight = code.plus(total_weight, code.shuffle(wz[dz], range(4)), plane_weight)
        return code.value_and_weight(total, total_weight)

    return signature, generate


@intrinsic
def read_plane_taps_and_weights(_, values, weights, position, row_length, table, ix, iy):
    """Return the same from one plane, for samples that lie in planes of a grid blurred along z."""
    index = types.int64
    signature = types.UniTuple(types.float32, 3)(values, weights, index, index, table, index, index)

    def generate(context, builder, signature, arguments):
        names = ("values", "weights", "position", "row_length", "table", "ix", "iy")
        code = _Code(context, builder, signature, arguments, names)
        code.values["plane_length"] = code.integer(0)
        return code.value_and_weight(*code.plane(0))

    return signature, generate


@intrinsic
def add_taps(
    _, values, weights, position, row_length, plane_length, table, ix, iy, iz, re, im, weight
):
    """Add a sample's value and weight to the grids, with the interpolation's weights."""
    scalar = types.float32
    signature = types.void(values, weights, *_where(table), scalar, scalar, scalar)
    names = ("values", "weights", *_WHERE, "re", "im", "weight")

    def generate(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments, names)
        x, y, z = code.row("ix"), code.row("iy"), code.row("iz")
        value = code.shuffle(code.vector(code.values["re"], code.values["im"]), [0, 1] * 4)
        value = code.times(value, code.shuffle(x, _PAIRS))
        weight = code.shuffle(code.vector(code.values["weight"]), [0] * 4)
        weight = code.times(weight, code.shuffle(x, range(4)))
        for dz in range(WIDTH):
            for dy in range(WIDTH):
                k = code.times(code.shuffle(z, [dz]), code.shuffle(y, [dy]))
                at = code.element(dz, dy)
                place = code.pointer("values", code.double(at), _LANES)
                old = builder.load(place, align=8)
                builder.store(code.plus(old, code.shuffle(k, [0] * _LANES), value), place, align=8)
                place = code.pointer("weights", at, 4)
                old = builder.load(place, align=4)
                builder.store(code.plus(old, code.shuffle(k, [0] * 4), weight), place, align=4)
        return context.get_dummy_value()

    return signature, generate
