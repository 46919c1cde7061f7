"""Half sets that are drawn anew at every iteration, where that is asked for."""

from dataclasses import replace

import numpy as np
import torch

from cryorefine.events import EventLog
from cryorefine.particles.half_sets import deal_halves
from cryorefine.state.state import Inputs, State

__all__ = ["inputs_of_iteration", "state_before"]

_STREAM = 1
"""Tells the draws of half sets from those of an iteration's subset, which have the same seed."""


def inputs_of_iteration(inputs: Inputs, iteration: int) -> Inputs:
    """Return the inputs with the half sets of an iteration.

    They are the run's own, unless ``split`` is stochastic: then whole micrographs, or single images
    where those would be uneven, are dealt anew, by the seed and the iteration alone. Before the
    first iteration they are the run's own in any case.
    """
    if inputs.settings.split == "fixed" or iteration == 0:
        return inputs
    # What there is to warn of has been said when the first halves were drawn.
    half = deal_halves(
        inputs.table,
        np.zeros(2, np.int64),
        seed=(inputs.settings.seed, iteration, _STREAM),
        events=EventLog(),
        few="",
    )
    return replace(inputs, half=half)


def state_before(inputs: Inputs, state: State, iteration: int) -> State:
    """Return the state that an iteration begins with.

    The references of a half hold the images that were in it before: those that have come from the
    other half find no noise of their own there, which a weight of 0 says.

    Parameters
    ----------
    inputs
        Of the run.
    """
    if inputs.settings.split == "fixed" or state.poses is None:
        return state
    scores = state.poses.scores
    if scores.weight is None:
        return state
    now = inputs_of_iteration(inputs, iteration).half
    stays = torch.from_numpy(now == inputs_of_iteration(inputs, iteration - 1).half)
    weight = scores.weight * stays
    return replace(state, poses=replace(state.poses, scores=scores.replace(weight=weight)))
