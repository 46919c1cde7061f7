"""Small functions of numbers that write their machine code themselves, by being run once.

numba takes 2 ms to infer the type of each operation and to translate it (``docs/decisions.md``).
Where all branches and all loops over components are known beforehand nothing has to be inferred: an
:func:`unrolled` function runs in Python when its caller is compiled, with symbols instead of
numbers, and each operation on a symbol writes one instruction of LLVM's, in a tenth of that time
and less.

What depends on values is written by :class:`Code`: ``code.over(count)`` for a loop,
``code.where(condition, a, b)`` for a branch.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["Array", "Code", "Complex", "Number", "unrolled"]

_BIT = ir.IntType(1)
"""What a condition is in LLVM."""


def unrolled(*, returns: Any = types.void, fastmath: bool = False) -> Callable[..., Any]:
    """Make a function that numba's functions can call from one that writes its own code.

    Parameters
    ----------
    returns
        numba's type of what is returned: a number, numbers of one type (``UniTuple``), or nothing.
    fastmath
        Let operations be put in another order, as ``fastmath`` of :func:`compiled` does.

    Notes
    -----
    The function is given a :class:`Code`, then its arguments: a :class:`Number` for each number,
    an :class:`Array` for each array. It must not decide by their values.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        def typed(_: Any, *arguments: Any) -> Any:
            signature = returns(*map(types.unliteral, arguments))

            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                code = Code(context, builder, fastmath)
                pairs = zip(signature.args, values, strict=True)
                result = function(code, *(code.symbol(*pair) for pair in pairs))
                return code.returned(result, signature.return_type)

            return signature, generate

        # numba asks for the names of the arguments, the first of which it gives itself.
        typed.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        typed.__name__, typed.__doc__ = function.__name__, function.__doc__
        return intrinsic(typed)

    return decorate


class Code:
    """Writes the instructions of one call."""

    def __init__(self, context: Any, builder: Any, fastmath: bool) -> None:
        self.context, self.builder = context, builder
        self.flags = ("fast",) if fastmath else ()

    def symbol(self, kind: Any, value: Any) -> "Number | Array":
        """Return the symbol of an argument of one of numba's types."""
        if not isinstance(kind, types.Array):
            return Number(self, value)
        array = self.context.make_array(kind)(self.context, self.builder, value)
        return Array(self, kind.layout, array)

    def returned(self, result: Any, kind: Any) -> Any:
        """Return what numba takes for a result."""
        if kind == types.void:
            return self.context.get_dummy_value()
        if isinstance(kind, types.UniTuple):
            parts = [self.returned(part, kind.dtype) for part in result]
            return self.context.make_tuple(self.builder, kind, parts)
        return self.number(result, self.context.get_value_type(kind)).value

    def number(self, value: Any, kind: Any) -> "Number":
        """Return a number, or a constant, as one of LLVM's types."""
        if not isinstance(value, Number):
            return Number(self, ir.Constant(kind, value))
        old, b = value.value.type, self.builder
        if old == kind:
            return value
        is_float, was_float = (isinstance(t, ir.FloatType | ir.DoubleType) for t in (kind, old))
        if is_float and was_float:
            cast = b.fpext if isinstance(kind, ir.DoubleType) else b.fptrunc
        elif is_float:
            cast = b.uitofp if old == _BIT else b.sitofp
        elif was_float:
            cast = b.fptosi
        elif old == _BIT:
            cast = b.zext
        else:
            cast = b.sext if kind.width > old.width else b.trunc
        return Number(self, cast(value.value, kind))

    def float32(self, value: Any) -> "Number":
        """Return a number in single precision."""
        return self.number(value, ir.FloatType())

    def float64(self, value: Any) -> "Number":
        """Return a number in double precision."""
        return self.number(value, ir.DoubleType())

    def int32(self, value: Any) -> "Number":
        """Return a number as an integer of 32 bits, towards zero."""
        return self.number(value, ir.IntType(32))

    def int64(self, value: Any) -> "Number":
        """Return a number as an integer of 64 bits, towards zero."""
        return self.number(value, ir.IntType(64))

    def pair(self, a: Any, b: Any) -> tuple["Number", "Number"]:
        """Return two numbers, or one and a constant, as the wider type of both."""
        kinds = [x.value.type for x in (a, b) if isinstance(x, Number)]
        if isinstance(a, float) or isinstance(b, float):
            # A fraction makes no integer wider, and no float.
            kinds = [ir.DoubleType() if isinstance(k, ir.IntType) else k for k in kinds]
        kind = max(kinds, key=_width, default=ir.DoubleType())
        return self.number(a, kind), self.number(b, kind)

    def where(self, condition: "Number", a: Any, b: Any) -> "Number":
        """Return ``a`` where the condition holds, else ``b``; both are worked out."""
        one, other = self.pair(a, b)
        return Number(self, self.builder.select(condition.value, one.value, other.value))

    def call(self, name: str, value: "Number") -> "Number":
        """Return a function of a number that LLVM knows: sqrt, floor, fabs, sin, cos."""
        function = self.builder.module.declare_intrinsic(f"llvm.{name}", [value.value.type])
        return Number(self, self.builder.call(function, [value.value], fastmath=self.flags))

    def over(self, count: "Number") -> Iterator["Number"]:
        """Go over ``range(count)``: what a ``for`` statement holds is written once, in a loop."""
        with cgutils.for_range(self.builder, self.int64(count).value) as loop:
            yield Number(self, loop.index)

    @contextmanager
    def when(self, condition: "Number") -> Iterator[None]:
        """Do what a ``with`` statement holds only where the condition is met."""
        with self.builder.if_then(condition.value):
            yield

    def sums(self, count: int) -> "Sums":
        """Return so many sums in single precision, zero at first, for loops to add to."""
        return Sums(self, count)


