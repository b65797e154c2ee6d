import pytest
import torch

from ldm.training.distributed.ranks import share, summed


@pytest.mark.parametrize("count", [1, 4, 5, 11])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_each_number_counts_on_one_rank_and_all_ranks_get_equally_many(count, world):
    shares = [list(share(count, rank, world)) for rank in range(world)]
    assert len({len(parts) for parts in shares}) == 1
    assert sorted(part for parts in shares for part, counts in parts if counts) == list(range(count))
    assert all(0 <= part < count for parts in shares for part, _ in parts)


def test_the_sum_of_one_rank_is_its_own():
    x = torch.ones(2)
    assert summed(x) is x
