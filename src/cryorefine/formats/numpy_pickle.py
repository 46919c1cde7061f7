"""Arrays of numbers in pickles: read by walking the opcodes, so that nothing of a file is executed.

Written files are numpy's own pickles. Only what those are made of is known here: whatever else a
pickle holds, or would call, is refused.
"""

import pickle
import pickletools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cryorefine.errors import InputError
from cryorefine.io.atomic import atomic_path
from cryorefine.io.unreadable import require_no_pipe, unreadable

__all__ = ["read_arrays", "write_arrays"]

_MAX_AXES = 3  # (particles, 3, 3) has the most
_KINDS = "fiu"  # of numbers: floats, and whole ones with and without a sign
_SIZES = range(1, 9)  # bytes of a number


class _Name(str):
    """A function or class that a pickle names: looked at, never called."""


class _Type:
    """A type of numbers, such as ``<f4``."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"


class _Array:
    """An array whose numbers are still to come."""

    value: "np.ndarray | None" = None


class _NotAllowedError(ValueError):
    """Something that is no array of numbers, nor a tuple or list of them."""


_MAKE_ARRAY = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_FROM_BUFFER = ("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer")
_MARK = object()


def write_arrays(path: Path, arrays: "np.ndarray | tuple[np.ndarray, ...]") -> None:
    """Write an array or a tuple of them as a pickle, atomically."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(arrays, file, protocol=4)


def read_arrays(path: Path) -> list[np.ndarray]:
    """Return the array of a pickle, or those of a tuple or list, as float64.

    Raises
    ------
    InputError
        If it is missing or damaged, or holds anything but arrays of numbers.
    """
    require_no_pipe(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python, about escapes in damaged texts
            found = _Walker().value_of(data)
        several = list(found) if isinstance(found, tuple | list) else [found]
        return [_finished(value) for value in several]
    except _NotAllowedError as error:
        reason = str(error)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
            AttributeError, UnicodeError, RecursionError) as error:  # fmt: skip
        reason = " ".join(f"it is damaged: {error}".split())[:200]
    raise InputError(
        f"holds more than arrays of numbers, or less ({reason})",
        where=str(path),
        do="give poses or CTF as cryoDRGN writes them",
    )


def _finished(value: Any) -> np.ndarray:
    array = value.value if isinstance(value, _Array) else None
    if array is None:
        raise _NotAllowedError(f"'{type(value).__name__}' where an array is expected")
    with np.errstate(invalid="ignore"):  # of NaN that are marked
        return array.astype(np.float64)


class _Walker:
    """Follows the opcodes of a pickle with a stack of its own."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def value_of(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise _NotAllowedError("it ends too soon")

    def _step(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                push(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "EMPTY_TUPLE" | "EMPTY_LIST":
                push(() if name == "EMPTY_TUPLE" else [])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(name[-1])
                self.stack[-n:] = [tuple(self.stack[-n:])]
            case "TUPLE" | "LIST":
                items = self._since_mark()
                push(tuple(items) if name == "TUPLE" else items)
            case "APPEND" | "APPENDS":
                items = [pop()] if name == "APPEND" else self._since_mark()
                self.stack[-1].extend(items)
            case "GLOBAL":
                push(_Name(argument))
            case "STACK_GLOBAL":
                attribute, module = pop(), pop()
                push(_Name(f"{module} {attribute}"))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(_made(function, arguments))
            case "BUILD":
                state = pop()
                _fill(self.stack[-1], state)
            case _ if name in _CONSTANTS:
                push(argument)
            case _:
                raise _NotAllowedError(f"the operation {name}")

    def _since_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]


_CONSTANTS = frozenset(
    {
        "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINUNICODE", "SHORT_BINUNICODE",
        "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING",
    }
)  # fmt: skip
"""Operations that put a number or a text on the stack."""


def _made(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Return what a call would make, of the few calls that an array is made by."""
    name = str(function) if isinstance(function, _Name) else ""
    if name in _MAKE_ARRAY:
        return _Array()
    if name == "numpy dtype":
        return _Type(str(arguments[0]))
    if name == "_codecs encode" and arguments[1:] == ("latin1",):
        return str(arguments[0]).encode("latin1")
    if name in _FROM_BUFFER:
        data, kind, shape, order = arguments
        array = _Array()
        array.value = _numbers(data, kind, shape, is_fortran=order == "F")
        return array
    raise _NotAllowedError(f"it calls {name or 'something that has no name'}")


def _fill(target: Any, state: Any) -> None:
    """Complete a type or an array by what follows it."""
    if isinstance(target, _Type):
        target.order = str(state[1])
    elif isinstance(target, _Array):
        _, shape, kind, is_fortran, data = state
        target.value = _numbers(data, kind, shape, is_fortran=bool(is_fortran))
    else:
        raise _NotAllowedError(f"it fills a '{type(target).__name__}'")


def _numbers(data: Any, kind: Any, shape: Any, *, is_fortran: bool) -> np.ndarray:
    """Return an array of its bytes; the bytes must be as many as its shape needs."""
    if not isinstance(kind, _Type) or not isinstance(data, bytes | bytearray):
        raise _NotAllowedError("its numbers are not bytes of one type")
    code = kind.code.lstrip("<>=|")
    is_number = code[:1] in tuple(_KINDS) and code[1:].isdecimal() and int(code[1:]) in _SIZES
    is_shape = isinstance(shape, tuple) and all(type(k) is int and k >= 0 for k in shape)
    if not is_number or not is_shape or len(shape) > _MAX_AXES:
        raise _NotAllowedError(f"an array of type {kind.code} and shape {shape}")
    order = kind.order if kind.order in ("<", ">") else "<"
    flat = np.frombuffer(data, np.dtype(order + code))
    return flat.reshape(shape, order="F" if is_fortran else "C")