def _width(kind: Any) -> tuple[bool, int]:
    """Order LLVM's types of numbers: integers before floats, narrow before wide."""
    if isinstance(kind, ir.IntType):
        return False, kind.width
    return True, 64 if isinstance(kind, ir.DoubleType) else 32


def _operation(
    of_floats: str | None, of_integers: str | None, is_reversed: bool = False
) -> Callable[[Any, Any], Any]:
    """Return an operator that writes one instruction; where there is none it takes floats."""

    def operate(self: "Number", other: Any) -> "Number":
        code = self.code
        a, b = code.pair(*((other, self) if is_reversed else (self, other)))
        if isinstance(a.value.type, ir.IntType):
            if of_integers is not None:
                return Number(code, getattr(code.builder, of_integers)(a.value, b.value))
            a, b = code.float64(a), code.float64(b)
        if of_floats is None:
            raise TypeError("only integers have bits to move")
        write = getattr(code.builder, of_floats)
        return Number(code, write(a.value, b.value, flags=code.flags))

    return operate


def _comparison(sign: str) -> Callable[[Any, Any], Any]:
    def compare(self: "Number", other: Any) -> "Number":
        code = self.code
        a, b = code.pair(self, other)
        is_integer = isinstance(a.value.type, ir.IntType)
        # Where a number is NaN all are false but that it is another one, as in Python.
        of_floats = "fcmp_unordered" if sign == "!=" else "fcmp_ordered"
        write = getattr(code.builder, "icmp_signed" if is_integer else of_floats)
        return Number(code, write(sign, a.value, b.value))

    return compare


class Number:
    """A number that is known when the code runs; its operators write instructions."""

    def __init__(self, code: Code, value: Any) -> None:
        self.code, self.value = code, value

    __add__, __radd__ = _operation("fadd", "add"), _operation("fadd", "add", True)
    __sub__, __rsub__ = _operation("fsub", "sub"), _operation("fsub", "sub", True)
    __mul__, __rmul__ = _operation("fmul", "mul"), _operation("fmul", "mul", True)
    __truediv__, __rtruediv__ = _operation("fdiv", None), _operation("fdiv", None, True)
    __rshift__ = _operation(None, "ashr")
    __lt__, __le__ = _comparison("<"), _comparison("<=")
    __gt__, __ge__ = _comparison(">"), _comparison(">=")
    __eq__, __ne__ = _comparison("=="), _comparison("!=")  # type: ignore[assignment]

    def __neg__(self) -> "Number":
        builder = self.code.builder
        if isinstance(self.value.type, ir.IntType):
            return Number(self.code, builder.neg(self.value))
        return Number(self.code, builder.fneg(self.value, flags=self.code.flags))

    def __and__(self, other: "Number") -> "Number":
        return Number(self.code, self.code.builder.and_(self.value, other.value))

    def __or__(self, other: "Number") -> "Number":
        return Number(self.code, self.code.builder.or_(self.value, other.value))

    def __invert__(self) -> "Number":
        return Number(self.code, self.code.builder.not_(self.value))

    def __bool__(self) -> bool:
        raise TypeError("what a number is is not known yet: use code.where")


