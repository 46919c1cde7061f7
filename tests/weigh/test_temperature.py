import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryorefine.weigh.temperature import angular_temperature

NAN = math.nan
angles = st.floats(0, 180)
particles = st.lists(
    st.tuples(angles | st.just(NAN), st.tuples(*[angles | st.just(NAN)] * 3)), max_size=30
)


def tensor(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_first_time_a_third_of_the_mean_counts():
    found = angular_temperature(None, tensor([[3, 9], [6, NAN], [NAN, NAN]]))
    np.testing.assert_allclose(found, [2, 2, 0])


def test_two_thirds_of_the_past_are_remembered():
    found = angular_temperature(tensor([3, NAN, 6, NAN]), tensor([[6], [6], [NAN], [NAN]]))
    np.testing.assert_allclose(found, [4, 2, 6, 0])


@given(particles)
def test_temperatures_are_those_of_a_loop(table):
    previous = tensor([p for p, _ in table])
    differences = tensor([d for _, d in table]).reshape(-1, 3)
    expected = []
    for p, d in table:
        known = [x for x in d if not math.isnan(x)]
        before = 0.0 if math.isnan(p) else p
        expected.append(2 / 3 * before + sum(known) / len(known) / 3 if known else before)
    found = angular_temperature(previous, differences)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(particles)
def test_a_temperature_stays_between_the_past_and_the_present(table):
    previous = tensor([p for p, _ in table]).nan_to_num(0.0)
    differences = tensor([d for _, d in table]).reshape(-1, 3)
    all_angles = torch.cat([previous[:, None], differences], 1)
    found = angular_temperature(previous, differences)
    assert bool((found <= all_angles.nan_to_num(-1).amax(1) + 1e-9).all())
    assert bool((found >= all_angles.nan_to_num(999).amin(1) - 1e-9).all())


def test_a_restless_particle_is_hotter_and_cools_once_it_rests():
    temperature = tensor([0, 0])
    for _ in range(10):
        temperature = angular_temperature(temperature, tensor([[60], [1]]))
    assert float(temperature[0]) > 50
    assert float(temperature[1]) < 1
    for _ in range(10):
        temperature = angular_temperature(temperature, tensor([[0], [0]]))
    assert float(temperature[0]) < 2


def test_no_particles_and_no_kinds_of_difference():
    assert angular_temperature(None, torch.zeros(0, 2)).shape == (0,)
    assert angular_temperature(None, torch.zeros(3, 0)).tolist() == [0, 0, 0]
    assert angular_temperature(tensor([1, NAN]), tensor([[], []])).tolist() == [1, 0]
