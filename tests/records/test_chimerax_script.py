"""What the script for ChimeraX opens, and at which levels."""

import re

import pytest
import torch

from cryorefine.masks.soft import sphere_mask
from cryorefine.records.chimerax_script import (
    CHIMERAX_SCRIPT,
    enclosing_level,
    surface_level,
    write_chimerax_script,
)

MASK = sphere_mask(32, 13.0, 2.0)
PARTICLE = sphere_mask(32, 9.0, 2.0)


def noisy(seed: int, sigma: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return PARTICLE + sigma * torch.randn(PARTICLE.shape, generator=generator)


def commands(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_level_lies_on_the_surface_of_the_particle_whatever_the_scale_and_the_mask():
    for scale, offset in ((1.0, 0.0), (1e-4, 0.0), (30.0, 5.0)):
        for mask in (MASK, sphere_mask(32, 11.0), torch.zeros_like(MASK)):
            level = surface_level(scale * noisy(0, 0.05) + offset, mask)
            assert 0.2 * scale + offset < level < 0.8 * scale + offset


def test_a_level_encloses_the_share_that_is_asked_for():
    volume, inside = noisy(1, 0.3), MASK > 0.5
    for share in (0.0, 0.02, 0.4, 1.0):
        level = enclosing_level(volume, MASK, share)
        enclosed = float((volume[inside] >= level).float().mean())
        assert enclosed == pytest.approx(share, abs=2 / int(inside.sum()))  # one voxel at least


def test_the_script_opens_what_lies_beside_it_and_names_nothing_else(tmp_path):
    folder = tmp_path / "a \"b'; close session; open x"
    folder.mkdir()
    write_chimerax_script(folder, noisy(0, 0.05), (noisy(1, 0.2), noisy(2, 0.2)), MASK)
    text = (folder / CHIMERAX_SCRIPT).read_text()
    lines = commands(text)
    opened = [line.removeprefix("open ") for line in lines if line.startswith("open ")]
    assert opened == ["map.mrc", "half1.mrc", "half2.mrc", "mask.mrc"]
    assert not any(mark in line for line in lines for mark in ";'\"/\\$")
    assert {line.split()[0] for line in lines} == {"open", "volume", "hide", "view"}


def test_half_maps_are_shown_at_the_volume_of_the_map_and_the_mask_at_its_edge(tmp_path):
    weighted, halves = noisy(0, 0.02), (noisy(1, 0.3), noisy(2, 0.3))
    write_chimerax_script(tmp_path, weighted, halves, MASK)
    text = (tmp_path / CHIMERAX_SCRIPT).read_text()
    levels = [float(level) for level in re.findall(r"volume #\d .*level (\S+)", text)]
    assert len(levels) == 4
    assert levels[3] == 0.5
    inside = MASK > 0.5
    enclosed = [
        float((volume[inside] >= level).float().mean())
        for volume, level in zip((weighted, *halves), levels[:3], strict=True)
    ]
    # Levels have six digits.
    assert enclosed[1:] == pytest.approx([enclosed[0]] * 2, abs=1e-3)


def test_maps_that_hold_nothing_have_a_script_all_the_same(tmp_path):
    nothing = torch.zeros(16, 16, 16)
    write_chimerax_script(tmp_path, nothing, (nothing, nothing), nothing)
    assert "level 0 " in (tmp_path / CHIMERAX_SCRIPT).read_text()
