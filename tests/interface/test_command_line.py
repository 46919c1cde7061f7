"""The command line as a user meets it: exit codes, one-line complaints, nothing touched."""

import contextlib
import io
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.cli.main import main
from cryorefine.io.mrc import read_volume, write_stack, write_volume


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments, cwd=None):
    """Run the command line in this process, which saves loading torch anew each time."""
    out, err = io.StringIO(), io.StringIO()
    code = None
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())


OPTICS = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
1 group1 300.0 2.7 0.1 4.0 24

"""
HEADER = """data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnOpticsGroup #6
"""


@pytest.fixture
def project(tmp_path):
    """A folder with 8 images, their STAR file and a reference."""
    generator = torch.Generator().manual_seed(0)
    write_stack(tmp_path / "a.mrcs", torch.randn(8, 24, 24, generator=generator), 4.0, half=False)
    rows = [f"{i + 1}@a.mrcs mic{i % 4} 10000 9800 30 1\n" for i in range(8)]
    (tmp_path / "p.star").write_text(OPTICS + HEADER + "".join(rows))
    axis = torch.arange(24) - 12
    blob = (-(axis[:, None, None] ** 2 + 2 * axis[None, :, None] ** 2 + axis**2) / 30).exp()
    write_volume(tmp_path / "ref.mrc", blob, 4.0)
    return tmp_path


def refine(project, *options, star="p.star", output="run"):
    return run("refine", star, "--reference", "ref.mrc", "--output", output, *options, cwd=project)


def assert_refused(result, *words):
    """Exit code 2, one line on standard error that holds the words, no traceback, no folder."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("cryorefine: ")
    for word in words:
        assert word in lines[0], lines[0]


def edit(project, old, new):
    star = project / "p.star"
    text = star.read_text()
    assert old in text
    star.write_text(text.replace(old, new, 1))


def test_missing_files_are_named(project):
    assert_refused(refine(project, star="no.star"), "no.star", "no such file")
    assert_refused(refine(project, "--mask", "no.mrc"), "no.mrc")
    (project / "ref.mrc").unlink()
    assert_refused(refine(project), "ref.mrc", "no such map")
    assert not (project / "run").exists()


def test_an_empty_particle_file_is_refused(project):
    (project / "p.star").write_text("")
    assert_refused(refine(project), "p.star", "empty")


def test_a_malformed_row_is_named_by_line_and_column(project):
    edit(project, "3@a.mrcs mic2 10000 9800 30 1", "3@a.mrcs mic2 10000 9800")
    line = (project / "p.star").read_text().splitlines().index("3@a.mrcs mic2 10000 9800") + 1
    assert_refused(refine(project), "p.star", f"line {line}", "column 5", "_rlnDefocusAngle")


def test_a_value_that_is_no_number_is_named(project):
    edit(project, "5@a.mrcs mic0 10000", "5@a.mrcs mic0 many")
    assert_refused(refine(project), "'many'", "line", "_rlnDefocusU")


def test_an_image_beyond_the_end_of_its_stack_is_named(project):
    edit(project, "8@a.mrcs", "9@a.mrcs")
    assert_refused(refine(project), "image 9", "a.mrcs", "8 images", "line")


def test_a_missing_stack_is_named_with_its_row(project):
    edit(project, "2@a.mrcs", "2@b.mrcs")
    assert_refused(refine(project), "b.mrcs", "no such image stack", "p.star", "line")


def test_a_box_that_differs_within_a_group_is_refused(project):
    write_stack(project / "b.mrcs", torch.randn(2, 20, 20), 4.0, half=False)
    edit(project, "2@a.mrcs", "2@b.mrcs")
    assert_refused(refine(project), "20 pixels", "group1", "24")


def test_a_pixel_size_that_differs_within_a_group_is_refused(project):
    write_stack(project / "b.mrcs", torch.randn(2, 24, 24), 3.0, half=False)
    edit(project, "2@a.mrcs", "2@b.mrcs")
    assert_refused(refine(project), "pixel sizes differ", "3 Å", "4 Å")


