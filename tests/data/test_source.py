"""Episodes of a source: numbering, limits, batches with bad images."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lorattt.data.source import EpisodeDataset, collate_episodes, spread
from tests.data.fake import Fake


def numbered(count: int, bad: tuple[int, ...] = ()) -> Fake:
    return Fake("numbered", range(count), broken=bad, classes=2, size=(4, 3))


def two_views(image: Image.Image, index: int) -> Tensor:
    """The red value, and the number the transform was told."""
    red = image.getpixel((0, 0))
    assert isinstance(red, tuple)
    return torch.tensor([red[0], index], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)


@pytest.mark.parametrize("count", range(9))
def test_spread_is_even_and_sorted(count: int) -> None:
    assert spread(count, None) == list(range(count))
    for limit in range(1, 12):
        numbers = spread(count, limit)
        assert len(numbers) == min(count, limit)
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= set(range(count))
        gaps = [b - a for a, b in pairwise([*numbers, count])]
        assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_spread_takes_equally_many_of_each_sorted_class() -> None:
    labels = [number // 50 for number in spread(50_000, 2000)]
    assert {labels.count(label) for label in range(1000)} == {2}


def test_an_episode_carries_its_dataset_wide_number() -> None:
    dataset = EpisodeDataset(numbered(10), [7, 2], two_views)
    assert len(dataset) == 2
    for position, index in enumerate([7, 2]):
        item = dataset[position]
        assert {key: item[key] for key in ("index", "path", "label")} == {
            "index": index,
            "path": f"numbered/{index}.png",
            "label": index % 2,
        }
        assert item["views"][:, 0, 0, 0].tolist() == [index, index]


def test_a_bad_image_has_a_reason_and_no_views() -> None:
    item = EpisodeDataset(numbered(10, bad=(7,)), [7, 2], two_views)[0]
    assert item == {"index": 7, "path": "numbered/7.png", "label": 1, "reason": "image file is truncated"}


def batches(bad: tuple[int, ...], workers: int = 0, size: int = 3) -> list[dict[str, Any]]:
    dataset = EpisodeDataset(numbered(7, bad), list(range(7)), two_views)
    return list(DataLoader(dataset, batch_size=size, collate_fn=collate_episodes, num_workers=workers))


def test_good_episodes_are_stacked_and_bad_ones_listed() -> None:
    first, second, third = batches(bad=(1, 3, 4, 5))
    assert first["index"].tolist() == [0, 2]
    assert first["label"].tolist() == [0, 0]
    assert first["path"] == ["numbered/0.png", "numbered/2.png"]
    assert first["views"].shape == (2, 2, 3, 1, 1)
    assert first["views"][:, 0, 0, 0, 0].tolist() == [0, 2]
    assert first["skipped"] == [{"index": 1, "path": "numbered/1.png", "reason": "image file is truncated"}]
    # All of the second batch is bad: still a batch, with its list.
    assert [skipped["index"] for skipped in second["skipped"]] == [3, 4, 5]
    assert (len(second["views"]), second["label"].tolist(), second["index"].tolist(), second["path"]) == (0, [], [], [])
    assert third["skipped"] == []
    for batch in (first, second, third):
        assert batch["views"].dtype == torch.uint8
        assert batch["label"].dtype == batch["index"].dtype == torch.int64


def test_workers_make_the_same_batches() -> None:
    for mine, theirs in zip(batches((1, 3, 4, 5), workers=2), batches((1, 3, 4, 5)), strict=True):
        assert torch.equal(mine.pop("views"), theirs.pop("views"))
        assert torch.equal(mine.pop("label"), theirs.pop("label"))
        assert torch.equal(mine.pop("index"), theirs.pop("index"))
        assert mine == theirs


def test_without_a_transform_an_item_is_the_image_at_its_own_size() -> None:
    class Striped(Fake):
        def read(self, index: int) -> Image.Image:
            image = Image.new("RGB", (5, 3), (1, 2, 3))
            image.putpixel((4, 2), (7, 8, 9))
            return image

    image = EpisodeDataset(Striped("striped", [0]), [0], None)[0]["image"]
    assert image.shape == (3, 5, 3)
    assert image[0, 0].tolist() == [1, 2, 3]
    assert image[2, 4].tolist() == [7, 8, 9]
    (batched,) = collate_episodes([EpisodeDataset(Striped("striped", [0]), [0], None)[0]])["image"]
    assert batched.shape == (3, 3, 5)
    assert batched[:, 2, 4].tolist() == [7, 8, 9]