class Complex(NamedTuple):
    """A complex number, by its parts."""

    real: Number
    imag: Number


class Array:
    """An array, or a row of one; its items are read and written one by one."""

    def __init__(self, code: Code, layout: str, array: Any, first: tuple[Any, ...] = ()) -> None:
        self.code, self.layout, self._array, self._first = code, layout, array, first
        unpack = cgutils.unpack_tuple
        self._shape = list(unpack(code.builder, array.shape))
        self._strides = unpack(code.builder, array.strides)

    @property
    def shape(self) -> tuple[Number, ...]:
        """Items along each axis."""
        return tuple(Number(self.code, one) for one in self._shape[len(self._first) :])

    def in_rows_of(self, length: int) -> "Array":
        """Say how long the rows of a contiguous array are.

        Where the distance of two rows is not known, LLVM writes a fast loop for a distance of one
        item, which never is, and a slow one for all others.
        """
        code, old = self.code, self._shape[-1]
        known = Array(code, self.layout, self._array, self._first)
        known._shape[-1] = ir.Constant(old.type, length)
        if code.context.enable_boundscheck:
            # Neither longer nor shorter: the last item of each is one of the other.
            for one, other in ((old, known._shape[-1]), (known._shape[-1], old)):
                last = code.builder.sub(one, one.type(1))
                cgutils.do_boundscheck(code.context, code.builder, last, other)
        return known

    def __getitem__(self, index: Any) -> Any:
        at = self._places(index)
        if len(at) < len(self._shape):
            return Array(self.code, self.layout, self._array, at)
        value = self.code.builder.load(self._pointer(at))
        if not isinstance(value.type, ir.BaseStructType):
            return Number(self.code, value)
        part = self.code.builder.extract_value
        return Complex(*(Number(self.code, part(value, i)) for i in range(2)))

    def __setitem__(self, index: Any, value: Any) -> None:
        place = self._pointer(self._places(index))
        kind, builder = place.type.pointee, self.code.builder
        if isinstance(value, Complex):
            item = ir.Constant(kind, ir.Undefined)
            for i, part in enumerate(value):
                item = builder.insert_value(item, self.code.number(part, kind.elements[i]).value, i)
        else:
            item = self.code.number(value, kind).value
        builder.store(item, place)

    def _places(self, index: Any) -> tuple[Any, ...]:
        """Return an index of this array, or row, as one of the whole array."""
        return self._first + (index if isinstance(index, tuple) else (index,))

    def _pointer(self, at: tuple[Any, ...]) -> Any:
        code = self.code
        places = [code.number(i, ir.IntType(64)).value for i in at]
        return cgutils.get_item_pointer2(
            code.context, code.builder, self._array.data, self._shape, self._strides, self.layout,
            places, boundscheck=code.context.enable_boundscheck,
        )  # fmt: skip


class Sums:
    """Numbers in single precision that a loop adds to; processors keep them in registers."""

    def __init__(self, code: Code, count: int) -> None:
        self.code = code
        zero = ir.Constant(ir.FloatType(), 0.0)
        self._places = [cgutils.alloca_once(code.builder, zero.type) for _ in range(count)]
        for place in self._places:
            code.builder.store(zero, place)

    def __getitem__(self, index: int) -> Number:
        return Number(self.code, self.code.builder.load(self._places[index]))

    def __setitem__(self, index: int, value: Number) -> None:
        self.code.builder.store(self.code.float32(value).value, self._places[index])
