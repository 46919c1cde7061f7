"""The numbers that a schedule decides by, and why each has its value."""

from dataclasses import dataclass

__all__ = ["DEFAULT_POLICY", "SchedulePolicy"]


@dataclass(frozen=True)
class SchedulePolicy:
    """The numbers that :func:`~cryorefine.refine.schedule.next_plan` decides by.

    Sections named below are those of ``docs/decisions.md`` where nothing else is said. "Measured"
    stands for whole runs with other values: ``benchmarks/RESULTS.md``, "Numbers of the schedule".
    """

    beyond_resolution: float = 0.9
    """Finest detail of the next alignment, as a share of the last resolution (in Å).

    Poses are told by the shells at the limit of what the reference holds; a tenth beyond it lets
    them gain, and the damping by the FSC keeps noise out. Measured: shares of 0.8, 0.95 and 1
    change the mean FSC of small D2 and C1 phantoms by less than seeds do."""

    fastest_gain: float = 0.5
    """Least share of the last alignment's detail (in Å) that the next one may have.

    A FSC that jumps ahead must not pull the search after it at once. Alignments three times as
    fine as the one before took one iteration less for D7 and none for C1, with the same poses
    ("Resolution grows in small steps"); two is the smaller step."""

    fastest_local_gain: float = 0.8
    """The same for local iterations along a user's list, against the last resolution.

    A local refinement leaves a pose for ever where its reference has other maxima than the particle
    ("A local run starts at the resolution of the given poses' own half maps"): steps are smaller
    than in searches. Measured: 0.4 and 0.95 lose or win 0.2 % of the poses."""

    coarsest_shells: int = 3
    """Shells that an alignment compares at least.

    Fewer have too few coefficients to tell poses apart. It acts where a start is coarser than a
    third of the box. Measured: from 120 Å a small D2 phantom fails with 2, 3 and 6."""

    reach: float = 1.6
    """Half maps are filled so many times as far as poses are compared.

    The resolution, which the next alignment follows, must be seen beyond the present one; filling
    less than up to Nyquist saves transforms. Filled three times as far together with steps three
    times as large, nothing was gained ("Resolution grows in small steps")."""

    reach_shells: int = 10
    """Half maps are filled at least so many shells further than poses are compared.

    At coarse resolution ``reach`` alone would be a few shells, in which noise hides where the FSC
    falls. Measured: 5 and 20 end with the same map, at most an iteration earlier or later."""

    many_missed: float = 0.01
    """Share of the decided particles that a search may miss before the next ones become finer.

    A search is planned to lose less than that (99.5 % of C1 at SNR 0.01 are found; "The search goes
    as deep as the information asks"). Of a C1 phantom at SNR 0.1 whose searches missed 1 and 3 %,
    9.6 % of the particles ended on wrong maxima without the finer searches, and 0.2 % with them
    (commit 9427f81, of the search of that time)."""

    more_effort: float = 3
    """Factor on the operations of a search each time that too many were missed.

    Grids have five dimensions: three times the poses is a step smaller by a fifth. Three times was
    enough for the phantom named at ``many_missed``. Measured: 1.5 and 6 end alike (D7)."""

    max_effort: float = 9
    """Largest factor on the operations of a search: it becomes finer twice.

    Above it an iteration of apoferritin would take minutes (commit 9427f81)."""

    settled_fraction: float = 0.01
    """Share of jumping particles below which a search is over, and poses are restarted in turn.

    A limit of 3 % left 2 % of the particles at SNR 0.01 on wrong maxima, where 1 % leaves 1.5 %
    ("Global search goes on while particles jump or remain undecided")."""

    undecided_fraction: float = 0.05
    """Share of undecided particles from which a run searches on although few jump, while it gains.

    Without this rule apoferritin became local after two iterations and ended at a mean FSC of 0.531
    with the model instead of 0.571 to 0.586 (``benchmarks/RESULTS.md``, "Apoferritin"). The value
    was chosen by apoferritin and C1 at SNR 0.005; by their records 0.025 and 0.1 change neither."""

    small_gain: float = 0.01
    """Share by which the mean FSC must rise for an iteration to have gained something.

    The mean rises by less than that where poses stand still ("Gain is measured by the mean
    corrected FSC"). Gains of 1 and of 0.5 % were tried (``benchmarks/RESULTS.md``, "What was chosen
    on these sets")."""

    undecided_gain: float = 0.005
    """The same where many particles are undecided: each search lets some of them find their poses.

    With 0.01 C1 at SNR 0.005 ends at 67.5 instead of 68.2 % within 5°, and at 7.96 instead of 7.80
    Å (measured with commit b042869)."""

    stalled_iterations: int = 3
    """Iterations in a row without gain after which a run stops searching.

    Apoferritin searched for 18 iterations, of which the last eight changed nothing ("The search
    also ends when three iterations in a row gain nothing"). It was two until
    commit ea78de5, which does not say why."""

    still_search: float = 0.35
    """Median rotation in a search, in standard deviations of the poses, below which it may stall.

    Without such a condition apoferritin stopped searching after four iterations, at a mean FSC of
    0.447 instead of 0.54 (same section). The value was 0.3 until its unit became the
    uncertainty by the Gauss-Newton matrix alone, which is smaller (commit bae5832)."""

    still: float = 0.75
    """The same in local iterations, below which poses stand still, so that a run can end.

    500 D7 particles take six iterations so, for 0.404°; nine, until rotations are below 0.1, give
    0.392° for half as much time again, and five 0.434° ("A run ends when neither resolution nor
    poses gain any more")."""

    unknown_deg: float = 57.0
    """Uncertainty of rotations from which poses are not known, so that they cannot stand still.

    A radian, beyond which the Gauss-Newton matrix describes no peak any more. Rotations at random
    turn by 127° in the median, less than the 180° that stand for no information: 600 segments
    whose poses were lost in the third iteration became local in the fifth and ended in the sixth
    with the helix that was given, 5 % wrong (``benchmarks/RESULTS.md``, "Helices")."""

    least_iterations: int = 3
    """Iterations that must be done before the next may be the last one.

    A gain needs something to compare with, and poses two changes to stand still by. Measured: 2
    gives the same runs, as none has converged by then, and 6 a local iteration without gain."""

    few_jump: float = 0.2
    """Share of jumping particles below which searches take only some of them, in turn.

    The others are followed from where they are as the reference gets better. Real sets have
    particles that never stop jumping ("The search also ends when three iterations in a row gain
    nothing"). Measured: 0.1 and 0.4 end with the same map; 0.1 takes 12 % more time for C1."""

    turns: int = 3
    """Iterations in which every particle has its turn, of search or of restarts.

    Restarts of a third of 2,000 D7 particles gave the same poses to three digits as restarts of
    all, which took 7 % of the run ("Local poses are restarted in turn")."""

    first_particles: int = 1000
    """Particles of an automatic run's first iteration, in both halves together.

    References at 10 to 25 Å need no more ("The first iteration uses 1,000 particles"). Measured:
    C1 ends alike; 500 take two iterations and 23 % more time, 2,000 take 11 % more."""

    share_growth: float = 2.0
    """Factor from one iteration's number of particles to the next one's.

    Each particle is then searched first where the reference is already good, and all parts cost
    about as much as one iteration over all. Measured: 1.4 and 4 end alike; 4 takes 12 % longer."""

    nearly_all: float = 0.7
    """Share of the particles from which an iteration takes all.

    An iteration over seven tenths would cost nearly as much as one over all, and one over all would
    follow. Measured: 0.35 and 1 end with the same map; 0.35 takes 12 % more time for C1."""

    fixed_local_share: float = 0.4
    """Share of a fixed schedule's iterations that are local, at its end.

    Of five iterations two: the 3 global and 2 local ones of the HighRes protocol ("A fixed schedule
    is a number of iterations whose last two fifths are local")."""

    may_stay: float = 0.001
    """Share of particles that may be left unsearched although they fit badly, where a run ends.

    As many right poses score so low by chance: of a Gaussian, 0.13 % lie below -3 standard
    deviations, where a particle counts as badly fitting."""


DEFAULT_POLICY = SchedulePolicy()
"""What runs decide by."""
