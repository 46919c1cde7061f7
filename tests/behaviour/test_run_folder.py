"""What the top of a run folder shows, and what the texts in it say."""

import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.io.mrc import read_stack_header, read_volume, write_stack, write_volume
from cryorefine.io.star import read_star
from cryorefine.run.checkpoint import load_state
from cryorefine.run.folder import write_iteration_files
from cryorefine.run.loop import refine
from cryorefine.settings import RefineSettings
from cryorefine.state.plan import IterationRecord
from cryorefine.storage.publication import publish, repair, unlike_iteration
from tests.run.test_folder import make_run

from .conftest import begun, settings_for, simulate_set


def test_the_top_of_a_folder_shows_the_newest_iteration_only(tmp_path):
    run = make_run(tmp_path / "run")
    newest = run / "iteration_001"
    (run / "published.json").write_text("{}")
    for name in ("map.mrc", "fsc.star"):
        (newest / name).write_text("new")
    mine = run / "mask.mrc"  # an input of the run by the name of a result
    publish(run, 1, kept=[mine])
    assert json.loads((run / "published.json").read_text())["iteration"] == 1
    (run / "published.json").write_text("x")
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
        "published.json": "x",
        "legs.json": "x",
    }


def test_particles_that_were_left_out_are_listed_by_each_iteration(small_set, tmp_path):
    inputs, state = begun(settings_for(small_set))
    few = replace(
        inputs, rejected=inputs.table.select(np.arange(3)), rejected_reasons=("dark",) * 3
    )
    for name, given, n in (("few", few, 3), ("none", inputs, 0)):
        (tmp_path / name).mkdir()
        write_iteration_files(tmp_path / name, given, state, {})
        table = tmp_path / name / "rejected_particles.star"
        assert (table.read_text().count("dark") if table.exists() else 0) == n


@pytest.fixture(scope="module")
def one_dark(tmp_path_factory) -> Path:
    """A small set with one image that holds nothing."""
    data = simulate_set(
        tmp_path_factory.mktemp("one_dark") / "data",
        particles=64, box_px=32, pixel_angstrom=5.4, per_micrograph=8, snr=0.4,
    )  # fmt: skip
    stack = data / "particles.mrcs"
    images = torch.from_numpy(np.array(read_stack_header(stack).read(), dtype=np.float32))
    images[5] = 0
    write_stack(stack, images, 5.4, half=False)
    truth = read_volume(data / "truth_map.mrc")
    ones = torch.ones_like(truth.data)
    write_volume(data / "mask.mrc", ones, truth.voxel_A)
    return data


