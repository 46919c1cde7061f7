"""The command and the function that convert particle files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cryorefine as cr
from cryorefine.formats.read import read_particles
from tests.builders import refused
from tests.formats.sets import full_table
from tests.robustness.judged import ended_here
from tests.robustness.small_set import valid_set


@pytest.fixture
def star(tmp_path) -> Path:
    plain = valid_set()
    unheld = ("rlnOdd", "rlnEven", "rlnMagMat", "rlnBeamTilt")
    optics = {k: v for k, v in plain.optics.items() if not k.startswith(unheld)}
    particles = {k: v for k, v in plain.particles.items() if k != "rlnCtfBfactor"}
    return replace(plain, optics=optics, particles=particles).write(tmp_path / "set")


def test_a_conversion_lists_what_is_lost_and_says_what_was_written(star, tmp_path, capsys):
    ended = ended_here(["convert", str(star), str(tmp_path / "p.xmd")])
    assert ended.code == 0, ended.error
    done = cr.convert(star, tmp_path / "q.xmd")
    assert done.not_held == ("half sets",)
    assert (done.source_format, done.target_format) == ("relion", "xmipp")
    assert (tmp_path / "p.xmd").read_bytes() == (tmp_path / "q.xmd").read_bytes()


def test_the_format_is_that_of_the_suffix_or_the_one_that_is_named(star, tmp_path):
    cr.convert(star, tmp_path / "a.star", to="cistem")
    assert "_cisTEMAnglePhi" in (tmp_path / "a.star").read_text()
    done = cr.convert(tmp_path / "a.star", tmp_path / "b.star")
    assert (done.source_format, done.target_format) == ("cistem", "relion")
    with refused("*.cs", "to"):
        cr.convert(star, tmp_path / "a.txt")
    with refused("there is no format 'eman'", "cistem"):
        cr.convert(star, tmp_path / "a.txt", to="eman")


def test_what_is_there_is_replaced_only_on_request_and_what_is_read_never(star, tmp_path):
    cr.convert(star, tmp_path / "poses.pkl")
    with refused("exists"):
        cr.convert(star, tmp_path / "poses.pkl")
    cr.convert(star, tmp_path / "poses.pkl", overwrite=True)
    before = star.read_bytes()
    with refused(str(star), "being converted"):
        cr.convert(star, star, overwrite=True)
    with refused("stack.mrcs", "being converted"):
        cr.convert(star, star.parent / "stack.mrcs", to="relion", overwrite=True)
    assert star.read_bytes() == before


def test_a_selection_of_particles_is_written_too(star, tmp_path):
    particles = cr.read_particles(star)[:5]
    assert cr.convert(particles, tmp_path / "five.cs").n_particles == 5
    np.testing.assert_allclose(
        cr.read_particles(tmp_path / "five.cs").euler_deg, particles.euler_deg, atol=1e-4
    )


def test_ids_of_cryosparc_come_back_by_way_of_a_star_file(tmp_path):
    cr.convert(_written(tmp_path), tmp_path / "a.cs")
    cr.convert(tmp_path / "a.cs", tmp_path / "b.star")
    cr.convert(tmp_path / "b.star", tmp_path / "c.cs")
    first, last = np.load(tmp_path / "a.cs"), np.load(tmp_path / "c.cs")
    np.testing.assert_array_equal(last["uid"], first["uid"])
    assert len(np.unique(first["uid"])) == len(first)


def test_unknown_fields_blocks_and_columns_come_back_in_the_same_format(tmp_path):
    star = _written(tmp_path)
    cr.convert(star, tmp_path / "a.cs")
    fields = np.load(tmp_path / "a.cs")
    dtype = [*fields.dtype.descr, ("alignments3D/alpha", "<f4"), ("blob/import_sig", "<u8")]
    more = np.zeros(len(fields), dtype)
    for name in fields.dtype.names:
        more[name] = fields[name]
    more["alignments3D/alpha"] = np.arange(len(more))
    np.save(tmp_path / "more.npy", more)
    done = cr.convert(tmp_path / "more.npy", tmp_path / "b.cs")
    assert any("alignments3D/alpha" in text for text in done.not_understood)
    assert done.not_held == ()
    np.testing.assert_array_equal(np.load(tmp_path / "b.cs")["alignments3D/alpha"], np.arange(12))
    lost = cr.convert(tmp_path / "more.npy", tmp_path / "b.star").not_held
    assert any("alignments3D/alpha" in text for text in lost)
    for name, to, label in (("x.xmd", "xmipp", "weight"), ("x.star", "cistem", "cisTEMScore")):
        cr.convert(star, tmp_path / name, to=to)
        text = (tmp_path / name).read_text().split("\n")
        at = max(i for i, line in enumerate(text) if line.lstrip().startswith("_")) + 1
        rows = [f"{line} 0.{i}5" if line.strip() else line for i, line in enumerate(text[at:])]
        (tmp_path / name).write_text("\n".join([*text[:at], f" _{label}", *rows]))
        done = cr.convert(tmp_path / name, tmp_path / f"again_{name}", to=to)
        assert any(label in text for text in done.not_understood)
        again = read_particles(tmp_path / f"again_{name}")
        assert again.foreign[label][2] == b"0.25"


def _written(folder: Path) -> Path:
    from cryorefine.particles.formats.relion import write_relion

    write_relion(folder / "made.star", full_table(folder))
    return folder / "made.star"


def test_verification_finds_one_map_and_tells_of_a_shift_of_the_other_sign(star, tmp_path):
    done = cr.convert(star, tmp_path / "p.cs", verify=True)
    assert done.agreement is not None
    assert done.agreement.is_same
    assert done.agreement.n_particles == 20
    from cryorefine.conversion import _agreement

    table = read_particles(tmp_path / "p.cs")
    wrong = replace(table, shift_A=-table.shift_A)
    assert not _agreement(read_particles(star), wrong).is_same


def test_losses_that_matter_to_the_map_end_a_verified_conversion_with_a_code(tmp_path):
    star = valid_set().write(tmp_path)
    text = star.read_text().replace("[0.01,0,0.02]", "[9,-7,20]")
    star.write_text(text)
    ended = ended_here(["convert", str(star), str(tmp_path / "p.xmd"), "--verify"])
    assert ended.code == 2
    assert "agree to an FSC" in ended.error
