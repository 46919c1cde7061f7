"""Images whose pose is known because they were made: what a search finds of them, it can find."""

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from cryorefine.assign.align import AlignmentOptions, align_globally, align_locally
from cryorefine.assign.comparison import Reference, WhitenedImages
from cryorefine.assign.exhaustive import CoarseSearch
from cryorefine.assign.search_depth import Search
from cryorefine.fourier.band import phase_ramp
from cryorefine.geometry.rotation import matrix_from_rotvec
from cryorefine.kernels.dispatch import extract_slices
from cryorefine.kernels.grid import SliceGrid
from cryorefine.model.observe import GroupBand

__all__ = ["plant_images", "planted_missed", "planted_poses"]

_WORSE = 1.0
"""Log-likelihood that tells two maxima apart: two refinements to one differ by up to 0.1."""


def planted_poses(
    search: CoarseSearch, n: int, options: AlignmentOptions, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 2"]]:
    """Draw poses from where a search looks: rotations beside its grid, shifts from their prior."""
    device = search.rotations.device
    at = torch.randint(len(search.rotations), (n,), generator=generator)
    beside = (torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5) * search.step_rad
    shifts = options.shift_sigma_px * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    length = shifts.norm(dim=1, keepdim=True).clamp_min(1e-12)
    shifts = shifts * (0.9 * options.max_shift_px / length).clamp(max=1.0)
    rotations = matrix_from_rotvec(beside).to(device) @ search.rotations[at.to(device)]
    shifts = shifts.to(device)
    return (rotations, shifts) if options.step is None else options.step.confined(rotations, shifts)


def plant_images(
    grid: SliceGrid,
    view: GroupBand,
    c: Float[Tensor, "n p"],
    rotations: Float[Tensor, "n 3 3"],
    shifts_px: Float[Tensor, "n 2"],
    generator: torch.Generator,
) -> Complex[Tensor, "n p"]:
    """Return whitened images of a reference: its projections and noise of unit variance."""
    model = extract_slices(grid, rotations, view.points) * c
    model = model * phase_ramp(view.band, -shifts_px.float())
    noise = torch.randn(model.shape, generator=generator, dtype=model.dtype)
    return model + noise.to(model.device)


def planted_missed(
    view: GroupBand,
    c: Float[Tensor, "n p"],
    reference: Reference,
    search: Search,
    options: AlignmentOptions,
    generator: torch.Generator,
) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """Search for planted images.

    Parameters
    ----------
    c
        Whitened contrast transfer of each image.

    Returns
    -------
    missed, found
        Whether a search ended at a pose that explains the image worse than the one it was made at
        (what depth could have cured), and whether it ended beside that pose.
    """
    rotations, shifts_px = planted_poses(search.table, len(c), options, generator)
    x = plant_images(reference.grid, view, c, rotations, shifts_px, generator)
    images = WhitenedImages(view, x, c)
    found = align_globally(images, reference, search, options)
    best = align_locally(images, reference, rotations, shifts_px, options, is_restarted=False)
    is_worse = found.score < best.score - _WORSE
    angle = reference.symmetry.distance(found.rotations, rotations)
    is_beside = angle < search.table.step_rad
    return is_worse.cpu(), is_beside.cpu()
