import numpy as np
import pytest
import torch

from cryorefine.engine.memory import MemoryPlan
from cryorefine.engine.serial import SerialEngine
from cryorefine.events import EventLog
from cryorefine.io.mrc import write_volume
from cryorefine.model.observe import ImageStatistics
from cryorefine.particles.formats.relion import read_relion
from cryorefine.particles.images import open_images
from cryorefine.refine import image_statistics as statistics_module
from cryorefine.refine.image_statistics import screen_images
from cryorefine.refine.noise import initial_noise, positive_spectrum
from cryorefine.run.inputs import first_state, open_inputs, screen, screened_inputs
from cryorefine.settings import make_settings
from cryorefine.state.particle_batches import ParticleStack, make_half_optics
from tests.builders import (
    optics_columns,
    particle_columns,
    refused,
    write_mrc,
    write_particle_star,
)


def noise_images(n, size_px, *, std=1.0, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, std, (n, size_px, size_px)).astype("f4")


def opened(folder, *stacks):
    """Write one stack and optics group for each array; return their checked table and images."""
    names, groups = [], []
    for g, content in enumerate(stacks):
        write_mrc(folder / f"s{g}.mrcs", content, pixel_A=0.0)
        names += [f"{i + 1:06d}@s{g}.mrcs" for i in range(len(content))]
        groups += [g + 1] * len(content)
    columns = particle_columns(
        len(names), rlnImageName=names, rlnOpticsGroup=groups, rlnMicrographName=None
    )
    optics = optics_columns(len(stacks), rlnImageSize=[s.shape[-1] for s in stacks])
    path = write_particle_star(folder / "p.star", columns, optics)
    return open_images(read_relion(path))


def first_noise(table, images, statistics):
    """Return the noise of groups with all particles in one half, and the geometries' bands."""
    voxel_A = min(g.pixel_A for g in table.optics)
    size_px = max(g.box_px for g in table.optics)
    optics = make_half_optics(
        table.optics, volume_size_px=size_px, voxel_A=voxel_A, resolution_A=2 * voxel_A
    )
    memory = MemoryPlan(1, False, 1 << 24, 128, 0, 0)
    stack = ParticleStack(table, images, statistics, memory, torch.device("cpu"))
    one_half = np.ones(len(table), np.int8)
    found = initial_noise(stack, one_half, (optics, optics), EventLog(), SerialEngine())
    return found[0], optics.geometry_bands


@pytest.mark.parametrize("size_px", [15, 16])
def test_the_background_of_an_image_is_what_lies_outside_the_particle(tmp_path, size_px):
    content = noise_images(3, size_px, std=2.0, mean=7.0)
    centre = size_px // 2
    content[:, centre - 2 : centre + 3, centre - 2 : centre + 3] += 1000.0
    table, images = opened(tmp_path, content)
    screening = screen_images(table, images, np.array([5.0]), EventLog(), SerialEngine())
    y, x = np.indices((size_px, size_px)) - centre
    outside = content[:, np.hypot(y, x) > 5.5].astype(np.float64)
    np.testing.assert_allclose(screening.statistics.mean, outside.mean(1), atol=0.4)
    np.testing.assert_allclose(screening.statistics.std, outside.std(1), atol=0.4)
    assert screening.is_usable.tolist() == [True] * 3


