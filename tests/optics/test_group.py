import math

import pytest

from cryorefine.optics.group import OpticsGroup


@pytest.mark.parametrize(
    ("matrix", "stretch"),
    [
        ((1.0, 0.0, 0.0, 1.0), 1.0),
        ((0.9, 0.0, 0.0, 0.8), 1.0),  # nothing gets longer
        ((1.02, 0.0, 0.0, 0.97), 1.02),
        ((0.0, -1.05, 1.05, 0.0), 1.05),  # a turn as well
        ((1.0, 0.2, 0.0, 1.0), (math.sqrt(4.04) + 0.2) / 2),  # a shear
    ],
)
def test_the_largest_stretch_is_that_of_the_frequency_which_gets_longest(matrix, stretch):
    group = OpticsGroup("g", 1.5, 64, magnification=matrix)
    assert group.largest_stretch == pytest.approx(stretch)
    a, b, c, d = matrix
    turned = [(math.cos(i / 1000), math.sin(i / 1000)) for i in range(3142)]
    longest = max(math.hypot(a * x + b * y, c * x + d * y) for x, y in turned)
    assert group.largest_stretch == pytest.approx(max(1.0, longest), abs=1e-6)
