"""Images and maps whose contrast is inverted are told of, and only they are."""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from cryorefine.engine.serial import SerialEngine
from cryorefine.events import EventLog, read_events
from cryorefine.expectation.grey_scale import scale_references
from cryorefine.io.mrc import read_stack_header, read_volume, write_stack, write_volume
from cryorefine.refine.reference import prepare_references
from cryorefine.refine.schedule import next_plan
from cryorefine.report.build import write_report
from cryorefine.run.inputs import open_inputs
from cryorefine.run.loop import refine, resume
from tests.builders import refused

from .conftest import begun, settings_for, simulate_set


def inverted_set(data: Path) -> Path:
    """A particle file beside a set's own, of its images with the other sign."""
    header = read_stack_header(data / "particles.mrcs")
    images = torch.from_numpy(header.read())
    stack = data / "inverted.mrcs"
    if not stack.exists():
        write_stack(stack, -images.float(), header.pixel_A, half=False)
        for name in ("particles", "truth_particles"):
            text = (data / f"{name}.star").read_text()
            (data / f"inverted_{name}.star").write_text(
                text.replace("particles.mrcs", "inverted.mrcs")
            )
    return data / "inverted_particles.star"


LITTLE_NOISE = 0.05
MORE_NOISE = [pytest.param(snr, marks=pytest.mark.slow) for snr in (0.01, 0.005)]


@pytest.fixture(scope="module")
def noisy_set(tmp_path_factory) -> Callable[[float], Path]:
    """The same particle in more and more noise; where there is little, few show the same."""
    folder = tmp_path_factory.mktemp("noisy")

    @cache
    def made(snr: float) -> Path:
        return simulate_set(
            folder / str(snr), particles=96 if snr == LITTLE_NOISE else 256, box_px=48,
            pixel_angstrom=4.0, symmetry="c1", diameter_angstrom=130, snr=snr,
        )  # fmt: skip

    return made


def warnings_of_start(reference: torch.Tensor | None = None, **settings) -> list[str]:
    """What a search's first look at the images' grey scale warns of."""
    inputs, state = begun(settings_for(symmetry="c1", compare_to=None, **settings))
    if reference is not None:
        state = dataclasses.replace(state, references=(reference, reference))
    plan = next_plan(inputs.settings, inputs.geometry, [])
    assert plan is not None
    log, events = EventLog(), []
    log.subscribe(events.append)
    references = prepare_references(inputs, state, plan)
    scale_references(inputs, state, references.grids, plan, log, SerialEngine())
    return [e.message for e in events if e.kind == "warning"]


@pytest.mark.parametrize("snr", [LITTLE_NOISE, MORE_NOISE[0]])
def test_images_of_inverted_contrast_are_told_of_in_the_first_iteration(noisy_set, snr):
    data = noisy_set(snr)
    [message] = warnings_of_start(folder=data, particles=inverted_set(data))
    assert "contrast inverted" in message
    assert "give --invert-contrast" in message


@pytest.mark.parametrize("snr", [LITTLE_NOISE, *MORE_NOISE])
def test_inverting_inverted_images_is_not_warned_of_nor_are_good_ones(noisy_set, snr):
    data = noisy_set(snr)
    if snr == LITTLE_NOISE:  # inverted twice they are the same images, whatever their noise
        particles = inverted_set(data)
        assert not warnings_of_start(folder=data, particles=particles, invert_contrast=True)
    assert not warnings_of_start(folder=data)


def test_inverting_good_images_is_warned_of(noisy_set):
    [message] = warnings_of_start(folder=noisy_set(LITTLE_NOISE), invert_contrast=True)
    assert "leave out --invert-contrast" in message


@pytest.mark.slow
@pytest.mark.parametrize("snr", [LITTLE_NOISE, 0.005])
def test_a_poor_reference_is_not_taken_for_an_inverted_one(noisy_set, snr, tmp_path):
    other = simulate_set(
        tmp_path / "other", particles=2, box_px=48, pixel_angstrom=4.0, symmetry="c1",
        diameter_angstrom=90, seed=5,
    )  # fmt: skip
    poor = read_volume(other / "reference.mrc").data
    noise = torch.randn(poor.shape, generator=torch.Generator().manual_seed(1))
    for reference in (poor, poor.std() * noise):
        messages = warnings_of_start(reference, folder=noisy_set(snr))
        assert not [m for m in messages if "inverted" in m]


@pytest.mark.slow
def test_a_run_with_the_images_inverted_is_the_run_of_the_images_as_they_should_be(
    tiny_set, tmp_path
):
    particles = inverted_set(tiny_set)
    short = {"iterations": 1, "alignment": "global"}
    refine(settings_for(tiny_set, **short), tmp_path / "good")
    options = {**short, "particles": particles, "invert_contrast": True}
    refine(settings_for(tiny_set, **options), tmp_path / "inverted")
    good, inverted = (
        read_volume(tmp_path / name / "map.mrc").data for name in ("good", "inverted")
    )
    assert torch.equal(good, inverted)
    with refused("--invert-contrast cannot change in a run"):
        resume(tmp_path / "inverted", changes={"invert_contrast": False, "iterations": 1})
    resume(tmp_path / "inverted", changes={"invert_contrast": True, "iterations": 1})
    resume(tmp_path / "good", changes={"iterations": 1})
    assert torch.equal(
        read_volume(tmp_path / "good" / "map.mrc").data,
        read_volume(tmp_path / "inverted" / "map.mrc").data,
    )


@pytest.mark.slow
def test_poses_that_make_a_dark_map_are_told_of_and_good_ones_are_not(tiny_set, tmp_path):
    inverted_set(tiny_set)
    for name, expected in (("inverted_truth_particles", 1), ("truth_particles", 0)):
        particles = tiny_set / f"{name}.star"
        options = {"particles": particles, "alignment": "none", "reference": ()}
        refine(settings_for(tiny_set, **options), tmp_path / name)
        events = read_events(tmp_path / name / "events.jsonl")
        told = [e.message for e in events if e.kind == "warning" and "dark" in e.message]
        assert len(told) == expected
        assert all("give --invert-contrast" in m for m in told)
        write_report(tmp_path / name)
        assert ("the particle is dark" in (tmp_path / name / "report.html").read_text()) == bool(
            expected
        )


def test_an_initial_map_whose_particle_is_dark_is_told_of(tiny_set, tmp_path):
    volume = read_volume(tiny_set / "reference.mrc")
    write_volume(tmp_path / "dark.mrc", -volume.data, volume.voxel_A)
    for path, expected in ((tmp_path / "dark.mrc", 1), (tiny_set / "reference.mrc", 0)):
        log, events = EventLog(), []
        log.subscribe(events.append)
        open_inputs(settings_for(tiny_set, reference=(path,))).start_volumes(log)
        told = [e.message for e in events if e.kind == "warning"]
        assert len(told) == expected
        assert all(str(path) in m and "dark" in m for m in told)
