"""What the top of a run folder shows, and what the texts in it say."""

from dataclasses import replace

import numpy as np

from cryorefine.run.folder import publish
from tests.run.test_folder import make_run

from .conftest import begun, settings_for


def test_the_top_of_a_folder_shows_the_newest_iteration_only(small_set, tmp_path):
    inputs, _ = begun(settings_for(small_set))
    run = make_run(tmp_path / "run")
    newest = run / "iteration_001"
    for name in ("map.mrc", "fsc.star"):
        (newest / name).write_text("new")
    mine = run / "mask.mrc"  # an input of the run by the name of a result
    inputs = replace(inputs, settings=inputs.settings.model_copy(update={"mask": mine}))
    publish(run, newest, inputs)
    shown = {p.name: p.read_text() for p in run.iterdir() if p.is_file()}
    assert shown == {
        "map.mrc": "new",
        "fsc.star": "new",
        "mask.mrc": "x",
        # What belongs to the run and to no iteration.
        "settings.toml": "x",
        "manifest.json": "x",
        "events.jsonl": "x",
        "report.html": "x",
    }
    # Particles that this segment left out are listed, those of an earlier one no longer.
    few = replace(
        inputs, rejected=inputs.table.select(np.arange(3)), rejected_reasons=("dark",) * 3
    )
    publish(run, newest, few)
    assert (run / "rejected_particles.star").read_text().count("dark") == 3
    publish(run, newest, inputs)
    assert not (run / "rejected_particles.star").exists()
