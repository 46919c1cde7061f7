"""Why particles were left out for their quality: as text that people read, and read back."""

import math
import re

__all__ = ["dropped_reason", "limit_of_reason"]

_LIMIT = re.compile(r"(?:the worst|below limit) ([0-9.e+-]+)(?: %)?$")
"""Earlier versions wrote "below limit 20"."""


def dropped_reason(percentile: float, limit: float) -> str:
    """Return why a particle is left out.

    Parameters
    ----------
    percentile
        0 to 1, within its defocus group and half.
    limit
        In percent: so many of the particles are left out.
    """
    return f"percentile {100 * percentile:.1f} of its defocus group, among the worst {limit:g} %"


def limit_of_reason(reason: str) -> float:
    """Return the limit in percent that a particle was left out by; NaN if it was not."""
    match = _LIMIT.search(reason)
    return float(match[1]) if match else math.nan
