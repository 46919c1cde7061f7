"""Settings of what particles are weighted by in the reconstruction."""

from pydantic import Field

from cryorefine.settings.group import SettingsGroup

__all__ = ["WeightSettings"]


class WeightSettings(SettingsGroup):
    """What particles are weighted by in the reconstruction."""

    weight_ssnr: bool = Field(
        False, description="Weight particles by the signal-to-noise ratio of their images."
    )
    weight_cost: bool = Field(
        False, description="Weight particles by their correlation in local iterations."
    )
    weight_stability: bool = Field(
        False, description="Weight particles by how little their pose changed in two iterations."
    )
    weight_cc: bool = Field(
        False,
        description="Weight particles by the percentile of their correlation among those of like "
        "defocus.",
    )
    min_cc_weight: float = Field(
        0.1, ge=0, le=1, description="Weight of the lowest percentile, for --weight-cc."
    )
    file_weights: bool = Field(
        True,
        description="Use the weights of an earlier run in the particle file (cryorefineWeight) "
        "wherever its poses are reconstructed: by alignment 'none' unless a weight is asked for, "
        "and for the start of a refinement.",
    )
