"""How much of each image's own noise its half's reference holds, and what that adds to its score.

An image that went into a reference finds its own noise there, at the pose where it was inserted,
and nowhere else: its score there is too high (``docs/mathematics.md``).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.filaments.imposition import helical_copies
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses

__all__ = ["kept_noise", "own_share"]

_SPHERE = np.pi / 6
"""Share of the box that a half map fills."""


def kept_noise(
    mask_fraction: float,
    inside_ssnr: Float[Tensor, "s"],
    outside_ssnr: Float[Tensor, "s"] | None,
) -> Float[Tensor, "s"]:
    """Return the share of the noise in a half map that its reference keeps, per shell.

    Parameters
    ----------
    mask_fraction
        Of the box within the mask.
    inside_ssnr, outside_ssnr
        Signal-to-noise ratios that the reference was filtered by; None: empty outside.
    """
    kept = mask_fraction * inside_ssnr / (1 + inside_ssnr)
    if outside_ssnr is not None:
        outside = max(0.0, float(_SPHERE) - mask_fraction)
        kept = kept + outside * outside_ssnr / (1 + outside_ssnr)
    return kept


def own_share(
    inputs: Inputs,
    poses: Poses,
    half: int,
    kept: Float[Tensor, "s"],
    data_per_shell: Float[Tensor, "t"],
) -> Float[Tensor, "t"]:
    """Return per shell of the volume what an image's own noise adds to its score.

    An image of weight w and whitened contrast transfer c gains ``w Σ |c|² share(k)``: the noise of
    one coefficient, of unit variance, is in the reference with the share ``w |c|² kept / D``, and
    counts twice in the likelihood. D is the data at a point, ``Σ w |c|² / 2 k`` over all images and
    their symmetric copies, since a plane through the origin puts ``1 / 2 k`` into each point of a
    shell.

    Parameters
    ----------
    poses
        With the column ``weight``.
    kept
        Share of the half map's noise that is in the reference: :func:`kept_noise`.
    data_per_shell
        What an image of the half knows about a coefficient, the mean of ``|c|²``.
    """
    mine = torch.from_numpy(inputs.half == half)
    total = float(measured(poses.scores.weight)[mine].sum())
    k = torch.arange(inputs.size_px // 2 + 2, dtype=torch.float64).clamp_min(0.5)
    known = data_per_shell * total * inputs.group.order * helical_copies(inputs) / (2 * k)
    padded = torch.zeros_like(known)
    padded[: len(kept)] = kept.double()[: len(known)]
    share = torch.where(known > 0, 2 * padded / known.clamp_min(1e-30), 0.0)
    share[0] = 0.0
    return share
