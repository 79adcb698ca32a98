"""Random patch masks: sets of distinct positions, uniform, one per view."""

import math

import pytest
import torch

from lorattt.errors import UserError
from lorattt.rng import episode_keys
from lorattt.views.selection import kept_count, random_kept_patches

KEYS = episode_keys(0, torch.arange(4))


@pytest.mark.parametrize(
    ("patches", "ratio", "count"), [(196, 0.75, 49), (49, 0.75, 12), (36, 0.5, 18), (4, 0.75, 1), (10, 0.05, 9)]
)
def test_kept_count_is_rounded_down(patches: int, ratio: float, count: int) -> None:
    assert kept_count(patches, ratio) == count


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_a_ratio_that_is_none_is_refused_by_name(ratio: float) -> None:
    with pytest.raises(UserError, match=f"^mask_ratio {ratio}: "):
        kept_count(196, ratio)


def test_a_ratio_that_keeps_nothing_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"^mask_ratio 0\.99 keeps none of 36 patches: lower it"):
        kept_count(36, 0.99)


@pytest.mark.parametrize("count", [1, 9, 36])
def test_positions_are_distinct_and_as_many_as_asked_for(count: int) -> None:
    views = torch.arange(12).view(4, 3)
    kept = random_kept_patches(KEYS, views, 36, count)
    assert kept.shape == (4, 3, count)
    for mask in kept.flatten(0, 1).tolist():
        assert len(set(mask)) == count
        assert set(mask) <= set(range(36))


def test_a_view_has_the_same_mask_wherever_it_stands() -> None:
    views = torch.tensor([[5, 2, 9], [9, 5, 2], [2, 2, 5], [1, 2, 3]])
    kept = random_kept_patches(KEYS, views, 36, 9)
    for e in range(4):
        for n, view in enumerate(views[e].tolist()):
            alone = random_kept_patches(KEYS[e : e + 1], torch.tensor([[view]]), 36, 9)
            assert torch.equal(kept[e, n], alone[0, 0])
    assert torch.equal(kept[2, 0], kept[2, 1])


def test_views_and_episodes_have_different_masks() -> None:
    kept = random_kept_patches(KEYS, torch.arange(8).expand(4, 8), 36, 18).sort().values.flatten(0, 1)
    assert len(kept.unique(dim=0)) == 32


def test_positions_and_pairs_of_positions_are_uniform() -> None:
    patches, count, masks = 16, 4, 4000
    keys = episode_keys(1, torch.arange(masks // 10))
    kept = random_kept_patches(keys, torch.arange(10).expand(len(keys), 10), patches, count).flatten(0, 1)
    chosen = torch.zeros(masks, patches, dtype=torch.float64).scatter_(1, kept, 1.0)
    together = chosen.T @ chosen / masks
    single, pair = count / patches, count * (count - 1) / (patches * (patches - 1))
    # Five standard errors.
    assert (together.diagonal() - single).abs().max() < 5 * math.sqrt(single * (1 - single) / masks)
    off = together[~torch.eye(patches, dtype=torch.bool)]
    assert (off - pair).abs().max() < 5 * math.sqrt(pair * (1 - pair) / masks)
    # In random order: the first position is uniform too.
    first = kept[:, 0].bincount(minlength=patches) / masks
    assert (first - 1 / patches).abs().max() < 5 * math.sqrt(1 / patches / masks)
