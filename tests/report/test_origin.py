import json

import pytest

from cryorefine.report.origin import input_files, provenance, setting_rows
from cryorefine.report.run_folder import RunFolder
from cryorefine.settings import RefineSettings
from tests.report.run_folders import begin_run


@pytest.fixture
def run(tmp_path):
    begin_run(tmp_path / "run", 0.0)
    return tmp_path / "run"


def with_manifest(run, **changes):
    path = run / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return RunFolder(run)


def test_every_setting_has_a_row_with_its_value_in_words_and_its_meaning(run):
    rows = {row.name: row for row in setting_rows(RunFolder(run))}
    assert list(rows) == list(RefineSettings.model_fields)
    assert rows["particles"].value == "data/particles.star"
    assert rows["reference"].value == "start.mrc"
    assert rows["ctf"].value == "yes"
    assert rows["weight_cc"].value == "no"
    assert rows["mask"].value == ""
    assert all(rows[n].meaning == f.description for n, f in RefineSettings.model_fields.items())


def test_a_setting_of_another_version_is_shown_without_a_meaning(run):
    path = run / "settings.toml"
    path.write_text(path.read_text() + "\nshrink = [1.5, 2.5]\n")
    row = setting_rows(RunFolder(run))[-1]
    assert (row.name, row.value, row.meaning) == ("shrink", "1.5, 2.5", "")


def test_a_run_is_traced_to_versions_machine_command_seed_and_start(run):
    rows = dict(provenance(with_manifest(run, python="3.12.1", seed=7, started="2026-01-02T03:04")))
    assert rows == {
        "cryorefine": "0.1.0",
        "Python": "3.12.1",
        "Packages": "torch 2.8",
        "Machine": "Linux, x86_64, 4 CPUs",
        "Command": "cryorefine refine 'my particles.star'",
        "Seed": "7",
        "Started": "2026-01-02 03:04",
    }
    machine = {"system": "Linux", "device": "a GPU"}
    assert dict(provenance(with_manifest(run, machine=machine)))["Machine"] == (
        "Linux, computed on a GPU"
    )


def test_what_a_manifest_does_not_tell_is_left_out(run):
    (run / "manifest.json").write_text('{"seed": 0, "packages": "none", "inputs": []}')
    assert provenance(RunFolder(run)) == [("Seed", "0")]
    assert input_files(RunFolder(run)) == []


def test_inputs_are_listed_with_size_hash_and_what_it_covers(run):
    entry = {"size_bytes": 3_000_000_000, "sha256": "cd" * 32, "sha256_of": "first and last MiB"}
    found = input_files(with_manifest(run, inputs={"a.mrcs": entry, "b.star": "damaged"}))
    assert [(f.path, f.sha256, f.covers) for f in found] == [
        ("a.mrcs", "cd" * 32, "first and last MiB")
    ]
    assert found[0].size == "3.00 GB"
