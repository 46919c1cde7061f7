"""The halves never learn of each other, but through the FSC curve."""

import numpy as np
import pytest
import torch

from cryorefine.io.mrc import read_stack_header, write_stack
from cryorefine.run.checkpoint import load_state
from cryorefine.run.loop import refine

from .conftest import settings_for


@pytest.fixture(scope="module")
def one_iteration(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    refine(settings_for(small_set, iterations=1), folder)
    return folder


def test_replacing_half_two_by_noise_leaves_the_first_assignment_of_half_one_alone(
    small_set, one_iteration, tmp_path
):
    state, arrays = load_state(one_iteration, 1)
    half = arrays["half"]
    header = read_stack_header(small_set / "particles.mrcs")
    images = torch.from_numpy(np.array(header.open(), dtype=np.float32))
    generator = torch.Generator().manual_seed(0)
    images[torch.from_numpy(half == 2)] = torch.randn(
        (int((half == 2).sum()), 48, 48), generator=generator
    )
    write_stack(tmp_path / "particles.mrcs", images, 3.6, half=False)
    text = (small_set / "particles.star").read_text()
    (tmp_path / "particles.star").write_text(text)
    refine(
        settings_for(small_set, particles=tmp_path / "particles.star", iterations=1),
        tmp_path / "run",
    )
    other, other_arrays = load_state(tmp_path / "run", 1)
    assert np.array_equal(other_arrays["half"], half)
    mine = torch.from_numpy(half == 1)
    # Poses, scores, noise and the raw half map of half 1 are the same to the last bit.
    assert torch.equal(other.poses.rotations[mine], state.poses.rotations[mine])
    assert torch.equal(other.poses.quality["score"][mine], state.poses.quality["score"][mine])
    assert torch.equal(other.noise[0][0], state.noise[0][0])
    assert not torch.equal(other.noise[1][0], state.noise[1][0])


def test_both_halves_start_from_the_same_low_passed_map(one_iteration):
    start, _ = load_state(one_iteration, 0)
    assert torch.equal(start.references[0], start.references[1])
    spectrum = torch.fft.fftn(start.references[0]).abs()
    k = torch.fft.fftfreq(48, 1 / 48)
    radius = (k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None] ** 2).sqrt()
    limit = 48 * 3.6 / 30.0
    assert float(spectrum[radius > limit + 2].max() / spectrum.max()) < 1e-3
