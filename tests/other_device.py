"""A device that is not the CPU, for machines that have no other: its numbers are real.

Tensors on it say that they are elsewhere, and every operation that mixes them with tensors of the
CPU is refused, as CUDA does, or would do at the cost of a hidden copy. Only explicit copies cross.
What is held on it at once is counted.
"""

import dataclasses
import weakref
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from cryorefine.kernels import dispatch
from cryorefine.kernels.grid import HALO, add_halo

OTHER = torch.device("meta")
"""The name it goes by: the one device besides the CPU that every build of torch can spell."""

# Conjugation is a mark on a tensor that later operations heed; here it is done at once.
_AT_ONCE = {
    torch.ops.aten._conj.default: torch.ops.aten.conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
}

_CROSSING = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor of the other device; ``numbers`` is where they really are."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor):
        out = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=OTHER,
        )
        out.numbers = numbers
        return out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of OtherDevice()")


class OtherDevice(TorchDispatchMode):
    """While this is active, tensors can be made on, and moved to and from, the other device.

    Attributes
    ----------
    held_bytes, peak_bytes
        Memory of the tensors that live on the device now, and at most so far. What an operation
        needs within itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = self.peak_bytes = 0
        self._holders: dict[int, int] = {}

    def adopt(self, numbers: torch.Tensor) -> Elsewhere:
        """Return a tensor of the device with these numbers, and count it."""
        out = Elsewhere(numbers)
        storage = numbers.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if size:
            self._holders[key] = self._holders.get(key, 0) + 1
            if self._holders[key] == 1:
                self.held_bytes += size
                self.peak_bytes = max(self.peak_bytes, self.held_bytes)
            weakref.finalize(out, self._release, key, size)
        return out

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if self._holders[key] == 0:
            self.held_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors: list[torch.Tensor] = []
        plain_args = [_plain(value, tensors) for value in args]
        plain_kwargs = {name: _plain(value, tensors) for name, value in kwargs.items()}
        there = [t for t in tensors if isinstance(t, Elsewhere)]
        here = [t for t in tensors if not isinstance(t, Elsewhere)]
        if there and func not in _CROSSING and any(t.ndim for t in here):
            raise RuntimeError(f"{func} mixes devices: shapes {[tuple(t.shape) for t in tensors]}")
        if any(t.device == OTHER for t in here):
            raise RuntimeError(f"{func}: torch.tensor(..., device=...) escapes this device")
        device = kwargs.get("device")
        to_other = isinstance(tensors[0], Elsewhere) if tensors else False
        if func is not torch.ops.aten.copy_.default and device is not None:
            to_other = torch.device(device) == OTHER
        out = (_AT_ONCE.get(func, func) if to_other else func)(*plain_args, **plain_kwargs)
        if not to_other:
            return out
        known = {id(t.numbers): t for t in there}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            # Operations in place return the tensor that they were given.
            return known[id(value)] if id(value) in known else self.adopt(value)

        return wrap(out) if isinstance(out, torch.Tensor) else tree_map(wrap, out)


def _plain(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Return an argument without tensors of the device; add the tensors in it to a list.

    Not torch's own walk through arguments: it takes longer than most operations. Nor a function
    within another that calls itself: it would keep the tensors until garbage is collected.
    """
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return value.numbers if isinstance(value, Elsewhere) else value
    if isinstance(value, list | tuple):
        return type(value)([_plain(part, tensors) for part in value])
    return torch.device("cpu") if value is OTHER or value == OTHER else value


def frugal_kernels(device: OtherDevice) -> SimpleNamespace:
    """Return kernels for the device that hold, beside their results, what those for GPUs do."""

    def each_tensor(change: Any, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return change(value)
        if isinstance(value, tuple):
            return tuple(each_tensor(change, part) for part in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            changed = {name: each_tensor(change, part) for name, part in fields.items()}
            return dataclasses.replace(value, **changed)
        return value

    def here(value: Any) -> Any:
        return each_tensor(lambda t: t.numbers if isinstance(t, Elsewhere) else t, value)

    def there(value: Any) -> Any:
        return each_tensor(device.adopt, value)

    def on_the_cpu(function: Any) -> Any:
        return lambda *arguments, **options: there(function(*map(here, arguments), **options))

    def rotate_grid(values: Any, weights: Any, *arguments: Any) -> Any:
        values, weights = add_halo(values), add_halo(weights)
        grids = (here(t)[:, :, HALO:].contiguous() for t in (values, weights))
        alone = torch.eye(3)[None]
        return there(dispatch.rotate_grid(*grids, *map(here, arguments), alone))

    names = ("extract_slices", "insert_slices", "permute_grid", "pick_separated", "refine_poses")
    kernels = {name: on_the_cpu(getattr(dispatch, name)) for name in names}
    return SimpleNamespace(rotate_grid=rotate_grid, **kernels)
