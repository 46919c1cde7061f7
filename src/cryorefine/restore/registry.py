"""All restorations, in the order in which they are done, and doing them one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cryorefine.restore.align_halves import AlignHalves
from cryorefine.restore.deconvolve import Deconvolve
from cryorefine.restore.denoise_real import DenoiseReal
from cryorefine.restore.difference import EvaluateDifference
from cryorefine.restore.filter_bank import FilterBank
from cryorefine.restore.laplacian import Laplacian
from cryorefine.restore.mask_ad_hoc import AdHocMask
from cryorefine.restore.protocol import Context, Fact, Halves, Restoration
from cryorefine.restore.symmetrise_within import SymmetriseWithin
from cryorefine.restore.undershoot import AttenuateUndershoot
from cryorefine.restore.user_command import UserCommand

__all__ = ["ORDER", "RestoredHalves", "Step", "restore_halves"]

ORDER: tuple[type[Restoration], ...] = (
    SymmetriseWithin,
    UserCommand,
    AlignHalves,
    DenoiseReal,
    FilterBank,
    Laplacian,
    Deconvolve,
    AttenuateUndershoot,
    EvaluateDifference,
    AdHocMask,
)
"""HighRes's: what makes signal comes before what tells it from noise, and this before what makes it
louder. The mask is last, so that all before it see the solvent."""


@dataclass(frozen=True)
class Step:
    """What one restoration did.

    Attributes
    ----------
    facts
        What it found; see :class:`~cryorefine.restore.protocol.Restored`.
    """

    name: str
    title: str
    mixes_halves: bool
    facts: dict[str, Fact]


@dataclass(frozen=True, eq=False)
class RestoredHalves:
    """Half maps after some restorations.

    Attributes
    ----------
    steps
        In the order in which they were done.
    maps
        Further maps by name.
    """

    halves: Halves
    steps: tuple[Step, ...]
    maps: dict[str, Float[Tensor, "z y x"]]

    @property
    def mixes_halves(self) -> bool:
        """Whether any step has made the halves depend on each other."""
        return any(step.mixes_halves for step in self.steps)


def restore_halves(
    halves: Halves,
    restorations: Sequence[Restoration],
    context: Context,
    *,
    progress: Callable[[str], None] | None = None,
) -> RestoredHalves:
    """Return half maps after restorations, which are done in the order of :data:`ORDER`.

    Those that are given are not changed.

    Parameters
    ----------
    progress
        Called with the title of each before it begins.
    """
    steps, maps = [], {}
    for restoration in sorted(restorations, key=lambda r: ORDER.index(type(r))):
        if progress is not None:
            progress(restoration.title)
        made = restoration(halves, context)
        halves = made.halves
        maps |= made.maps
        steps.append(
            Step(restoration.name, restoration.title, restoration.mixes_halves, dict(made.facts))
        )
    return RestoredHalves(halves, tuple(steps), maps)
