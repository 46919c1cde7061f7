"""Reading damaged files: each is read, or refused in one line; and quickly, in little memory."""

import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryorefine.errors import InputError
from cryorefine.io import star
from cryorefine.io.mrc import read_stack_header, read_volume
from cryorefine.io.star import read_star
from cryorefine.model.observe import make_group_band
from cryorefine.optics.ctf import contrast_transfer
from cryorefine.particles.formats.relion import read_relion, write_relion
from cryorefine.particles.images import open_images
from cryorefine.particles.table import ParticleTable
from tests.builders import line_of, particle_columns, refused, write_particle_star
from tests.robustness.damage import damaged_mrc, damaged_star
from tests.robustness.judged import case_count, problem_of_call
from tests.robustness.odd_values import FAR_TOO_LARGE, NO_NUMBERS, odd_cases
from tests.robustness.small_set import valid_set


def assert_computable(table: ParticleTable) -> None:
    """What is read must not make contrast transfer that single precision cannot hold."""
    table, _ = open_images(table)
    for g, group in enumerate(table.optics):
        rows = np.flatnonzero(table.optics_index == g)
        if len(rows) == 0:
            continue
        view = make_group_band(
            group, volume_size_px=group.box_px, voxel_A=group.pixel_A,
            resolution_A=2 * group.pixel_A,
        )  # fmt: skip
        transfer = contrast_transfer(group, table.defocus(rows), view.s_per_A)
        assert torch.isfinite(transfer.square()).all()
        assert torch.isfinite(view.points).all()
        assert view.odd_factor is None or torch.isfinite(view.odd_factor.abs()).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    valid_set().write(folder)
    return folder


def test_the_set_that_is_damaged_is_valid_and_comes_back_as_it_was(folder):
    table = read_relion(folder / "particles.star")
    assert_computable(table)
    write_relion(folder / "again.star", table)
    again = read_relion(folder / "again.star")
    np.testing.assert_allclose(again.euler_rad, table.euler_rad, atol=1e-7)


def test_every_odd_value_in_every_column_is_refused_by_line_or_can_be_computed_with(folder):
    path = folder / "odd.star"
    problems = []
    for case in odd_cases():
        path.write_text(case.damaged.text())
        try:
            assert_computable(read_relion(path))
            message = ""
        except InputError as error:
            message = str(error)
        except Exception as error:
            problems.append(f"{case.name}: {type(error).__name__}: {error}")
            continue
        if case.must_be_refused and not message:
            problems.append(f"{case.name} is read")
        if case.must_be_refused and message:
            row = line_of(path, case.value) if len(case.value) > 12 else None
            parts = [f"_{case.label}", case.value.strip('"')[:40], f"line {row or ''}"]
            problems += [f"{case.name}: no {p!r} in {message}" for p in parts if p not in message]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("value", [*NO_NUMBERS[:4], *FAR_TOO_LARGE])
def test_a_value_that_is_not_used_may_be_anything(tmp_path, value):
    columns = {**particle_columns(2), "rlnCtfMaxResolution": [value] * 2}
    assert len(read_relion(write_particle_star(tmp_path / "p.star", columns))) == 2
    columns = particle_columns(2, rlnDefocusU=value)
    assert len(read_relion(write_particle_star(tmp_path / "p.star", columns), ctf=False)) == 2


def test_all_rows_that_are_out_of_range_are_named(tmp_path):
    values = [10000.0] * 12
    for row in (2, 3, 5, 6, 7, 8, 11):
        values[row] = 1e9
    path = write_particle_star(tmp_path / "p.star", particle_columns(12, rlnDefocusU=values))
    first = line_of(path, "000003@")
    with refused(
        f"{path}, line {first}, column _rlnDefocusU: '1000000000.0' is not in the range -1e+06 to "
        f"1e+06 Å; so are those of line {first + 1}, line {first + 3}", "and 1 more rows",
        "remove the rows",
    ):  # fmt: skip
        read_relion(path)


