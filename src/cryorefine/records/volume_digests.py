"""Whether the volumes of a checkpoint are those that were written with it.

A map has no sum that tells a flipped bit, and one copied from another iteration looks as well as
the right one: either would change all that follows, and nobody would know.
"""

import dataclasses
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from torch import Tensor

from cryorefine.records.checkpoint_arrays import CheckpointArrays
from cryorefine.state.state import State

__all__ = ["digest_arrays", "require_same_volumes"]

_NAMES, _DIGESTS = "volume_names", "volume_sha256"


def digest_arrays(state: State) -> dict[str, np.ndarray]:
    """Return names and SHA-256 of a state's volumes, as arrays of its checkpoint."""
    digests = dict(_digests(state))
    return {
        _NAMES: np.array(list(digests), np.str_),
        _DIGESTS: np.array(list(digests.values()), np.str_),
    }


def require_same_volumes(arrays: CheckpointArrays, state: State) -> None:
    """Refuse volumes that are not those of the checkpoint; earlier versions did not say which.

    Raises
    ------
    InputError
        If one is not.
    """
    if _NAMES not in arrays:
        return
    names = arrays.array(_NAMES, "text", (None,)).tolist()
    known = dict(zip(names, arrays.array(_DIGESTS, "text", (len(names),)).tolist(), strict=True))
    for name, found in _digests(state):
        if known.get(name) != found:
            raise arrays.unexpected(name, "the one that was written with it", "another")


def _digests(state: State) -> Iterator[tuple[str, str]]:
    """Yield the names of the files of a state's volumes, with the SHA-256 of their numbers.

    As a file holds them, which is in single precision.
    """
    for number, volume in enumerate(state.references, 1):
        yield f"reference{number}.mrc", _digest(volume.float())
    if state.halves is not None and state.mask is not None:
        for number, volume in enumerate(state.halves, 1):
            yield f"half{number}.mrc", _digest(volume.float())
        yield "mask.mrc", _digest(state.mask.float())
    for number, total in enumerate(state.sums or (), 1):
        fields = {entry.name: getattr(total, entry.name) for entry in dataclasses.fields(total)}
        tensors = [value for value in fields.values() if isinstance(value, Tensor)]
        yield f"sums.npz, half {number}", _digest(*tensors)


def _digest(*tensors: Tensor) -> str:
    digest = sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
