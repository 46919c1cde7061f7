"""What SECURITY.md says, sentence by sentence, with the tests that hold it."""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import cryorefine as cr
from cryorefine.events import Event
from tests.robustness.small_set import valid_set

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

TESTS = {
    "cryorefine reads the files": "test_security::test_a_run_keeps_to_its_files, "
    "behaviour/test_inputs_of_formats::"
    "test_what_belongs_to_a_particle_file_may_not_change_before_a_run_goes_on",
    "It writes into the folder": "test_security::test_a_run_keeps_to_its_files",
    "Outside it, it writes temporary files": "test_security::test_a_run_keeps_to_its_files, "
    "test_security::test_nothing_is_left_of_runs_that_only_memory_keeps",
    "Temporary files are removed": "test_security::"
    "test_nothing_is_left_of_runs_that_only_memory_keeps, "
    "restore/test_command::test_a_command_that_fails_leaves_no_folder",
    "It opens no network": "test_security::test_a_run_keeps_to_its_files",
    "Files may hold anything": "robustness/test_reading::"
    "test_damaged_star_files_are_read_or_refused, "
    "robustness/test_reading::test_damaged_mrc_files_are_read_or_refused, "
    "robustness/test_odd_runs::test_odd_arrays_of_a_checkpoint_are_read_or_refused, "
    "robustness/test_odd_runs::test_odd_records_of_a_run_are_read_or_refused",
    "No number in them makes": "kernels/test_odd_coordinates::"
    "test_all_kernels_stay_within_their_arrays_when_every_index_is_checked, "
    "robustness/test_commands::test_commands_on_odd_numbers_use_or_refuse_them",
    "`make fuzz` tries it": "robustness/test_commands::"
    "test_commands_on_odd_numbers_use_or_refuse_them",
    "`--reference-command` and `--post-command` run": "behaviour/test_changed_inputs::"
    "test_a_command_that_is_given_needs_no_leave_and_gives_none_to_others",
    "They run when you give them": "behaviour/test_changed_inputs::"
    "test_a_command_that_is_given_needs_no_leave_and_gives_none_to_others",
    "Named by a file": "behaviour/test_changed_inputs::"
    "test_a_command_of_a_settings_file_runs_only_when_it_is_allowed, behaviour/"
    "test_changed_inputs::test_a_command_of_a_run_folder_runs_only_when_it_is_allowed",
    "`--allow-commands`, or": "behaviour/test_changed_inputs::"
    "test_a_command_of_a_settings_file_runs_only_when_it_is_allowed, behaviour/"
    "test_changed_inputs::test_a_command_of_a_run_folder_runs_only_when_it_is_allowed",
    "No other content of a file is run": "restore/test_command::"
    "test_the_marks_of_a_shell_mean_nothing_without_one",
    "None are loaded": "robustness/test_odd_runs::"
    "test_a_pickled_object_in_a_checkpoint_is_not_made, "
    "formats/test_damaged_files::test_nothing_in_a_pickle_is_executed",
    "Of cryoDRGN's pickles": "formats/test_damaged_files::test_nothing_in_a_pickle_is_executed, "
    "formats/test_damaged_files::test_arrays_of_every_protocol_and_byte_order_are_read",
    "Worker processes exchange": "behaviour/test_engines::"
    "test_the_number_of_worker_processes_changes_no_bit",
    "A symbolic link in place": "robustness/test_odd_runs::"
    "test_a_link_in_place_of_a_file_is_refused_and_nothing_is_written_through_it",
    "The run folder itself may": "robustness/test_odd_runs::test_a_run_may_be_reached_by_a_link",
    "`--overwrite` and continuing remove": "run/test_folder::"
    "test_clearing_removes_the_files_of_a_run_and_nothing_else",
    "Other files, and folders": "run/test_folder::"
    "test_clearing_removes_the_files_of_a_run_and_nothing_else",
    "Commands that make no run": "interface/test_result_folders::"
    "test_restored_maps_are_never_taken_for_a_mixture_of_older_and_newer_ones, "
    "interface/test_result_folders::test_a_users_file_in_the_way_is_named_and_left_alone",
    "`report.html`, and the": "report/test_report::"
    "test_page_refers_to_nothing_outside_itself, robustness/test_odd_runs::"
    "test_nothing_that_a_file_says_becomes_markup_of_the_report, helices/test_helical_search::"
    "test_the_page_of_a_search_refers_to_nothing_outside_itself",
}
"""The first words of each sentence, and the tests that fail if it is not so."""


