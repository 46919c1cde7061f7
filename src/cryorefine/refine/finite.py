"""Stop where numbers end: poses, sums and maps that are none any more must not be committed."""

import torch
from jaxtyping import Float
from torch import Tensor

from cryorefine.engine.threads import side_by_side
from cryorefine.errors import InputError
from cryorefine.reconstruct.solve import FoldedSums
from cryorefine.state.scores import measured
from cryorefine.state.state import Inputs, Poses

__all__ = ["require_finite_halves", "require_finite_poses", "require_finite_sums"]

_SHOWN = 5  # particles that a message names
_BEGIN_ANEW = "begin the run anew; if that ends here again, please report it with this message"


def require_finite_poses(inputs: Inputs, poses: Poses) -> None:
    """Refuse poses and scores that are no numbers.

    Raises
    ------
    InputError
        Naming the particles.
    """
    is_finite = torch.isfinite(poses.rotations).flatten(1).all(1)
    is_finite &= torch.isfinite(poses.shift_A).all(1)
    is_finite &= torch.isfinite(measured(poses.scores.score))
    bad = torch.nonzero(~is_finite).flatten().tolist()
    if not bad:
        return
    if len(bad) == len(inputs.table):
        raise InputError(
            "no particle's pose is a number any more, so that the references, or the noise "
            "spectra, cannot be right",
            where=str(inputs.table.source),
            do=_BEGIN_ANEW,
        )
    shown = ", ".join(str(inputs.table.names[row]) for row in bad[:_SHOWN])
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    raise InputError(
        f"the poses of {len(bad)} of {len(inputs.table)} particles are no numbers: {shown}{more}",
        where=inputs.table.where(bad[0]),
        do="check their images and CTF values, or remove their rows",
    )


def require_finite_sums(
    inputs: Inputs,
    sums: tuple[FoldedSums, FoldedSums],
    noise: tuple[tuple[Float[Tensor, "_"], ...], tuple[Float[Tensor, "_"], ...]],
) -> None:
    """Refuse sums and noise spectra that are no numbers, and sums that hold nothing.

    Raises
    ------
    InputError
        Naming the half.
    """
    for half, (totals, spectra) in enumerate(
        zip(side_by_side(_totals, sums), noise, strict=True), 1
    ):
        if float(totals[0]) == 0:
            raise InputError(
                f"nothing is left of the images of half {half}: their contrast transfer is zero",
                where=str(inputs.table.source),
                do="check the columns of the CTF, _rlnCtfScalefactor and _rlnCtfBfactor above all",
            )
        # Sums of sums: what is no number makes them none.
        parts = [*totals, *(s.sum().cpu().double() for s in spectra)]
        if not bool(torch.isfinite(torch.stack(parts)).all()):
            raise InputError(
                f"the sums of half {half} are no numbers any more",
                where=str(inputs.table.source),
                do="check the images and the columns of the CTF for values that are far too large",
            )


def _totals(folded: FoldedSums) -> tuple[Tensor, Tensor]:
    """Return the sums of all weights and of all values."""
    of_values = torch.view_as_real(folded.values).sum(dtype=torch.float64)
    return folded.weights.sum(dtype=torch.float64).cpu(), of_values.cpu()


def require_finite_halves(
    inputs: Inputs, halves: tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]
) -> None:
    """Refuse half maps that are no numbers, or empty.

    Raises
    ------
    InputError
        Naming the half.
    """
    for half, volume in enumerate(halves, 1):
        largest = float(volume.abs().max())
        if 0 < largest < torch.inf:
            continue
        raise InputError(
            f"the map of half {half} " + ("is empty" if largest == 0 else "is no numbers any more"),
            where=str(inputs.table.source),
            do="check the images and the columns of the CTF for values that are far too large or "
            "small",
        )
