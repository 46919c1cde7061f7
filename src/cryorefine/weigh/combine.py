"""One weight for each particle from several."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["combine"]


def combine(first: Float[Tensor, "n"], *others: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return the product of weights ≥ 0, scaled so that its mean over the particles is 1.

    The scale of any of the weights does not matter, and a reconstruction keeps its grey level.

    Raises
    ------
    ValueError
        If no particle has a weight above zero, or one has none (NaN).
    """
    total = first
    for weight in others:
        total = total * weight
    if not len(total):
        return total
    mean = total.mean()
    if bool(mean.isnan()):
        raise ValueError("a particle has no weight (NaN): give 1 where nothing is known of it")
    if not float(mean) > 0:
        raise ValueError(
            "the weights of all particles multiply to zero: no particle is left to reconstruct "
            "from; leave out one of the weights, or raise its minimum"
        )
    return total / mean