KINDS = {
    "global": {
        "alignment": "global", "iterations": 2, "weight_cc": True, "weight_ssnr": True,
        "fsc_criterion": 0.5, "initial_lowpass_angstrom": 25.0,
    },
    "two maps": {"alignment": "global", "iterations": 1, "reference": 2, "symmetry": "c2"},
    "local": {"alignment": "local", "iterations": 2, "refine_grey": True, "reference": 0},
    "none": {"alignment": "none", "reference": 0, "symmetry": "c1"},
    "no ctf": {"alignment": "none", "reference": 0, "ctf": False, "mask": "mask.mrc"},
    "stochastic": {"alignment": "stochastic", "iterations": 2, "stochastic_subset": 9},
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What a run was asked for and what its folder says."""

    settings: RefineSettings
    history: list[IterationRecord]
    start_A: float
    summary: dict
    summary_txt: str
    methods_txt: str
    particles: dict
    folder: Path

    @property
    def lines(self) -> dict[str, str]:
        """The lines of ``summary.txt`` by their first word."""
        lines = [line for line in self.summary_txt.split("\niterations\n")[0].splitlines() if line]
        return {line.split()[0]: line for line in lines}


@pytest.fixture(scope="module", params=KINDS)
def written(request, one_dark, tmp_path_factory) -> Written:
    values = {"compare_to": None, **KINDS[request.param]}
    n_maps = values.pop("reference", 1)
    values["reference"] = (one_dark / "reference.mrc",) * n_maps
    if "mask" in values:
        values["mask"] = one_dark / values["mask"]
    star = "particles.star" if n_maps else "truth_particles.star"
    settings = settings_for(one_dark, particles=one_dark / star, **values)
    folder = tmp_path_factory.mktemp("written") / "run"
    refine(settings, folder)
    summary = json.loads((folder / "summary.json").read_text())
    state = load_state(folder, summary["iterations"]).state
    block = read_star(folder / "particles.star")["particles"]
    columns = {
        n: block.floats(n) for n in ("cryorefineWeight", "cryorefineIsInMaps", "rlnRandomSubset")
    }
    return Written(
        settings, state.history, state.start_A, summary,
        (folder / "summary.txt").read_text(), (folder / "methods.txt").read_text(), columns, folder,
    )  # fmt: skip


def number(pattern: str, text: str) -> float:
    """Return the only number that a pattern finds in a text."""
    found = re.findall(pattern, text)
    assert len(found) == 1, (pattern, text)
    return float(found[0])


def test_the_summary_counts_particles_as_the_files_have_them(written):
    weight = np.nan_to_num(written.particles["cryorefineWeight"])
    n_used = int((weight > 0).sum())
    assert number(r"^particles +(\d+) in", written.lines["particles"]) == 64
    assert written.lines["particles"].endswith(str(written.settings.particles))
    assert written.lines["rejected"].split()[1:] == ["1;", "1:", "constant"]
    assert number(r"used +(\d+) ", written.lines["used"]) == n_used
    worth = weight.sum() ** 2 / np.square(weight).sum()
    assert number(r"worth (\d+) of", written.lines["used"]) == pytest.approx(worth, abs=0.6)
    halves = Counter(written.particles["rlnRandomSubset"].astype(int).tolist())
    assert written.lines["half"].split()[2::2] == [str(halves[1]), str(halves[2])]
    assert halves[1] + halves[2] == 63
    assert (written.summary["n_used"], written.summary["n_particles"]) == (n_used, 64)
    in_maps = written.particles["cryorefineIsInMaps"] == 1
    assert (in_maps == (weight > 0)).all()
    left = re.findall(r"^  (\d+) have no pose", written.summary_txt, re.MULTILINE)
    assert left == ([str(63 - n_used)] if written.settings.alignment == "stochastic" else [])


def test_the_summary_has_the_numbers_of_the_run_and_of_its_maps(written):
    s, lines = written.settings, written.lines
    first = written.summary_txt.splitlines()[0]
    assert first == (
        f"cryorefine {version('cryorefine')}: {s.alignment} alignment, "
        f"{len(written.history)} iterations"
    )
    assert lines["symmetry"].split()[1] == s.symmetry
    volume = read_volume(written.folder / "map.mrc")
    assert number(r"maps +(\d+) voxels", lines["maps"]) == volume.data.shape[-1]
    assert number(r"of ([\d.]+) Å,", lines["maps"]) == pytest.approx(volume.voxel_A, abs=1e-3)
    radius_A = written.summary["particle_radius_px"] * volume.voxel_A
    assert number(r"radius ([\d.]+) Å", lines["maps"]) == pytest.approx(radius_A, abs=0.06)
    assert number(r"at FSC ([\d.]+) ", lines["resolution"]) == s.fsc_criterion
    for pattern, name in ((r"resolution +([\d.]+) Å", "resolution_A"),
                          (r"unmasked ([\d.]+) Å", "resolution_unmasked_A")):  # fmt: skip
        assert number(pattern, lines["resolution"]) == round(written.summary[name], 2)
    fsc = read_star(written.folder / "fsc.star")["fsc"]
    curve = fsc.floats("rlnFourierShellCorrelationCorrected")
    shell = volume.data.shape[-1] * volume.voxel_A / written.summary["resolution_A"]
    # Before the resolution the curve is above the criterion, at the next whole shell below it.
    assert (curve[1 : int(shell)] > s.fsc_criterion - 0.1).all()
    weights = lines["weights"]
    assert ("signal-to-noise" in weights) == s.weight_ssnr
    assert ("percentile" in weights) == s.weight_cc
    assert ("all particles alike" in weights) == (not s.weight_cc)
    assert ("grey scale and offset" in written.summary_txt) == s.refine_grey


def test_the_summary_lists_the_iterations_as_the_history_has_them(written):
    listed = written.summary_txt.split("\niterations\n")[1].splitlines()
    assert len(listed) == len(written.history)
    for line, record in zip(listed, written.history, strict=True):
        words = line.split()
        assert words[:2] == [str(record.iteration), record.mode]
        compared = number(r"compared to +([\d.]+) Å", line)
        assert compared == pytest.approx(record.align_resolution_A, abs=0.006)
        reached = number(r"resolution ([\d.]+) Å", line)
        assert reached == pytest.approx(record.resolution_A, abs=0.006)
        turned = re.findall(r"turned ([\d.]+)°", line)
        if np.isnan(record.median_turn_deg):
            assert not turned
        else:
            assert float(turned[0]) == pytest.approx(record.median_turn_deg, abs=0.006)


def test_the_methods_say_what_was_done_and_with_what(written):
    s, text = written.settings, written.methods_txt
    star = s.particles.name
    assert f"(64 images of {star}, 1 of them set aside: 1 constant)" in text
    assert f"cryorefine {version('cryorefine')} (torch {version('torch')})" in text
    assert f"imposing {s.symmetry.upper()} symmetry." in text
    modes = Counter(record.mode for record in written.history)
    assert ("searches of all orientations" in text) == bool(modes["global"])
    if modes["global"]:
        kind = "of random subsets " if s.alignment == "stochastic" else ""
        times = "iteration" if modes["global"] == 1 else "iterations"
        assert f"in {modes['global']} {times} {kind}with searches of all orientations" in text
    assert (f"in {modes['local']} local iterations" in text) == (s.alignment == "local")
    # A reconstruction finds no poses and refines nothing.
    is_kept = s.alignment == "none"
    assert ("reconstructed with cryorefine" in text) == is_kept
    assert ("with the poses given" in text) == is_kept
    assert ("Poses were found" in text) == (not is_kept)
    assert ("refined" in text) == (not is_kept)
    assert ("no contrast transfer was corrected" in text) == (not s.ctf)
    assert ("full contrast transfer function" in text) == s.ctf


def test_the_methods_have_the_numbers_of_the_start_and_of_the_end(written):
    s, text = written.settings, written.methods_txt
    start = {0: "", 1: "The initial map was", 2: "The initial maps were"}[len(s.reference)]
    filtered = f"{start} low-pass filtered to {s.initial_lowpass_angstrom:g} Å ("
    assert (filtered in text) == bool(start)
    assert text.count("low-pass filtered") == bool(start)
    if s.alignment == "local":
        start_A = number(r"half maps of the given poses \(([\d.]+) Å\)", text)
        assert start_A == pytest.approx(written.start_A, abs=0.006)
    else:
        assert "half maps of the given poses" not in text
    resolution_A = number(r"The resolution is ([\d.]+) Å", text)
    assert resolution_A == round(written.summary["resolution_A"], 2)
    assert number(r"half maps at ([\d.]+), within", text) == s.fsc_criterion
    assert ("within the given mask (mask.mrc)" in text) == (s.mask is not None)
    assert ("a soft mask found in the map" in text) == (s.mask is None)
    n_used = int((np.nan_to_num(written.particles["cryorefineWeight"]) > 0).sum())
    assert number(r"(\d+) particles contributed", text) == n_used
    assert ("particles were weighted by" in text) == (s.weight_cc or s.weight_ssnr)
    assert ("grey scale and offset were refined" in text) == s.refine_grey


def test_the_fsc_and_the_script_for_chimerax_are_shown_at_the_top_and_put_back(
    tiny_finished, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(tiny_finished.folder, run)
    newest = run / f"iteration_{tiny_finished.summary['iterations']:03d}"
    names = ("fsc.star", "fsc.xml", "fsc.csv", "open_in_chimerax.cxc")
    before = {name: (run / name).read_bytes() for name in names}
    assert before == {name: (newest / name).read_bytes() for name in names}
    for name in names:
        (run / name).unlink()
    assert set(names) <= set(unlike_iteration(run))
    repair(run)
    assert before == {name: (run / name).read_bytes() for name in names}
    for line in before["open_in_chimerax.cxc"].decode().splitlines():
        if line.startswith("open "):
            assert (run / line.removeprefix("open ")).is_file()
