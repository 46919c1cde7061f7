import math

import pytest
import torch

from cryorefine.weigh.ranks import percentiles
from cryorefine.weigh.worst import worst_of_groups


@pytest.mark.parametrize("size", [3, 20, 24, 25, 29, 40])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.33, 0.5])
def test_a_share_of_small_groups_is_that_share_of_all(size, share):
    group = torch.arange(10 * size) % 10
    rank = percentiles(torch.rand(10 * size, generator=torch.Generator().manual_seed(1)), group)
    worst = worst_of_groups(rank, group, share)
    assert abs(int(worst.sum()) - share * 10 * size) <= 0.5 + 1e-6
    for number in range(10):
        mine = group == number
        # No group gives more than one beside its share, and its worst ones.
        assert abs(int(worst[mine].sum()) - share * size) < 1
        kept, gone = rank[mine & ~worst], rank[mine & worst]
        assert not len(gone) or not len(kept) or float(gone.max()) <= float(kept.min())


def test_none_and_all_are_shares_too():
    rank = torch.rand(50)
    group = torch.arange(50) // 7
    assert not worst_of_groups(rank, group, 0.0).any()
    assert worst_of_groups(rank, group, 1.0).all()


def test_particles_without_a_rank_are_never_the_worst():
    rank = torch.tensor([math.nan, 0.5, 1.0, math.nan])
    group = torch.zeros(4).long()
    assert worst_of_groups(rank, group, 0.5).tolist() == [False, True, False, False]
    assert not worst_of_groups(rank * math.nan, group, 1.0).any()
