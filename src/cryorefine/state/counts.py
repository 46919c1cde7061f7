"""How many particles were given, set aside, aligned and reconstructed from: the one record."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["ParticleCounts", "counted_reasons", "counts_from_values"]


@dataclass(frozen=True)
class ParticleCounts:
    """Of one iteration. Every particle that was given is counted once, except by ``n_aligned``.

    Attributes
    ----------
    n_given
        Rows of the particle file.
    set_aside
        How many take no part at all, by reason: unusable images, percentiles, no pose to keep.
    n_not_drawn
        Take part, were not looked at in this iteration, and are in no half map.
    n_aligned
        Compared with a reference for their pose in this iteration; 0 where poses were kept.
    left_out
        How many were looked at and are in no half map, by reason: tilts, weights of zero.
    n_reconstructed
        Whose images are in half map 1 and in half map 2.
    """

    n_given: int
    set_aside: dict[str, int]
    n_not_drawn: int
    n_aligned: int
    left_out: dict[str, int]
    n_reconstructed: tuple[int, int]

    @property
    def n_set_aside(self) -> int:
        """Particles that take no part."""
        return sum(self.set_aside.values())

    @property
    def n_in_use(self) -> int:
        """Particles that take part."""
        return self.n_given - self.n_set_aside

    @property
    def n_left_out(self) -> int:
        """Particles that were looked at and are in no half map."""
        return sum(self.left_out.values())

    @property
    def n_used(self) -> int:
        """Particles whose images are in the half maps."""
        return sum(self.n_reconstructed)


def counted_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """Count reasons that are alike but for their first number, the most frequent first.

    "power 41 times the background's" and "power 52 times the background's" are one.
    """
    alike = Counter(re.sub(r"\d+(\.\d+)?", "…", why, count=1) for why in reasons)
    return dict(alike.most_common())


def counts_from_values(values: dict[str, Any] | None) -> ParticleCounts | None:
    """Return counts from what JSON has of them; None of nothing.

    Raises
    ------
    TypeError, ValueError, KeyError
        If they are not counts.
    """
    if values is None:
        return None
    first, second = values["n_reconstructed"]
    return ParticleCounts(**{**values, "n_reconstructed": (int(first), int(second))})
