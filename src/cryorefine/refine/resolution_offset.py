"""How far references reach where the user shifts their limit against the resolution."""

from cryorefine.refine.policy import DEFAULT_POLICY, SchedulePolicy
from cryorefine.settings import RefineSettings

__all__ = ["offset_limit_A"]


def offset_limit_A(
    settings: RefineSettings,
    resolution_A: float,
    nyquist_A: float,
    policy: SchedulePolicy = DEFAULT_POLICY,
) -> float | None:
    """Return the resolution plus the user's offset, in Å; None where none was given.

    It is at most twice as fine as the resolution (``policy.fastest_gain``), as steps between
    iterations are, and never beyond Nyquist.
    """
    offset_A = settings.resolution_offset_angstrom
    if offset_A is None:
        return None
    return max(resolution_A + offset_A, policy.fastest_gain * resolution_A, nyquist_A)
