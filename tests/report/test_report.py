"""The page as a whole, built from small synthetic run folders."""

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cryorefine.errors import InputError
from cryorefine.report.build import write_report
from cryorefine.report.header import run_state
from cryorefine.report.run_folder import RunFolder
from cryorefine.settings import RefineSettings, save_settings
from tests.report.run_folders import begin_run, make_run, summary, write_events

FIGURES = (
    "Central slices",
    "Projections",
    "Final curves",
    "Corrected curve by iteration",
    "Viewing directions",
    "Resolution",
    "Turn of the poses",
    "Particles that jumped",
    "Score",
    "Correlation",
    "Accuracy of orientations",
    "Shifts",
    "Change of orientations",
    "Weights",
    "Percentiles",
    "Correlation by defocus group",
    "Particles by iteration",
)


class Page(HTMLParser):
    """What a test asks of a page: references, identifiers, elements and text."""

    def __init__(self, html: str):
        super().__init__()
        self.references: list[str] = []
        self.identifiers: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.references.append(value or "")
            if name == "id":
                self.identifiers.append(value or "")

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    run = make_run(tmp_path_factory.mktemp("report") / "my run <1>")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def html(finished_run) -> str:
    return (finished_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_page_refers_to_nothing_outside_itself(html, page):
    assert page.references
    assert all(r.startswith(("data:", "#")) for r in page.references)
    assert not re.search(r"https?://|url\((?!#)|@import|<script|<link", html)


def test_identifiers_in_the_page_are_unique_and_references_to_them_resolve(page):
    assert len(page.identifiers) == len(set(page.identifiers))
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.identifiers)


def test_page_shows_the_numbers_of_the_run(page):
    for text in ("8.84 Å", "10.00 Å", "60", "1 rejected", "C1", "24 px", "1 min 20 s", "1.25 GB"):
        assert text in page.text
    assert "Finished: converged after 2 iterations." in page.text
    assert "my run <1>" in page.text
    assert "0.87" in page.text


def test_every_figure_is_drawn(page):
    assert all(title in page.text for title in FIGURES)
    assert page.tags.count("svg") == len(FIGURES) - 2
    assert page.tags.count("img") == 6
    assert "could not be drawn" not in page.text
    assert "incomplete" not in page.text


def test_drawings_take_the_colours_of_the_page(html):
    assert "var(--blue, #1f5f92)" in html
    assert not re.search(r"(?<!, )#1f5f92(?!;)", html)


def test_warnings_are_shown_verbatim_and_cannot_become_markup(html, page):
    assert "1 image <b>left out</b> & kept" in page.text
    assert "<b>" not in html


def test_table_has_the_time_of_each_iteration_alone(page):
    rows = re.sub(r"\s+", " ", page.text)
    assert "1global11.42 Å" in rows
    assert page.text.count("1 min 15 s") == 2


def test_table_and_head_count_the_particles_that_are_in_no_map(page):
    rows = re.sub(r"\s+", " ", page.text)
    assert all(cells in rows for cells in ("–601", "–604"))  # aligned, in the maps, left out
    assert "1 rejected, 3 left out" in rows


def test_settings_and_provenance_are_shown(html, page):
    assert "initial_lowpass_angstrom" in page.text
    assert "cryorefine refine 'my particles.star'" in page.text
    assert f'title="{"ab" * 32}' in html
    assert "abababababab…" in page.text


def test_run_without_iterations_gives_a_page_that_says_it_is_running(tmp_path):
    begin_run(tmp_path / "run", time.time())
    write_report(tmp_path / "run")
    page = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "Running: the first iteration is under way." in page.text
    assert "left out" in page.text
    assert "There are no results yet" in page.text
    assert "svg" not in page.tags


def test_single_iteration_is_not_drawn_as_a_course(tmp_path):
    run = make_run(tmp_path / "run")
    shutil.rmtree(run / "iteration_002")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    write_events(run, [e for e in events if e.get("iteration") != 2])
    write_report(run)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "Corrected curve by iteration" not in page.text
    assert "Particles that jumped" not in page.text
    assert page.tags.count("svg") == len(FIGURES) - 2 - 5


def test_damaged_and_missing_files_give_notes_and_not_exceptions(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "iteration_001" / "fsc.star").write_text("data_fsc\n\nloop_\n_rlnResolution #1\n1 2\n")
    (run / "map.mrc").write_bytes(b"not a map")
    (run / "manifest.json").write_text("{")
    write_report(run)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "Iteration 1 is left out" in page.text
    assert page.text.count("This figure could not be drawn") == 2
    assert "manifest.json cannot be read" in page.text
    assert page.tags.count("svg") == len(FIGURES) - 2


def test_page_that_cannot_be_written_warns_and_does_not_raise(tmp_path):
    begin_run(tmp_path / "run", time.time())
    (tmp_path / "run" / "report.html").mkdir()
    with pytest.warns(RuntimeWarning, match=r"report\.html could not be written"):
        write_report(tmp_path / "run")


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)


def test_state_tells_running_stopped_and_finished_apart(tmp_path):
    run, now = tmp_path / "run", 1e9
    events = begin_run(run, now)
    events.append({"time": now, "kind": "iteration", "iteration": 1})
    write_events(run, events)
    (run / "summary.json").write_text(json.dumps(summary(1, finished=False)))
    assert run_state(RunFolder(run), now + 60).word == "running"
    assert run_state(RunFolder(run), now + 1e5).word == "stopped"
    write_events(run, [*events, {"time": now + 1e5, "kind": "resume", "iteration": 1}])
    assert run_state(RunFolder(run), now + 1e5 + 60).word == "running"
    (run / "summary.json").write_text(json.dumps(summary(2, finished=True)))
    assert run_state(RunFolder(run), now + 1e6).word == "finished"


@pytest.mark.parametrize(
    ("schedule", "words"), [("data", "before it converged"), ("fixed", "as asked")]
)
def test_only_a_run_that_the_data_steer_is_told_to_go_on_until_it_converges(
    schedule, words, tmp_path
):
    run = tmp_path / "run"
    begin_run(run, 1e9)
    settings = RefineSettings(particles=Path("p.star"), automatic_schedule=schedule)
    save_settings(run / "settings.toml", settings)
    values = {**summary(5, finished=True), "converged": False}
    (run / "summary.json").write_text(json.dumps(values))
    assert words in run_state(RunFolder(run), 1e9).sentence


def test_iterations_whose_folders_were_removed_are_known_from_their_events(tmp_path):
    run = make_run(tmp_path / "run")
    shutil.rmtree(run / "iteration_001")
    first, second = RunFolder(run).iterations
    assert (first.number, first.mode, first.resolution_A) == (1, "global", pytest.approx(11.42))
    assert second.spent_cpu_s == pytest.approx(75)


def test_iteration_that_was_interrupted_is_left_out(tmp_path):
    run = tmp_path / "run"
    started = {"time": 1.0, "kind": "iteration_start", "iteration": 1, "mode": "global"}
    write_events(run, [*begin_run(run, 0.0), started])
    assert RunFolder(run).iterations == []
