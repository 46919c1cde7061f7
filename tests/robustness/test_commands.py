"""Whole commands on odd values: used, or refused in one line; no crash, no traceback, no loss."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import mrcfile
import numpy as np
import pytest

from cryorefine.cli.main import cli
from tests.robustness.judged import Served, case_count, problem_of_command, served
from tests.robustness.odd_values import odd_cases
from tests.robustness.small_set import SmallSet, valid_set

CHEAP = ("--threads", 1, "--iterations", 1)
MODES: dict[str, tuple[object, ...]] = {
    "none": ("--alignment", "none", "--threads", 1),
    "local": ("--alignment", "local", *CHEAP),
    "global": ("--alignment", "global", "--reference", "reference.mrc", *CHEAP),
}


@dataclass(frozen=True)
class Case:
    """A command on a damaged set: how it aligns, with which further options.

    Attributes
    ----------
    code
        What it must end with; None: with any that ``problem_of_command`` allows.
    parts
        What its message must hold.
    """

    name: str
    damaged: SmallSet
    mode: str
    options: tuple[object, ...] = ()
    code: int | None = None
    parts: tuple[str, ...] = ()


def columns() -> Iterator[Case]:
    """Odd values in columns of the particle file."""
    modes = list(MODES)
    for i, odd in enumerate(odd_cases(seed=3)):
        code = 2 if odd.must_be_refused else None
        yield Case(odd.name, odd.damaged, modes[i % 3], code=code)


def arrays() -> Iterator[Case]:
    """Odd numbers in images, the reference, and each kind of map that an option takes."""
    valid = valid_set()
    values = (np.nan, np.inf, -np.inf, 1e20, 1e38, -1e38, 3e38, 0.0, 1e-38, 1e-45, 1e30)

    def one(array: np.ndarray, value: float) -> np.ndarray:
        array = array.copy()
        array[3, 7, 9] = value
        return array

    def first(array: np.ndarray, value: float) -> np.ndarray:
        array = array.copy()
        array[0] = value
        return array

    def scaled(array: np.ndarray, value: float) -> np.ndarray:
        return array * np.float32(value)

    changes: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (one, first, scaled)
    with np.errstate(all="ignore"):
        for value in values:
            for change in changes:
                name = f"{change.__name__} {value}"
                for mode in MODES:
                    images = change(valid.images, value)
                    yield Case(f"images {name}", replace(valid, images=images), mode)
                reference = change(valid.reference, value)
                yield Case(f"reference {name}", replace(valid, reference=reference), "global")
                compared = replace(valid, mask=change(valid.reference, value))
                yield Case(f"truth {name}", compared, "none", ("--compare-to", "mask.mrc"))
                masked = replace(valid, mask=change(valid.mask, value))
                yield Case(f"mask {name}", masked, "none", ("--mask", "mask.mrc"))
                for option, more, mode in MASKS:
                    yield Case(f"{option} {name}", masked, mode, (option, "mask.mrc", *more))


MASKS = (
    ("--reference-mask", (), "global"),
    ("--post-mask", ("--post-laplacian",), "none"),
    ("--post-symmetry-mask", ("--post-symmetry", "c2"), "none"),
)
"""Options that take a mask for a part of the work, with those that they need, and the alignment."""

LOCAL = {
    "max-angle-change-deg": (), "max-shift-change-percent": (),
    "max-grey-offset": ("--refine-grey",), "max-grey-scale-change-percent": ("--refine-grey",),
    "max-magnification-change-percent": ("--refine-magnification",),
    "max-defocus-change-angstrom": ("--refine-defocus",),
}  # fmt: skip
"""Options of a local alignment, with those that they need."""

HELIX = ("--helical-twist-deg", 30, "--helical-rise-angstrom", 10)

NEEDED = {
    "stochastic-subset": ("--alignment", "stochastic"),
    "stochastic-mixing": ("--alignment", "stochastic"),
    "post-undershoot-sigmas": ("--post-deconvolve",), "min-cc-weight": ("--weight-cc",),
    "mask-voxel-angstrom": ("--mask", "mask.mrc"),
    **dict.fromkeys(
        ("helical-twist-deg", "helical-rise-angstrom", "helical-radius-angstrom",
         "helical-inner-radius-angstrom", "helical-fraction", "helical-max-out-of-plane-deg",
         "helical-psi-range-deg"),
        HELIX,
    ),
    "helical-twist-range-deg": (*HELIX, "--helical-rise-range-angstrom", "9 11"),
    "helical-rise-range-angstrom": (*HELIX, "--helical-twist-range-deg", "29 31"),
}  # fmt: skip
"""What other options need; the later of two values of an option counts."""


def options() -> Iterator[Case]:
    """Odd values of all options of ``refine`` that take numbers."""
    command = cli.get_command(click.Context(cli), "refine")
    assert command is not None
    names = [p.opts[0][2:] for p in command.params if p.type in (click.FLOAT, click.INT)]
    names += ["target-resolution", "helical-twist-range-deg", "helical-rise-range-angstrom"]
    valid = valid_set()
    for name in names:
        if name == "threads":  # which all cases are given, and each is another number of them
            continue
        needed = LOCAL.get(name, NEEDED.get(name, ()))
        for value in ("nan", "inf", "-1", "1e308", "1e-308", "0", "9" * 30, "5"):
            seed = () if name == "seed" else ("--seed", 1)
            # The others have one number, a range has two.
            text = (
                f"9 {value}" if name.endswith(("twist-range-deg", "rise-range-angstrom")) else value
            )
            given = (*needed, f"--{name}", text, *seed)
            yield Case(f"--{name} {value}", valid, "local" if name in LOCAL else "global", given)


def spread(cases: list[Case], count: int) -> list[Case]:
    """Return so many of the cases, evenly."""
    count = min(count, len(cases))
    return [cases[len(cases) * i // count] for i in range(count)]


def problems_of(found: Served, cases: list[Case], folder: Path) -> list[str]:
    """Run all cases; return what is wrong with how they end."""
    problems = []
    for i, case in enumerate(cases):
        data, run = folder / f"case{i}", folder / f"case{i}" / "run"
        star = case.damaged.write(data)
        arguments = [
            data / str(a) if str(a).endswith(".mrc") else a
            for a in (*MODES[case.mode], *case.options)
        ]
        ended = found.run("refine", star, "--output", run, *arguments)
        problem = problem_of_command(ended) or _wrong(case, ended.code, ended.error, run)
        if problem:
            problems.append(f"{case.mode}, {case.name}: {problem}")
    return problems


def _wrong(case: Case, code: int | None, error: str, run: Path) -> str:
    """Return what is wrong with how a case ended beside what no command may do."""
    if case.code is not None and code != case.code:
        return f"ended with {code}"
    missing = [part for part in case.parts if part not in error]
    if missing:
        return f"no {missing} in {error[-500:]}"
    if code == 0:
        with mrcfile.open(run / "map.mrc") as file:
            volume = np.array(file.data)
        if not np.isfinite(volume).all() or volume.std() == 0:
            return "its map is empty or no numbers"
        if "NaN" in json.dumps(json.loads((run / "summary.json").read_text())["resolution_A"]):
            return "its resolution is no number"
    return ""


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("loaded")
    with served() as found:
        if case_count(0) > 0:  # loading kernels takes longer than most cases
            star = valid_set().write(folder)
            more = (folder / str(a) if a == "reference.mrc" else a for a in MODES["global"])
            ended = found.run("refine", star, "--output", folder / "run", *more, stays=True)
            assert ended.code == 0
        yield found


@pytest.mark.parametrize("kind", [columns, arrays, options])
def test_commands_on_odd_numbers_use_or_refuse_them(commands, tmp_path, kind):
    cases = spread(list(kind()), case_count(3, share=10))
    problems = problems_of(commands, cases, tmp_path)
    assert not problems, "\n".join(problems)


def test_the_set_that_is_damaged_can_be_refined(commands, tmp_path):
    cases = [Case("nothing", valid_set(), mode, code=0) for mode in MODES]
    assert problems_of(commands, cases, tmp_path) == []


def test_one_bad_row_is_named_and_does_not_empty_the_map(commands, tmp_path):
    damaged = valid_set().with_value("particles", "rlnCtfScalefactor", 4, "1e20")
    parts = ("column _rlnCtfScalefactor", "'1e20'", "line ", "remove the row")
    assert (
        problems_of(commands, [Case("1e20", damaged, "none", code=2, parts=parts)], tmp_path) == []
    )


def test_images_without_any_transfer_do_not_make_an_empty_map(commands, tmp_path):
    damaged = valid_set()
    for row in range(len(damaged.particles["rlnCtfScalefactor"])):
        damaged = damaged.with_value("particles", "rlnCtfScalefactor", row, "0")
    case = Case("no transfer", damaged, "none", code=2, parts=("_rlnCtfScalefactor",))
    assert problems_of(commands, [case], tmp_path) == []


SIMULATE = {
    "--seed": ("-1", "9" * 30), "--box-px": ("100000", "4096", "-5", "0"), "--snr": ("nan", "inf"),
    "--particles": ("1000000000", "0", "-1"), "--pixel-angstrom": ("1e308", "nan", "1e-308"),
    "--diameter-angstrom": ("nan", "1e308"), "--voltage-kv": ("1e308", "nan", "1e-300"),
    "--cs-mm": ("1e308", "nan"), "--shift-angstrom": ("1e308", "nan", "-1"),
    "--per-micrograph": ("0", "-3"), "--optics-groups": ("999999999999",),
    "--reference-angstrom": ("1e308", "nan", "0"), "--astigmatism-angstrom": ("1e100",),
    "--imaging-bfactor": ("1e308", "-1e9"), "--scale-spread": ("nan", "1e308"),
    "--axis-tilt-deg": ("inf",), "--defocus-error-angstrom": ("nan",),
    "--amplitude-contrast": ("nan", "2"), "--junk-fraction": ("nan", "1"),
    "--helical-twist-deg": ("nan", "30", "1e9"), "--helical-rise-angstrom": ("nan", "0", "5", "-1"),
    "--segments-per-tube": ("0", "-1", "3"), "--segment-step-angstrom": ("nan", "0", "7"),
    "--tube-tilt-spread-deg": ("nan", "90", "1"), "--psi-prior-error-deg": ("inf", "-1", "1"),
}  # fmt: skip


@pytest.mark.slow
def test_simulate_refuses_odd_values_by_their_option(commands, tmp_path):
    problems = []
    for option, values in SIMULATE.items():
        for value in values:
            ended = commands.run("simulate", "phantom", "--output", tmp_path / "new", option, value)
            problem = problem_of_command(ended)
            if problem or ended.code != 2 or option not in ended.error:
                problems.append(f"{option} {value}: {ended.code} {problem or ended.error}")
    assert not problems, "\n".join(problems)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_odd_settings_files_are_refused(commands, tmp_path):
    problems = []
    star = valid_set().write(tmp_path / "data")
    for text in (
        f'particles = "{star}\\u0000"', "particles = " + "[" * 3000, 'symmetry = "c\\u0000"',
        "seed = 1e308", "seed = nan", "iterations = true", "[particles]",
        "target_resolution = [[1]]",
        'reference_command = "a\\u0000b"', "x" * 100_000 + " = 1", "max_energy = nan",
        'symmetry = "' + "c1" * 5000 + '"', "dropout = inf", 'reference = ["a\\u0000.mrc"]',
    ):  # fmt: skip
        path = tmp_path / "settings.toml"
        path.write_text(text)
        ended = commands.run(
            "refine", star, "--output", tmp_path / "run", "--settings", path, "--reference",
            tmp_path / "data" / "reference.mrc",
        )  # fmt: skip
        problem = problem_of_command(ended)
        if (problem or ended.code != 2) and "particles" not in text[:9]:
            problems.append(f"{text[:40]}: {ended.code} {problem or ended.error}")
        elif problem:
            problems.append(f"{text[:40]}: {problem}")
    assert not problems, "\n".join(problems)


def test_fsc_refuses_seeds_that_are_none(commands, tmp_path):
    valid_set().write(tmp_path)
    half = tmp_path / "reference.mrc"
    for seed in ("-1", "9" * 30):
        ended = commands.run("fsc", half, half, "--output", tmp_path / "t.star", "--seed", seed)
        assert problem_of_command(ended) == ""
        assert ended.code == 2


@pytest.mark.slow
def test_resuming_from_a_checkpoint_with_numbers_that_are_none_ends_in_order(commands, tmp_path):
    star = valid_set().write(tmp_path / "data")
    start = ("--reference", tmp_path / "data" / "reference.mrc", "--threads", 1)
    run = tmp_path / "run"
    ended = commands.run(
        "refine", star, "--output", run, *start, "--alignment", "global", "--iterations", 1
    )
    assert (ended.code, problem_of_command(ended)) == (0, "")
    checkpoint = run / "iteration_001" / "state.npz"
    with np.load(checkpoint, allow_pickle=False) as file:
        whole = dict(file)
    names = sorted(k for k, v in whole.items() if v.dtype.kind == "f" and v.size)
    problems = []
    for i, name in enumerate(names[:: max(1, len(names) // case_count(2, share=100))]):
        array = whole[name].copy()
        array.flat[array.size // 2] = (np.nan, np.inf, 1e30)[i % 3]
        np.savez(checkpoint, **{**whole, name: array})
        folder = tmp_path / f"run{i}"
        shutil.copytree(run, folder)
        ended = commands.run("resume", folder, "--alignment", "local", "--iterations", 1)
        problem = problem_of_command(ended)
        if problem:
            problems.append(f"{name}: {problem}")
    assert not problems, "\n".join(problems)