@pytest.mark.parametrize("batch", [1, 2, 128])
def test_images_that_cannot_be_used_are_found_and_told_why(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(statistics_module, "_LARGEST_BATCH", batch)
    content = noise_images(7, 16)
    content[1] = 3.25
    content[2, 0, 0] = np.nan
    content[4, 8, 8] = np.inf
    content[5] = 0.0
    table, images = opened(tmp_path, content)
    screening = screen_images(table, images, np.array([6.0]), EventLog(), SerialEngine())
    bad = "NaN or infinite pixels"
    assert screening.reasons == ("", "constant", bad, "", bad, "constant", "")
    assert screening.is_usable.tolist() == [True, False, False, True, False, False, True]
    assert (screening.statistics.std > 0).tolist() == screening.is_usable.tolist()
    assert torch.isfinite(screening.statistics.mean).all()


def test_each_optics_group_is_screened_with_its_own_radius_and_box(tmp_path):
    table, images = opened(tmp_path, noise_images(2, 16), 5 * noise_images(3, 9, seed=1))
    screening = screen_images(table, images, np.array([7.0, 3.0]), EventLog(), SerialEngine())
    assert screening.statistics.std[:2].numpy() == pytest.approx(1.0, abs=0.35)
    assert screening.statistics.std[2:].numpy() == pytest.approx(5.0, abs=1.7)


def test_screening_tells_how_far_it_is(tmp_path):
    table, images = opened(tmp_path, noise_images(2, 16), noise_images(3, 9))
    heard = []
    events = EventLog()
    events.subscribe(heard.append)
    screen_images(table, images, np.array([7.0, 4.0]), events, SerialEngine())
    assert [(e.done, e.total) for e in heard] == [(2, 5), (5, 5)]


@pytest.mark.parametrize("size_px", [15, 16])
def test_the_noise_of_white_noise_is_its_variance_in_every_shell(tmp_path, size_px):
    n, std = 300, 3.0
    table, images = opened(tmp_path, noise_images(n, size_px, std=std))
    statistics = ImageStatistics(torch.zeros(n), torch.ones(n))
    (spectrum,), group_bands = first_noise(table, images, statistics)
    count = torch.bincount(group_bands[0].band.shell)
    assert len(spectrum) == len(count)
    # A half-plane coefficient's power is exponential, with as much spread as mean; the zero
    # frequency is real, with sqrt 2 as much. Five standard deviations.
    tolerance = 5 * np.sqrt(2 / (n * count.numpy()))
    relative = spectrum.numpy() / (std**2 * size_px**2)
    assert (np.abs(relative - 1) < tolerance).all(), relative


def test_what_all_images_have_in_common_is_no_noise(tmp_path):
    n = 40
    content = noise_images(n, 16)
    common = 3 * noise_images(1, 16, seed=9)
    statistics = ImageStatistics(torch.zeros(n), torch.ones(n))
    (tmp_path / "common").mkdir()
    plain = opened(tmp_path, content)
    shifted = opened(tmp_path / "common", content + common)
    (first,), (second,) = (first_noise(*inputs, statistics)[0] for inputs in (plain, shifted))
    np.testing.assert_allclose(second, first, rtol=1e-4)


def test_each_optics_group_has_a_noise_spectrum_of_its_own(tmp_path):
    table, images = opened(tmp_path, noise_images(60, 16), noise_images(60, 9, std=2.0))
    statistics = ImageStatistics(torch.zeros(120), torch.ones(120))
    (first, second), _ = first_noise(table, images, statistics)
    assert (len(first), len(second)) == (8, 5)
    assert float(first[1:].mean()) == pytest.approx(16**2, rel=0.1)
    assert float(second[1:].mean()) == pytest.approx(4 * 9**2, rel=0.1)


def test_groups_of_one_box_share_their_spectrum_to_the_bit_unless_their_noise_differs(tmp_path):
    n = 24
    statistics = ImageStatistics(torch.zeros(3 * n), torch.ones(3 * n))
    for std, name in ((1.0, "alike"), (2.0, "apart")):
        (tmp_path / name).mkdir()
        contents = (noise_images(n, 16, std=s, seed=k) for k, s in enumerate((1.0, 1.0, std)))
        table, images = opened(tmp_path / name, *contents)
        found, _ = first_noise(table, images, statistics)
        if name == "alike":
            assert torch.equal(found[0], found[1])
            assert torch.equal(found[0], found[2])
        else:
            assert float(found[2][1:].mean()) == pytest.approx(4 * 16**2, rel=0.1)
            assert float(found[0][1:].mean()) == pytest.approx(16**2, rel=0.1)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_give_a_noise_that_can_be_divided_by(tmp_path, n):
    table, images = opened(tmp_path, noise_images(n, 16))
    statistics = ImageStatistics(torch.zeros(n), torch.ones(n))
    (spectrum,), _ = first_noise(table, images, statistics)
    assert torch.isfinite(spectrum).all()
    assert (spectrum > 0).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_noise_of_few_images_is_not_biased(tmp_path, n):
    size_px = 48
    table, images = opened(tmp_path, noise_images(n, size_px))
    statistics = ImageStatistics(torch.zeros(n), torch.ones(n))
    (spectrum,), group_bands = first_noise(table, images, statistics)
    count = torch.bincount(group_bands[0].band.shell)
    mean = float((spectrum * count).sum() / count.sum())
    # About 800 coefficients: five standard deviations.
    assert mean == pytest.approx(size_px**2, rel=5 / 800**0.5)


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0, 0.0], [4.0, -1.0]])
def test_a_noise_spectrum_is_kept_positive_and_otherwise_as_it_is(values):
    spectrum = torch.tensor(values, dtype=torch.float64)
    positive = positive_spectrum(spectrum)
    assert (positive > 0).all()
    assert torch.equal(positive[spectrum > 0], spectrum[spectrum > 0])


