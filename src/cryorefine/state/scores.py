"""What a run has measured of each particle beside its pose: one column a measure."""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ParticleScores", "measured"]


@dataclass(frozen=True, eq=False)
class ParticleScores:
    """Scores of n particles, float64; a column is None where a run has not measured it at all.

    A column is NaN for particles that have not been assigned yet, and where there is nothing to
    measure. ``particles.star`` and checkpoints have the columns in the order of the fields.

    Attributes
    ----------
    score
        Log-likelihood of the best pose over that of no particle at all; NaN: not assigned.
    gap
        Log-likelihood of the best over the second-best pose apart from it; infinity if none
        competed.
    n_effective
        Effective number of competing poses, 1 or more.
    probability
        Share of the posterior that the best pose holds, 0 to 1.
    correlation
        Normalised correlation of image and model over the band, noise-weighted, -1 to 1.
    scale
        Amplitude of the model in the image, relative to the half's mean.
    sigma_rotation_deg, sigma_shift_A
        Standard deviations: of the angle (root mean square over three axes), of a shift component.
    at_shift_limit, at_tilt_limit
        1 where the shift lies on its limit, and where the pose lies on, or was kept outside, the
        limits of the tilt; 0 elsewhere.
    fit_z
        How much better the score is than that of a particle at its right pose should be, in
        standard deviations of it; negative: worse.
    searched_A
        Resolution at which the particle was last searched everywhere, in ångströms; NaN: never.
    fits_nothing
        1 where it was searched as finely as the others and still fits worse than it should.
    cost, max_cc
        Correlation of the last local, and of the last other iteration; NaN before one.
    angle_diff_deg, shift_diff_A
        Change of the pose since the iteration before; NaN where there was no pose.
    angle_diff2_deg, shift_diff2_A
        The same since the iteration before that.
    angular_temperature_deg
        Running mean of the changes of the angle.
    defocus_group
        Number of the group of like defocus that ranks are made within, from 1.
    cost_percentile, max_cc_percentile
        Ranks of ``cost`` and ``max_cc`` within half and defocus group, 0 to 1.
    percentile
        That of the kind of the last iteration.
    ssnr_dB
        Signal-to-noise ratio of the image in decibels; measured where weights ask for it.
    weight_cost, weight_stability, weight_cc, weight_ssnr
        Partial weights, 0 or more, whether they are used or not.
    weight
        Product of those in use, with mean 1 over a half's particles; NaN and 0 do not count.
    is_in_maps
        1 where the image is in the half maps: it has a weight, and was drawn.
    correlation_index, correlation_mask, correlation_weight, imed
        Likeness of image and model in real space, as
        :func:`~cryorefine.assign.image_scores.image_scores` defines them; measured at the end.
    """

    score: Float[Tensor, "n"] | None = None
    gap: Float[Tensor, "n"] | None = None
    n_effective: Float[Tensor, "n"] | None = None
    probability: Float[Tensor, "n"] | None = None
    correlation: Float[Tensor, "n"] | None = None
    scale: Float[Tensor, "n"] | None = None
    sigma_rotation_deg: Float[Tensor, "n"] | None = None
    sigma_shift_A: Float[Tensor, "n"] | None = None
    at_shift_limit: Float[Tensor, "n"] | None = None
    at_tilt_limit: Float[Tensor, "n"] | None = None
    fit_z: Float[Tensor, "n"] | None = None
    searched_A: Float[Tensor, "n"] | None = None
    fits_nothing: Float[Tensor, "n"] | None = None
    cost: Float[Tensor, "n"] | None = None
    max_cc: Float[Tensor, "n"] | None = None
    angle_diff_deg: Float[Tensor, "n"] | None = None
    shift_diff_A: Float[Tensor, "n"] | None = None
    angle_diff2_deg: Float[Tensor, "n"] | None = None
    shift_diff2_A: Float[Tensor, "n"] | None = None
    angular_temperature_deg: Float[Tensor, "n"] | None = None
    defocus_group: Float[Tensor, "n"] | None = None
    cost_percentile: Float[Tensor, "n"] | None = None
    max_cc_percentile: Float[Tensor, "n"] | None = None
    percentile: Float[Tensor, "n"] | None = None
    ssnr_dB: Float[Tensor, "n"] | None = None
    weight_cost: Float[Tensor, "n"] | None = None
    weight_stability: Float[Tensor, "n"] | None = None
    weight_cc: Float[Tensor, "n"] | None = None
    weight_ssnr: Float[Tensor, "n"] | None = None
    weight: Float[Tensor, "n"] | None = None
    is_in_maps: Float[Tensor, "n"] | None = None
    correlation_index: Float[Tensor, "n"] | None = None
    correlation_mask: Float[Tensor, "n"] | None = None
    correlation_weight: Float[Tensor, "n"] | None = None
    imed: Float[Tensor, "n"] | None = None

    def columns(self) -> dict[str, Float[Tensor, "n"]]:
        """Return the measured columns by name, in the order of the fields."""
        all_columns = ((entry.name, getattr(self, entry.name)) for entry in fields(self))
        return {name: column for name, column in all_columns if column is not None}

    def replace(self, **columns: Float[Tensor, "n"] | None) -> "ParticleScores":
        """Return the same with some columns replaced."""
        return replace(self, **columns)

    def select(self, index: Int[Tensor, "m"] | Tensor) -> "ParticleScores":
        """Return those of the particles that an index or a mask chooses."""
        return ParticleScores(**{name: column[index] for name, column in self.columns().items()})

    @staticmethod
    def join(parts: "list[ParticleScores]") -> "ParticleScores":
        """Return the scores of several sets of particles, one after the other.

        Raises
        ------
        ValueError
            If not all have the same columns.
        """
        columns = [part.columns() for part in parts]
        if any(part.keys() != columns[0].keys() for part in columns):
            raise ValueError("sets of particles with different columns cannot be joined")
        return ParticleScores(
            **{name: torch.cat([part[name] for part in columns]) for name in columns[0]}
        )

    def updated(self, index: Int[Tensor, "m"], part: "ParticleScores", n: int) -> "ParticleScores":
        """Return the scores of all n particles with those of some replaced.

        Only columns that ``part`` has are kept: the others speak of an earlier iteration. The
        particles that ``part`` says nothing of keep what they had there, or are NaN.
        """
        columns = {}
        for name, new in part.columns().items():
            old = getattr(self, name)
            every = new.new_full((n,), torch.nan) if old is None else old
            columns[name] = every.index_copy(0, index, new)
        return ParticleScores(**columns)


def measured(column: Float[Tensor, "n"] | None) -> Float[Tensor, "n"]:
    """Return a column that must be there.

    Raises
    ------
    ValueError
        If the run has not measured it.
    """
    if column is None:
        raise ValueError("this score of the particles has not been measured yet")
    return column
