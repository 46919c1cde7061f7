"""Whether the volumes of a checkpoint are those that were written with it.

A map has no sum that tells a flipped bit, and one copied from another iteration looks as well as
the right one: either would change all that follows, and nobody would know.
"""

import dataclasses
from hashlib import sha256

import numpy as np
from torch import Tensor

from cryorefine.compiled import for_each
from cryorefine.records.checkpoint_arrays import CheckpointArrays
from cryorefine.state.state import State

__all__ = ["digest_arrays", "require_same_volumes"]

_NAMES, _DIGESTS = "volume_names", "volume_sha256"


def digest_arrays(state: State) -> dict[str, np.ndarray]:
    """Return names and SHA-256 of a state's volumes, as arrays of its checkpoint."""
    digests = _digests(state)
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
    for name, found in _digests(state).items():
        if known.get(name) != found:
            raise arrays.unexpected(name, "the one that was written with it", "another")


def _digests(state: State) -> dict[str, str]:
    """Return the names of the files of a state's volumes, with the SHA-256 of their numbers.

    As a file holds them, which is in single precision.
    """
    tensors = {f"reference{half}.mrc": [v.float()] for half, v in enumerate(state.references, 1)}
    if state.halves is not None and state.mask is not None:
        tensors |= {f"half{half}.mrc": [v.float()] for half, v in enumerate(state.halves, 1)}
        tensors["mask.mrc"] = [state.mask.float()]
    for half, total in enumerate(state.sums or (), 1):
        values = [getattr(total, entry.name) for entry in dataclasses.fields(total)]
        tensors[f"sums.npz, half {half}"] = [v for v in values if isinstance(v, Tensor)]
    digests = for_each(lambda some: _digest(*some), list(tensors.values()))
    return dict(zip(tensors, digests, strict=True))


def _digest(*tensors: Tensor) -> str:
    digest = sha256()
    for tensor in tensors:
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
