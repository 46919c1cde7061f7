"""Short runs that tests of options make, and compare theirs with."""

from pathlib import Path
from typing import Any

from torch import Tensor

from cryorefine.io.mrc import read_volume
from cryorefine.io.star import StarBlock, read_star
from cryorefine.run.loop import refine

from .conftest import settings_for

KEPT_POSES = {"alignment": "none", "reference": (), "known": True}
"""The shortest run, for what does not depend on how poses are found."""


def run(data: Path, folder: Path, **changes: Any) -> tuple[dict[str, Any], StarBlock]:
    """Refine once with the given settings; return what it came to and its columns."""
    known = changes.pop("known", False)
    values = {"alignment": "global", "iterations": 1, **changes}
    if known:
        values["particles"] = data / "truth_particles.star"
    summary = refine(settings_for(data, **values), folder)
    return summary, read_star(folder / "particles.star")["particles"]


def maps(folder: Path, name: str = "half1.mrc") -> Tensor:
    return read_volume(folder / name).data
