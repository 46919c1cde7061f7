"""Keep the denominator of a reconstruction level over the width of the interpolation kernel."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.model.observe import GroupBand

__all__ = ["DataPerShell", "balancing_curve"]

_LEAST = 1e-4
"""Share of the median shell's data down to which shells are levelled: shells with less hold
nothing, and their factor must stay finite in single precision."""


class DataPerShell:
    """Sums, per shell of the volume, what images know about a coefficient: ``c² / σ²``."""

    def __init__(self, n_shells: int) -> None:
        self._total = torch.zeros(n_shells, dtype=torch.float64)
        self._count = torch.zeros(n_shells, dtype=torch.float64)

    def add(
        self,
        view: GroupBand,
        c: Float[Tensor, "b p"],
        inverse_variance: Float[Tensor, "*#b p"],
        particles: int,
    ) -> None:
        """Add a sample of images of one geometry that stands for so many particles."""
        shell = view.points.norm(dim=1).round().long().clamp_max(len(self._total) - 1)
        known = (c.square() * inverse_variance).mean(0).double() * particles
        shell, known = shell.cpu(), known.cpu()
        self._total.index_add_(0, shell, known)
        self._count.index_add_(0, shell, torch.full_like(known, particles))

    def mean(self) -> Float[Tensor, "s"]:
        """Return the mean per coefficient; 0 where no image has any."""
        return self._total / self._count.clamp_min(1)


def balancing_curve(data: Float[Tensor, "s"]) -> Float[Tensor, "s"]:
    """Return per shell what numerator and denominator are multiplied with.

    Contrast transfer starts near zero and noise is strongest at low resolution: the denominator
    rises by orders of magnitude over the first shells, and where it varies over the kernel's
    width the quotient leans to its heavy side. One over the data levels it. Only shells below the
    median are raised; the oscillations beyond are slow, and levelling them would put more weight
    on what is known worse.
    """
    usable = data[data > 0]
    if len(usable) == 0:
        return torch.ones_like(data)
    level = float(usable.median())
    return level / data.where(data > 0, level).clamp(_LEAST * level, level)
