"""One step of a run: an iteration over the particles that it asks for, or the last one."""

from collections.abc import Callable
from dataclasses import replace

from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.refine.counting import with_counts
from cryorefine.refine.earlier_sums import with_earlier_sums
from cryorefine.refine.finalise import finalise
from cryorefine.refine.iteration import iterate
from cryorefine.refine.split import inputs_of_iteration, state_before
from cryorefine.refine.subset import plain_poses, rows_in_use, select_state, with_the_others
from cryorefine.state.plan import IterationPlan, IterationRecord
from cryorefine.state.state import Inputs, State

__all__ = ["advance"]


def advance(
    inputs: Inputs,
    state: State,
    plan: IterationPlan,
    events: EventLog,
    engine: Engine,
    *,
    is_over: Callable[[list[IterationRecord]], bool],
) -> State:
    """Make one iteration with the particles that it asks for; the others keep what they have.

    ``is_over`` tells from the history whether the run ends with it.
    """
    begun = state_before(inputs, state, plan.iteration)
    inputs = inputs_of_iteration(inputs, plan.iteration)
    rows = rows_in_use(inputs, plan)
    if rows is None:
        made = iterate(inputs, begun, plan, events, engine)
    else:
        state = with_earlier_sums(inputs, state, plan, events, engine)
        begun = select_state(replace(begun, sums=state.sums), rows)
        made = iterate(inputs.select(rows), begun, plan, events, engine)
    is_last = is_over(made.after.history)
    after = finalise(made, events, engine) if is_last else made.after
    if rows is not None:
        after = with_the_others(after, state, rows, len(inputs.table))
    else:
        before = None if state.poses is None else plain_poses(state.poses)
        after = replace(after, previous=before)
    return with_counts(inputs, state, after, plan, rows, made.n_aligned)