def test_missing_ctf_columns_are_named_and_no_ctf_says_there_is_none(project):
    text = (project / "p.star").read_text().replace("_rlnDefocusU", "_rlnOther")
    (project / "p.star").write_text(text)
    assert_refused(refine(project), "_rlnDefocusU", "--no-ctf")


def test_a_reference_that_is_not_cubic_is_refused(project):
    import mrcfile

    with mrcfile.new(project / "ref.mrc", overwrite=True) as file:
        file.set_data(np.zeros((20, 24, 24), np.float32))
        file.voxel_size = 4.0
    assert_refused(refine(project), "ref.mrc", "not cubic", "24×24×20")


@pytest.mark.parametrize("name", ["d0", "x7", "c2h", "cn", ""])
def test_an_unknown_symmetry_is_refused(project, name):
    assert_refused(refine(project, "--symmetry", name), "symmetry")


def test_an_output_folder_that_holds_a_run_is_refused_and_left_alone(project):
    (project / "run").mkdir()
    (project / "run" / "manifest.json").write_text("{}")
    (project / "run" / "map.mrc").write_text("precious")
    assert_refused(refine(project), "holds a run", "--overwrite")
    assert (project / "run" / "map.mrc").read_text() == "precious"
    # A bad input is found before anything is overwritten, too.
    assert_refused(refine(project, "--overwrite", star="no.star"), "no.star")
    assert (project / "run" / "map.mrc").read_text() == "precious"


def test_a_folder_with_other_things_is_never_used(project):
    (project / "run").mkdir()
    (project / "run" / "thesis.txt").write_text("precious")
    assert_refused(refine(project, "--overwrite"), "not empty")
    assert [p.name for p in (project / "run").iterdir()] == ["thesis.txt"]


def test_poses_are_asked_for_where_they_are_needed(project):
    assert_refused(refine(project, "--alignment", "local"), "poses", "p.star")
    result = run("refine", "p.star", "--output", "run", cwd=project)
    assert_refused(result, "no initial map", "--reference")
    result = run("reconstruct", "p.star", "--output", "run", cwd=project)
    assert_refused(result, "needs poses")


def test_all_bad_options_are_listed_at_once(project):
    result = refine(project, "--max-shift-percent", 80, "--fsc-criterion", 2, "--iterations", 0)
    assert_refused(result, "--max-shift-percent", "--fsc-criterion", "--iterations")


def test_a_misspelt_option_or_command_is_explained(project):
    assert_refused(refine(project, "--symetry", "c1"), "--symetry", "--symmetry")
    assert_refused(run("refien"), "refien")


def test_no_particle_file_is_a_missing_setting(project):
    result = run("refine", "--reference", "ref.mrc", "--output", "run", cwd=project)
    assert_refused(result, "--particles", "required")


