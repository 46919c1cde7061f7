"""What is measured once, when a run ends: for people to look at, no iteration needs it."""

from dataclasses import replace

from cryorefine.engine.protocol import Engine
from cryorefine.events import EventLog
from cryorefine.expectation.broken_symmetry import warn_of_broken_symmetry
from cryorefine.expectation.image_similarity import measure_image_similarity
from cryorefine.expectation.pose_uncertainty import calibrate_covariance
from cryorefine.refine.evaluation import measure_directions
from cryorefine.refine.iteration import Iteration
from cryorefine.state.scores import measured
from cryorefine.state.state import State

__all__ = ["finalise"]


def finalise(made: Iteration, events: EventLog, engine: Engine) -> State:
    """Return the state after a run's last iteration.

    With the resolution in the worst direction, calibrated uncertainties, whether images contradict
    the symmetry, and what tells them apart from their models.
    """
    inputs, plan, before, state = made.inputs, made.plan, made.before, made.after
    poses, halves, mask, evaluation = state.poses, state.halves, state.mask, state.evaluation
    if poses is None or halves is None or mask is None or evaluation is None:
        raise ValueError("nothing can be measured before the first iteration")
    device = inputs.device
    on_device = halves[0].to(device), halves[1].to(device)
    evaluation = measure_directions(inputs, on_device, mask.to(device), evaluation, events)
    if plan.mode != "none":
        poses = calibrate_covariance(inputs, before, poses, made.references, plan, events, engine)
    evaluation = warn_of_broken_symmetry(inputs, state, poses, evaluation, events)
    similarity = measure_image_similarity(
        inputs, before, poses, made.references, plan.align_resolution_A, events, engine
    )
    poses = replace(poses, scores=poses.scores.replace(**similarity))
    record = replace(
        state.history[-1],
        median_sigma_rotation_deg=float(measured(poses.scores.sigma_rotation_deg).median()),
    )
    return replace(state, poses=poses, evaluation=evaluation, history=[*state.history[:-1], record])
