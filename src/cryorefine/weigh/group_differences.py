"""Whether groups differ by more than their sampling noise, which of them do, and how much."""

from dataclasses import dataclass

import numpy as np

__all__ = ["GroupDifferences", "group_differences"]

_SPREADS = np.geomspace(0.01, 4.0, 28)
"""Spreads that are tried, as parts of the common value: from 1 %, which would not matter, to what
no two microscopes differ by; each is 1.25 times the one before, much finer than data can tell."""

_N_SHARES = 16
"""Shares of differing groups that are tried, from half a group to all."""

_EVIDENCE = 7.0
"""Logarithm of the likelihood that differing groups must gain over groups that are alike. The two
numbers that are fitted gain as much by chance once in e^7, about a thousand times."""


@dataclass(frozen=True, eq=False)
class GroupDifferences:
    """What sets groups apart.

    Attributes
    ----------
    spread
        Standard deviation of the true values of those that differ; 0 where all are alike.
    differs
        The groups that more likely differ than not.
    """

    spread: float
    differs: np.ndarray


def group_differences(deviation: np.ndarray, variance: np.ndarray) -> GroupDifferences:
    """Find which groups differ from what they have in common.

    A share of the groups is taken to be alike, and the others to differ by a Gaussian. The share
    and its spread are those of the greatest likelihood (``docs/mathematics.md``, "Noise").

    Parameters
    ----------
    deviation
        Of the groups' measured values from the common one, in parts of it.
    variance
        What sampling alone would make the deviations' variances, above 0.
    """
    alike = GroupDifferences(0.0, np.zeros(len(deviation), bool))
    if len(deviation) < 2:
        return alike
    spread = _SPREADS[:, None]
    broader = variance + spread**2
    log_ratio = 0.5 * (np.log(variance / broader) + deviation**2 * spread**2 / (variance * broader))
    share = np.geomspace(0.5 / len(deviation), 1.0, _N_SHARES)[:, None, None]
    with np.errstate(divide="ignore"):
        log_alike = np.log1p(-share)
    gain = np.logaddexp(log_alike, np.log(share) + log_ratio).sum(2)
    best_share, best_spread = np.unravel_index(np.argmax(gain), gain.shape)
    if gain[best_share, best_spread] < _EVIDENCE:
        return alike
    odds = np.log(share[best_share, 0, 0]) + log_ratio[best_spread] - log_alike[best_share, 0, 0]
    return GroupDifferences(float(_SPREADS[best_spread]), odds > 0)
