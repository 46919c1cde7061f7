"""Runs whose iterations are those of an earlier one: all of a run but its computing, in no time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cryorefine.run.first_segment as first_segment_module
import cryorefine.run.loop as loop_module
from cryorefine.run.loop import refine
from cryorefine.settings import RefineSettings
from cryorefine.state.state import State

from .conftest import settings_for, simulate_set


@dataclass(frozen=True, eq=False)
class Canned:
    """A set, the settings of a run of two iterations, and what it made."""

    data: Path
    settings: RefineSettings
    folder: Path
    prepared: Any
    states: dict[int, State]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let runs of these settings take what was made instead of making it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first_segment_module, "_prepare", lambda *_: self.prepared)
            patch.setattr(
                loop_module, "advance", lambda i, s, plan, *_, **__: self.states[plan.iteration]
            )
            yield


def make_canned(folder: Path, alignment: str = "global") -> Canned:
    """Refine a tiny set, and keep what it takes to do so again."""
    data = simulate_set(
        folder / "data",
        particles=32, box_px=24, pixel_angstrom=7.0, per_micrograph=8, snr=0.5,
        diameter_angstrom=110,
    )  # fmt: skip
    changes: dict[str, Any] = {"alignment": alignment, "iterations": 2}
    if alignment == "none":
        poses = data / "truth_particles.star"
        changes = {"alignment": alignment, "particles": poses, "reference": ()}
    settings = settings_for(data, compare_to=None, symmetry="c1", threads=1, **changes)
    prepared: list[Any] = []
    states: dict[int, State] = {}
    prepare, advance = first_segment_module._prepare, loop_module.advance

    def keep_prepared(*args: Any) -> Any:
        prepared.append(prepare(*args))
        return prepared[0]

    def keep_state(inputs: Any, state: State, plan: Any, *args: Any, **kwargs: Any) -> State:
        states[plan.iteration] = advance(inputs, state, plan, *args, **kwargs)
        return states[plan.iteration]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_segment_module, "_prepare", keep_prepared)
        patch.setattr(loop_module, "advance", keep_state)
        refine(settings, folder / "run")
    return Canned(data, settings, folder / "run", prepared[0], states)