def sentences() -> list[str]:
    """Return what the document states: all but titles and what to do about a hole."""
    body = SECURITY.partition("\n")[2].partition("\nIf you find")[0]
    plain = re.sub(r"^- \*\*[^*]+\*\* ", "\n", body, flags=re.MULTILINE)
    joined = [" ".join(part.split()) for part in re.split(r"\n\s*\n", plain)]
    return [s for part in joined for s in re.split(r"(?<=[.;])\s+(?=[A-Z`])", part) if s]


def test_every_sentence_has_a_test():
    without = [s for s in sentences() if not any(s.startswith(start) for start in TESTS)]
    assert without == []
    assert all(any(s.startswith(start) for s in sentences()) for start in TESTS)


@pytest.mark.parametrize("named", sorted({t for v in TESTS.values() for t in v.split(", ")}))
def test_every_test_that_is_named_exists(named):
    file, name = named.split("::")
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


WATCHED = """
import os, sys
def tell(line):
    os.write(2, f"{line}\\n".encode())  # at one go: several threads open files
def hook(event, arguments):
    if event.startswith(("socket.connect", "socket.bind", "socket.getaddrinfo", "urllib")):
        tell(f"NET {event} {arguments}")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1], arguments[2] or 0
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        path = os.path.abspath(os.fsdecode(arguments[0]))
        tell(f"{'WRITES' if writes else 'READS'} {path}")
sys.addaudithook(hook)
from cryorefine.cli.main import main
main(sys.argv[1:])
"""


def test_a_run_keeps_to_its_files(tmp_path):
    """And opens no connection: Python tells of every file and socket that it opens."""
    star = valid_set().write(tmp_path / "data")
    (tmp_path / "data" / "other.star").write_text("data_\n")
    run = tmp_path / "run"
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, "reconstruct", str(star), "--output", str(run)],
        capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert [line for line in lines if line.startswith("NET")] == []
    written = [Path(line.removeprefix("WRITES ")) for line in lines if line.startswith("WRITES ")]
    assert run / "settings.toml" in written or any(p.parent == run for p in written)
    caches = (Path.home() / ".cache", ROOT, Path(sys.prefix), Path(tempfile.gettempdir()))
    outside = [p for p in written if not p.is_relative_to(run) and not p.is_relative_to("/dev")]
    assert [p for p in outside if p.is_relative_to(tmp_path)] == []
    assert [p for p in outside if not any(p.is_relative_to(cache) for cache in caches)] == []
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "mask.mrc", "other.star", "particles.star", "reference.mrc", "stack.mrcs",
    ]  # fmt: skip
    read = {Path(line.removeprefix("READS ")) for line in lines if line.startswith("READS ")}
    assert {p.name for p in read if p.parent == star.parent} == {"particles.star", "stack.mrcs"}


def test_nothing_is_left_of_runs_that_only_memory_keeps(tmp_path, monkeypatch):
    """They do go through the folder for temporary files, which is looked at while they do."""
    star, temporary, seen = valid_set().write(tmp_path / "data"), tmp_path / "temporary", set()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def look(_: Event) -> None:
        seen.update(path.name for path in temporary.iterdir())

    cr.reconstruct(star, progress=look)
    assert len(seen) == 1
    assert not any(temporary.iterdir())
    given = {path.name for path in star.parent.iterdir()}
    cr.convert(star, tmp_path / "data" / "copy.star", verify=True)
    assert not any(temporary.iterdir())
    assert {path.name for path in star.parent.iterdir()} == given | {"copy.star"}
