import csv
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from cryorefine.evaluate.fsc import FscCurves, half_map_fsc
from cryorefine.io.star import read_star
from cryorefine.masks.soft import sphere_mask
from cryorefine.records.fsc_files import FSC_FILES, FscRecord, write_fsc


@pytest.fixture(scope="module")
def curves() -> FscCurves:
    generator = torch.Generator().manual_seed(3)
    blob = sphere_mask(24, 4.0, 4.0)
    halves = [blob + 0.05 * torch.randn(blob.shape, generator=generator) for _ in range(2)]
    return half_map_fsc(*halves, voxel_A=3.0, mask=sphere_mask(24, 8.0))


def points_of(path):
    """Frequencies and correlations of an EMDB file, which must be as EMDB takes it."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "fsc"
    assert root.get("title")
    assert root.get("xaxis") == "Resolution (A-1)"
    assert root.get("yaxis") == "Correlation Coefficient"
    assert [child.tag for child in root] == ["coordinate"] * len(root)
    assert all([part.tag for part in child] == ["x", "y"] for child in root)
    return np.array([[float(part.text or "") for part in child] for child in root]).T


def test_all_files_hold_the_same_curves(curves, tmp_path):
    record = FscRecord(curves, curves.resolution_A(), comparison=curves.unmasked / 2)
    for name in FSC_FILES:
        write_fsc(tmp_path / name, record)
    star = read_star(tmp_path / "fsc.star")["fsc"]
    with open(tmp_path / "fsc.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {
        "shell": "rlnSpectralIndex",
        "frequency_per_A": "rlnResolution",
        "corrected": "rlnFourierShellCorrelationCorrected",
        "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
        "masked": "rlnFourierShellCorrelationMaskedMaps",
        "phase_randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
        "outside_mask": "cryorefineFourierShellCorrelationOutsideMask",
        "comparison": "cryorefineComparisonFSC",
    }
    assert set(rows[0]) == {*names, "resolution_A"}
    for name, label in names.items():
        column = [float(row[name]) for row in rows]
        np.testing.assert_allclose(column, star.floats(label), atol=1e-6)  # six decimals
    assert rows[0]["resolution_A"] == ""
    assert [float(r["resolution_A"]) for r in rows[1:]] == pytest.approx(
        star.floats("rlnAngstromResolution")[1:], abs=1e-6
    )
    x, y = points_of(tmp_path / "fsc.xml")
    np.testing.assert_allclose(x, star.floats("rlnResolution"), atol=1e-6)
    np.testing.assert_allclose(y, star.floats("rlnFourierShellCorrelationCorrected"), atol=1e-6)


def test_the_xml_says_whether_a_mask_was_corrected_for(curves, tmp_path):
    zero = torch.zeros_like(curves.unmasked)
    plain = FscCurves(
        curves.frequency_per_A,
        curves.unmasked,
        curves.unmasked,
        zero,
        curves.unmasked,
        zero,
        np.inf,
    )
    for name, given, title in (("a.xml", curves, "corrected"), ("b.xml", plain, "without mask")):
        write_fsc(tmp_path / name, FscRecord(given, given.resolution_A()))
        root = ElementTree.parse(tmp_path / name).getroot()
        assert title in (root.get("title") or "")


def test_a_resolution_that_is_none_is_a_plain_number_in_the_table(curves, tmp_path):
    write_fsc(tmp_path / "fsc.star", FscRecord(curves, np.inf))
    general = read_star(tmp_path / "fsc.star")["general"]
    assert general.floats("rlnFinalResolution")[0] == 1e6