def test_damaged_star_files_are_read_or_refused(folder):
    valid = (folder / "particles.star").read_bytes()
    path = folder / "damaged.star"
    random = np.random.default_rng(1)
    problems = []
    for i in range(case_count(200)):
        path.write_bytes(damaged_star(valid, random))

        def read() -> None:
            assert_computable(read_relion(path))

        problem = problem_of_call(read)
        if problem:
            problems.append(f"case {i}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", ["stack.mrcs", "reference.mrc"])
def test_damaged_mrc_files_are_read_or_refused(folder, name):
    valid = (folder / name).read_bytes()
    path = folder / f"damaged_{name}"
    random = np.random.default_rng(2)
    problems = []
    for i in range(case_count(100, share=2)):
        path.write_bytes(damaged_mrc(valid, random))

        def read() -> None:
            stack = read_stack_header(path)
            images = stack.read()
            np.array(images[[0, -1]], np.float32)  # where a map may end too early
            volume = read_volume(path)
            assert torch.isfinite(volume.data.square().sum())

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, about values that half precision lacks
            problem = problem_of_call(read)
        if problem:
            problems.append(f"case {i}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("factor", [1e30, 1e-30, np.nan, np.inf])
def test_maps_of_absurd_grey_values_are_refused(tmp_path, factor):
    valid = valid_set()
    with np.errstate(all="ignore"):
        replace(valid, reference=(valid.reference * factor).astype(np.float32)).write(tmp_path)
    with refused(str(tmp_path / "reference.mrc")):
        read_volume(tmp_path / "reference.mrc")


def test_sixty_thousand_labels_are_read(tmp_path):
    """More than a search through all labels for each could read in a minute."""
    n = 60_000
    path = tmp_path / "wide.star"
    labels = "\n".join(f"_label{i}" for i in range(n))
    path.write_text(f"data_particles\n\nloop_\n{labels}\n" + " ".join(["1"] * n) + "\n")
    columns = read_star(path)["particles"].columns
    assert list(columns) == [f"label{i}" for i in range(n)]


def test_twenty_thousand_quotes_that_do_not_end_are_read(tmp_path):
    """More than a search to the line's end for each could read in an hour."""
    n = 20_000
    path = tmp_path / "quotes.star"
    labels = "\n".join(f"_label{i}" for i in range(n))
    row = " ".join(['"a', "'b"] * (n // 2))
    path.write_text(f"data_particles\n\nloop_\n{labels}\n{row}\n")
    block = read_star(path)["particles"]
    assert block.columns["label0"].tolist() == [b'"a']
    assert block.columns[f"label{n - 1}"].tolist() == [b"'b"]


def test_one_huge_value_does_not_make_a_huge_table(tmp_path):
    path = tmp_path / "huge.star"
    rows = ["1 a"] * 500 + ["2 " + "x" * 5_000_000] + ["3 b"] * 500
    path.write_text("data_particles\nloop_\n_number\n_name\n" + "\n".join(rows) + "\n")
    tracemalloc.start()
    try:
        with refused(f"{path}, line 505", "5000000 bytes", "xxx..."):
            read_star(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200e6  # a thousand rows of five megabytes would be five gigabytes


def test_a_table_of_long_values_is_refused_where_they_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(star, "_LARGEST_COLUMN", 2**20)
    path = tmp_path / "long.star"
    rows = ["1 a"] * 500 + ["2 " + "x" * 5_000] + ["3 b"] * 500
    path.write_text("data_particles\nloop_\n_number\n_name\n" + "\n".join(rows) + "\n")
    with refused(f"{path}, line 505, column _name", "5000 bytes", "1001 rows"):
        read_star(path)


def test_a_name_with_a_nul_is_refused_as_that_of_no_file(tmp_path):
    path = tmp_path / "p.star"
    write_particle_star(path, particle_columns(2, stack="a\0b.mrcs"))
    with refused(f"{path}, line {line_of(path, '000001@')}, column _rlnImageName", "a\ufffdb.mrcs"):
        read_relion(path)
