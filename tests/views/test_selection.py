"""Selection of confident views against sorting by hand; random patch masks: distinct positions, one draw per view."""

import math

import pytest
import torch

from lorattt.errors import UserError
from lorattt.rng import episode_keys
from lorattt.views.selection import gather_views, kept_count, random_kept_patches, select_confident, selection_size


def test_selects_the_views_of_lowest_entropy_lowest_first() -> None:
    logits = 3 * torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0))
    expected = []
    for episode in logits.double().softmax(-1).tolist():
        entropies = [-sum(p * math.log(p) for p in view) for view in episode]
        expected.append(sorted(range(9), key=entropies.__getitem__)[:3])
    assert select_confident(logits, 3).tolist() == expected
    assert select_confident(logits, 9).sort().values.tolist() == [list(range(9))] * 4


def test_equal_entropies_keep_the_order_of_views() -> None:
    logits = torch.randn(1, 1, 5).expand(2, 40, 5).clone()
    logits[1, 30] *= 100
    assert select_confident(logits, 4).tolist() == [[0, 1, 2, 3], [30, 0, 1, 2]]


def test_a_broken_view_is_selected_last_and_its_episode_alone_is_touched() -> None:
    logits = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    broken = logits.clone()
    broken[1, 2] = math.nan
    selected = select_confident(broken, 6)
    assert torch.equal(selected[[0, 2]], select_confident(logits, 6)[[0, 2]])
    assert selected[1, -1] == 2


@pytest.mark.parametrize(
    ("views", "fraction", "size"), [(64, 0.1, 6), (64, 0.5, 32), (64, 1.0, 64), (1, 1.0, 1), (10, 0.1, 1), (3, 0.5, 1)]
)
def test_selection_size_is_rounded_down(views: int, fraction: float, size: int) -> None:
    assert selection_size(views, fraction) == size


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, math.nan])
def test_a_fraction_that_is_none_is_refused_by_name(fraction: float) -> None:
    with pytest.raises(UserError, match=rf"^selection {fraction}: .*\(0, 1\]"):
        selection_size(64, fraction)


@pytest.mark.parametrize("views", [1, 3, 7, 9, 32, 64, 128])
@pytest.mark.parametrize("fraction", [0.0011, 1 / 300, 0.007])
def test_what_is_advised_where_none_is_kept_keeps_one(views: int, fraction: float) -> None:
    with pytest.raises(UserError, match=f"^selection {fraction} of {views} views keeps none") as caught:
        selection_size(views, fraction)
    words = str(caught.value).split()
    assert selection_size(int(words[words.index("least") + 1]), fraction) == 1
    assert selection_size(views, float(words[-1])) == 1


def test_gather_views_matches_a_loop() -> None:
    x, selected = torch.randn(3, 5, 2, 4), torch.tensor([[4, 0], [1, 1], [2, 3]])
    taken = gather_views(x, selected)
    assert taken.shape == (3, 2, 2, 4)
    for e in range(3):
        for n in range(2):
            assert torch.equal(taken[e, n], x[e, selected[e, n]])


def test_the_gradient_of_taken_views_reaches_those_alone() -> None:
    x = torch.randn(2, 4, 3, requires_grad=True)
    gather_views(x, torch.tensor([[3, 1], [0, 2]])).sum().backward()
    assert x.grad is not None
    assert x.grad[..., 0].tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


# --- patches ----------------------------------------------------------------------------------------

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
