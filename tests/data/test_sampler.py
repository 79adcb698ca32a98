"""The exact sampler: every position on one device, once."""

import pytest
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lorattt.data.source import ExactShard


class Positions(TensorDataset):
    """As many items as asked for, none of them ever read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    def __len__(self) -> int:
        return self._count


@pytest.mark.parametrize("world", range(1, 6))
@pytest.mark.parametrize("count", range(13))
def test_shares_are_disjoint_complete_and_equal_up_to_one(count: int, world: int) -> None:
    shards = [ExactShard(Positions(count), world, rank) for rank in range(world)]
    shares = [list(shard) for shard in shards]
    assert sorted(position for share in shares for position in share) == list(range(count))
    assert [len(shard) for shard in shards] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # In order, so that predictions are written in order; and the same again in another epoch.
    for shard, share in zip(shards, shares, strict=True):
        assert share == sorted(share)
        shard.set_epoch(3)
        assert list(shard) == share


def test_it_is_what_lightning_leaves_alone() -> None:
    assert isinstance(ExactShard(Positions(5)), DistributedSampler)


def test_a_loader_sees_the_length_of_the_share() -> None:
    loader = DataLoader(Positions(7), batch_size=2, sampler=ExactShard(Positions(7), world=2, rank=0))
    assert len(loader) == 2
    assert list(loader.batch_sampler or []) == [[0, 2], [4, 6]]


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank"):
        ExactShard(Positions(5), world=2, rank=rank)