# Through preparation, as a run does it


def prepared(folder, content, *, optics=None):
    """Return (first state, inputs, warnings) of a run over one stack of images."""
    folder.mkdir()
    write_mrc(folder / "s.mrcs", content)
    size_px = content.shape[-1]
    columns = particle_columns(len(content), stack="s.mrcs", rlnMicrographName=None)
    path = write_particle_star(
        folder / "p.star", columns, optics or optics_columns(1, rlnImageSize=size_px)
    )
    r2 = sum((g - size_px // 2) ** 2 for g in torch.meshgrid(*[torch.arange(size_px)] * 3,
                                                             indexing="ij"))  # fmt: skip
    write_volume(folder / "map.mrc", torch.exp(-r2 / 8.0), 1.5)
    settings = make_settings(
        {"particles": path, "reference": [folder / "map.mrc"], "particle_radius_px": 6}
    )
    heard = []
    events = EventLog()
    events.subscribe(heard.append)
    ready = open_inputs(settings)
    start = ready.start_volumes(events)
    radius_px = ready.radius_px(start[0], events)
    inputs = screened_inputs(
        ready, screen(ready, radius_px, events, SerialEngine()), None, radius_px, events
    )
    state = first_state(inputs, start, events, SerialEngine())
    return state, inputs, [e.message for e in heard if e.kind == "warning"]


def test_images_that_cannot_be_used_are_left_out_named_and_do_not_poison_the_noise(tmp_path):
    content = noise_images(12, 16)
    bad = np.insert(content, [2, 5, 5], 0.0, axis=0)
    bad[2, 3, 3] = np.nan
    bad[6] = 1e30
    clean_state, clean_inputs, _ = prepared(tmp_path / "clean", content)
    state, inputs, warnings = prepared(tmp_path / "bad", bad)
    assert len(inputs.table) == 12
    assert [n.split("@")[0] for n in inputs.rejected.names] == ["000003", "000007", "000008"]
    assert "3 of 15 particles" in warnings[0]
    assert "000003@s.mrcs (NaN or infinite pixels)" in warnings[0]
    assert "000007@s.mrcs (constant)" in warnings[0]
    np.testing.assert_array_equal(inputs.half, clean_inputs.half)
    for mine, theirs in zip(state.noise, clean_state.noise, strict=True):
        torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=0)


def test_many_unusable_images_are_counted_and_the_first_five_named(tmp_path):
    content = np.concatenate([noise_images(4, 16), np.zeros((9, 16, 16), "f4")])
    _, inputs, warnings = prepared(tmp_path / "run", content)
    assert len(inputs.rejected) == 9
    assert inputs.rejected_reasons == ("constant",) * 9
    assert warnings[0].count("(constant)") == 5
    assert warnings[0].endswith("and 4 more")


def test_a_set_without_any_usable_image_is_refused(tmp_path):
    with refused("p.star: none of the 3 images can be used (constant)"):
        prepared(tmp_path / "run", np.zeros((3, 16, 16), "f4"))


@pytest.mark.parametrize("size_px", [17, 18])
def test_the_first_noise_of_normalised_white_noise_is_one_per_pixel(tmp_path, size_px):
    state, inputs, _ = prepared(tmp_path / "run", noise_images(400, size_px, std=7.0, mean=-3.0))
    assert (inputs.half == 1).sum() == 200
    for half in state.noise:
        relative = half[0][1:] / size_px**2
        assert float((relative - 1).abs().max()) < 0.2


@pytest.mark.parametrize("box_px", [None, 16])
def test_an_optics_group_that_no_particle_uses_does_no_harm(tmp_path, box_px):
    optics = optics_columns(2, rlnImageSize=box_px)
    state, inputs, _ = prepared(tmp_path / "run", noise_images(6, 16), optics=optics)
    assert len(inputs.optics) == 2
    assert torch.isfinite(state.noise[0][0]).all()


def test_screening_again_with_the_same_seed_gives_the_same_halves(tmp_path):
    content = noise_images(20, 16)
    first, second = (prepared(tmp_path / name, content)[1] for name in ("a", "b"))
    np.testing.assert_array_equal(first.half, second.half)
    assert first.geometry == second.geometry