def test_settings_come_from_a_file_and_options_win_over_it(project):
    (project / "s.toml").write_text(
        'particles = "p.star"\nreference = ["ref.mrc"]\nsymmetry = "c4"\nthreads = 1\n'
    )
    result = run(
        "refine", "--settings", "s.toml", "--symmetry", "c2", "--iterations", 1,
        "--output", "run", cwd=project,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'symmetry = "c2"' in (project / "run" / "settings.toml").read_text()
    assert json.loads((project / "run" / "summary.json").read_text())["symmetry"] == "c2"
    (project / "bad.toml").write_text("symetry = 'c1'")
    result = run("refine", "p.star", "--settings", "bad.toml", "--output", "x", cwd=project)
    assert_refused(result, "bad.toml", "no such setting")


@pytest.mark.slow
def test_a_run_without_terminal_prints_one_plain_line_an_iteration_and_the_report(project):
    result = refine(project, "--iterations", 2, "--alignment", "global")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum(line.startswith("iteration ") for line in lines) == 2
    assert "\x1b" not in result.stdout + result.stderr
    assert lines[-1].endswith("report.html")
    assert (project / "run" / "report.html").exists()


def test_one_particle_is_refused_and_two_are_enough(project):
    text = (project / "p.star").read_text().splitlines(keepends=True)
    head = [line for line in text if "@a.mrcs" not in line]
    rows = [line for line in text if "@a.mrcs" in line]
    (project / "one.star").write_text("".join(head + rows[:1]))
    assert_refused(refine(project, star="one.star"), "cannot make two half sets")
    (project / "none.star").write_text("".join(head))
    assert_refused(refine(project, star="none.star"), "no rows")
    (project / "two.star").write_text("".join(head + rows[:2]))
    result = refine(project, "--iterations", 1, "--alignment", "global", star="two.star")
    assert result.returncode == 0, result.stderr


def test_fsc_writes_a_table_and_prints_resolutions(project):
    generator = torch.Generator().manual_seed(0)
    blob = read_volume(project / "ref.mrc").data
    for n in (1, 2):
        noisy = blob + 0.01 * torch.randn(blob.shape, generator=generator)
        write_volume(project / f"h{n}.mrc", noisy, 4.0)
    write_volume(project / "mask.mrc", (blob > 0.05).float(), 4.0)
    command = ("fsc", "h1.mrc", "h2.mrc", "--mask", "mask.mrc", "--output", "fsc.star")
    result = run(*command, cwd=project)
    assert result.returncode == 0, result.stderr
    assert "FSC 0.143" in result.stdout
    assert "rlnFourierShellCorrelationCorrected" in (project / "fsc.star").read_text()
    assert_refused(run(*command, cwd=project), "exists", "--overwrite")
    write_volume(project / "h2.mrc", blob[:20, :20, :20], 4.0)
    result = run("fsc", "h1.mrc", "h2.mrc", "--output", "x.star", cwd=project)
    assert_refused(result, "h2.mrc", "20 voxels", "24")


def test_simulate_refuses_what_it_cannot_do(tmp_path):
    result = run("simulate", "phantom", "--output", tmp_path / "s", "--snr", 0, "--particles", 0)
    assert_refused(result, "--snr", "--particles")
    result = run("simulate", "no.pdb", "--output", tmp_path / "s")
    assert_refused(result, "no.pdb")
    result = run("simulate", "phantom", "--output", tmp_path / "s", "--box-px", 20)
    assert_refused(result, "--box-px", "across")
    assert not (tmp_path / "s").exists()


def test_help_and_import_are_instant_and_do_not_load_torch():
    probe = (
        "import sys, cryorefine; from click.testing import CliRunner;"
        "from cryorefine.cli.main import cli;"
        "result = CliRunner().invoke(cli, ['--help']);"
        "assert result.exit_code == 0 and 'refine' in result.output;"
        "heavy = {'torch', 'numba', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_every_command_explains_itself_without_loading_torch():
    from cryorefine.cli.main import _COMMANDS

    probe = (
        "import sys; from click.testing import CliRunner; from cryorefine.cli.main import cli\n"
        "for name in sys.argv[1:]:\n"
        "    result = CliRunner().invoke(cli, [name, '--help'])\n"
        "    assert result.exit_code == 0, (name, result.output)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", probe, *_COMMANDS], check=True)


def test_ctrl_c_ends_with_code_3_and_says_how_to_go_on(project):
    import signal

    command = [
        sys.executable, "-m", "cryorefine", "refine", "p.star", "--reference", "ref.mrc",
        "--output", "run", "--alignment", "global", "--iterations", "500",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Shells let what they start in the background ignore Ctrl-C: tests may run so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (project / "run" / "iteration_002").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 3, errors
    assert "cryorefine resume run" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [(EOFError, 2, "cut short or damaged"), (KeyboardInterrupt, 3, "stopped by the user")],
)
def test_a_file_that_ends_too_soon_is_not_taken_for_a_stop(monkeypatch, capsys, raised, code, said):
    def read(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("cryorefine.io.mrc.read_volume", read)
    with pytest.raises(SystemExit) as end:
        main(["fsc", __file__, __file__, "--output", "fsc.star"])
    assert end.value.code == code
    assert said in capsys.readouterr().err
