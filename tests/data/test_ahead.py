"""Batches sent ahead are the batches themselves, in their order, each while the next one is fetched."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lorattt.data.ahead import SendAhead
from lorattt.data.loader import EpisodeLoader
from tests.data.test_loader import COUNT, assert_right, batches

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(torch.device("cuda", 0), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def images(number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [
        torch.randint(256, (height, width, 3), generator=generator).byte().permute(2, 0, 1)
        for height, width in ((3, 5), (1, 1), (4, 2 + number))
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["decoded", "contiguous"])
def test_images_arrive_as_they_were(device: torch.device, kind: str) -> None:
    """However their bytes lie: as a decoder leaves them, or channel by channel."""
    sent = [images(number) if kind == "decoded" else [x.contiguous() for x in images(number)] for number in range(5)]
    found = list(SendAhead(device)({"image": batch, "path": [str(number)]} for number, batch in enumerate(sent)))
    assert [batch["path"] for batch in found] == [[str(number)] for number in range(5)]
    for batch, expected in zip(found, sent, strict=True):
        for image, own in zip(batch["image"], expected, strict=True):
            assert image.device == device
            assert image.dtype == torch.uint8
            assert torch.equal(image.cpu(), own)


@pytest.mark.parametrize("device", DEVICES)
def test_views_arrive_as_they_were_and_the_rest_is_left_alone(device: torch.device) -> None:
    views, label = torch.arange(2 * 3 * 3 * 4 * 4).byte().view(2, 3, 3, 4, 4), torch.tensor([1, 2])
    given = {"views": views, "label": label, "skipped": [{"index": 3}]}
    (found,) = SendAhead(device)([given])
    assert found["views"].device == device
    assert torch.equal(found["views"].cpu(), views)
    assert found["label"] is label
    assert found["skipped"] is given["skipped"]
    assert given["views"] is views  # the batch that was given is not changed


def test_one_batch_is_fetched_ahead_and_no_more() -> None:
    asked = []

    def source() -> Iterator[dict[str, Any]]:
        for number in range(4):
            asked.append(number)
            yield {"image": images(number), "number": number}

    ahead = {batch["number"]: list(asked) for batch in SendAhead(CPU)(source())}
    assert ahead == {0: [0, 1], 1: [0, 1, 2], 2: [0, 1, 2, 3], 3: [0, 1, 2, 3]}


def test_an_error_waits_for_its_turn() -> None:
    """What was fetched before it is not lost."""

    def source() -> Iterator[dict[str, Any]]:
        yield {"number": 0}
        yield {"number": 1}
        raise OSError("the disk is gone")

    given, batches = [], SendAhead(CPU)(source())
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in batches:
            given.append(batch["number"])
    assert given == [0, 1]


@pytest.mark.parametrize("batch", [{"image": []}, {"views": torch.empty(0, dtype=torch.uint8)}, {"skipped": [1]}])
def test_batches_without_images_pass(batch: dict[str, Any]) -> None:
    (found,) = SendAhead(CPU)([batch])
    assert found.keys() == batch.keys()


def test_no_batches() -> None:
    assert list(SendAhead(CPU)([])) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_sends_ahead_what_it_would_have_given(workers: int) -> None:
    loader = batches(workers, 1)
    loader.send_to = CPU
    assert_right(list(loader))
    assert len(list(loader)) == len(loader) == COUNT // 3


def test_slots_are_free_as_soon_as_their_images_are_on_their_way() -> None:
    """A batch that is kept holds no slot: its images are elsewhere."""
    loader = batches(1, 1)
    loader.send_to = CPU
    kept = list(loader)
    collate: Any = loader.collate_fn
    # The last batches wait in slots of their own until the worker is asked again.
    assert (collate._state == collate._state.dtype.type(0)).all()
    assert_right(kept)


def test_a_loader_without_images_gives_its_empty_batch() -> None:
    loader: EpisodeLoader = EpisodeLoader([], batch_size=2)  # type: ignore[arg-type]
    loader.send_to = CPU
    (batch,) = loader
    assert batch["path"] == []
