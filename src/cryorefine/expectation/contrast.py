"""Whether images show the reference as it is, or with its contrast inverted."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ContrastOdds", "evidence_of_sign", "is_inverted", "odds_at_known_poses"]

_CLEAR_ODDS = -10.0
"""Log-likelihood ratio below which contrast is called inverted: a sample of noise gives up to 3
either way, since either sign may choose its amplitude. Sets of 0.05, 0.01 and 0.005 signal to noise
whose contrast is wrong have -370, -70 and -37."""

_CLEAR_DEVIATIONS = -3.0
"""The same in standard deviations, as images differ from each other: a reference that says nothing
of them gives less once in 700 runs. The sets above have -9, -6 and -4; right ones, also with the
map of another molecule, 3 and more on the other side."""


@dataclass(frozen=True)
class ContrastOdds:
    """What a sample of images says of the sign of its contrast.

    Attributes
    ----------
    log_ratio
        Logarithm of the images' likelihood with the reference over that with its negative.
    squares
        Sum of the squares of what each image adds to it.
    n_images
        In the sample.
    """

    log_ratio: float = 0.0
    squares: float = 0.0
    n_images: int = 0

    @classmethod
    def of_images(cls, log_ratios: Float[Tensor, "n"]) -> "ContrastOdds":
        """Return the odds of images that say this much each."""
        ratios = log_ratios.double()
        return cls(float(ratios.sum()), float(ratios.square().sum()), len(ratios))

    @classmethod
    def together(cls, parts: Iterable["ContrastOdds"]) -> "ContrastOdds":
        """Return the odds of several samples taken together."""
        parts = list(parts)
        return cls(
            sum(part.log_ratio for part in parts),
            sum(part.squares for part in parts),
            sum(part.n_images for part in parts),
        )


def is_inverted(odds: ContrastOdds) -> bool:
    """Tell whether images clearly fit the negative of the reference better.

    Chance does not do it, nor one image alone.
    """
    if odds.log_ratio >= _CLEAR_ODDS:
        return False
    return odds.log_ratio < _CLEAR_DEVIATIONS * math.sqrt(odds.squares)


def evidence_of_sign(log_evidence: Float[Tensor, "n a"]) -> Float[Tensor, "n"]:
    """Return each image's log-evidence at the amplitude that is best for all of them.

    Zero where none is better than no reference at all.
    """
    total = log_evidence.sum(0)
    best = int(total.argmax())
    at_best = log_evidence[:, best]
    return at_best if float(total[best]) > 0 else torch.zeros_like(at_best)


def odds_at_known_poses(cross: Float[Tensor, "n"], power: float) -> ContrastOdds:
    """Return the odds of images whose poses are known.

    Parameters
    ----------
    cross
        Whitened image times model, of each image.
    power
        The models' power, of all: the log-likelihood with amplitude a is ``2 a cross - a² power``,
        and the best amplitude is tried with either sign.
    """
    amplitude = abs(float(cross.sum())) / power if power > 0 else 0.0
    return ContrastOdds.of_images(4 * amplitude * cross)
