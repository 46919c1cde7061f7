"""Objects on their way to another process: a small head, and arrays in memory that both see.

On Linux the arrays lie in memory without a name, which goes with the processes that hold it
however they end; elsewhere in a temporary file.
"""

import io
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Parcel", "Sent", "pack", "unpack"]

_ALIGNMENT = 64
"""Arrays begin at such addresses, as those that numpy and torch make: kernels and the libraries'
products then take the same way, and give the same bits."""


@dataclass(frozen=True)
class Parcel:
    """What is told to the other process.

    Attributes
    ----------
    head
        The object, pickled, but for its large arrays.
    path
        Where their memory can be opened; empty if there are none.
    places
        (offset, bytes) of each.
    """

    head: bytes
    path: str
    places: tuple[tuple[int, int], ...]


class Sent:
    """A parcel and the memory that it is about, held open until the other process has opened it."""

    def __init__(self, parcel: Parcel, descriptor: int | None, is_file: bool) -> None:
        self.parcel = parcel
        self._descriptor, self._is_file = descriptor, is_file

    def close(self) -> None:
        """Let go; who has opened the memory keeps it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            if self._is_file:
                os.unlink(self.parcel.path)


class _Pickler(pickle.Pickler):
    """Takes tensors as the arrays that they hold."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return torch.from_numpy, (obj.detach().cpu().contiguous().numpy(),)
        return NotImplemented


def pack(content: Any) -> Sent:
    """Put an object into a parcel; its arrays are copied once."""
    buffers: list[pickle.PickleBuffer] = []
    head = io.BytesIO()
    _Pickler(head, protocol=5, buffer_callback=buffers.append).dump(content)
    views = [buffer.raw() for buffer in buffers]
    places, end = [], 0
    for view in views:
        begin = -(-end // _ALIGNMENT) * _ALIGNMENT
        places.append((begin, view.nbytes))
        end = begin + view.nbytes
    if end == 0:
        return Sent(Parcel(head.getvalue(), "", tuple(places)), None, False)
    descriptor, path, is_file = _open_memory()
    os.truncate(descriptor, end)
    with mmap.mmap(descriptor, end) as memory:
        for (begin, size), view in zip(places, views, strict=True):
            memory[begin : begin + size] = view
    return Sent(Parcel(head.getvalue(), path, tuple(places)), descriptor, is_file)


def _open_memory() -> tuple[int, str, bool]:
    """Return a descriptor of shared memory, where others open it, and whether it is a file."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("cryorefine")
        return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}", False
    descriptor, path = tempfile.mkstemp(prefix="cryorefine-")
    return descriptor, path, True


def unpack(parcel: Parcel) -> Any:
    """Return the object. Its arrays can be written to; nobody else sees what is written.

    Raises
    ------
    OSError
        If the process that sent it is gone.
    """
    if not parcel.path:
        empty = [np.zeros(0, np.uint8) for _ in parcel.places]
        return pickle.loads(parcel.head, buffers=empty)
    end = max(begin + size for begin, size in parcel.places)
    with open(parcel.path, "rb") as file:
        memory = memoryview(mmap.mmap(file.fileno(), end, access=mmap.ACCESS_COPY))
    return pickle.loads(parcel.head, buffers=[memory[b : b + size] for b, size in parcel.places])
