"""Images out of slots that are used again: always each batch's own, whatever the worker does meanwhile."""

import gc
import pickle
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorattt.data import loader
from lorattt.data.images import UnreadableImageError
from lorattt.data.loader import EpisodeLoader, SlotCollate
from lorattt.data.source import EpisodeDataset, collate_episodes

COUNT = 60


class Sized:
    """Images of many sizes; every pixel tells the image and its place. Some cannot be read."""

    name, class_names = "sized", ["one"]

    def __len__(self) -> int:
        return COUNT

    def path(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int:
        return 0

    def read(self, index: int) -> Image.Image:
        if index % 13 == 5:
            raise UnreadableImageError("broken")
        return Image.fromarray(pixels(index))


def pixels(index: int) -> Any:
    # Late images are the largest, so that slots have to grow; then small again.
    height, width = (40, 50) if index > 45 else (1 + index % 7, 2 + index % 5)
    return (np.arange(height * width * 3).reshape(height, width, 3) + 17 * index).astype(np.uint8)


def batches(workers: int, prefetch: int, persistent: bool = False) -> EpisodeLoader:
    return EpisodeLoader(
        EpisodeDataset(Sized(), list(range(COUNT)), None),
        batch_size=3,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=persistent,
    )


def assert_right(found: list[dict[str, Any]]) -> None:
    assert [int(i) for batch in found for i in batch["index"]] == [i for i in range(COUNT) if i % 13 != 5]
    for batch in found:
        assert set(batch) == {"image", "label", "index", "path", "skipped"}
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            assert image.dtype == torch.uint8
            assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels(index))
    assert [bad["index"] for batch in found for bad in batch["skipped"]] == [i for i in range(COUNT) if i % 13 == 5]


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 2), (1, 1), (2, 2)])
def test_kept_batches_are_never_overwritten(workers: int, prefetch: int) -> None:
    """All batches are kept and looked at when the workers are long done."""
    assert_right(list(batches(workers, prefetch)))


def test_a_slow_reader_gets_what_was_written_for_it() -> None:
    """The worker has all the time to run ahead before a batch is asked for."""
    found = []
    for batch in batches(1, 1):
        time.sleep(0.01)
        found.append(batch)
    assert_right(found)


def test_an_epoch_left_early_does_not_disturb_the_next() -> None:
    data = batches(1, 2, persistent=True)
    for batch in data:
        assert batch["index"].tolist() == [0, 1, 2]
        break
    assert_right(list(data))


def test_a_slot_freed_too_early_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: slots that are never held show the next batches in those that were kept."""
    monkeypatch.setattr(loader, "_TAKEN", loader._FREE)
    with pytest.raises(AssertionError):
        assert_right(list(batches(1, 1)))


def test_slots_are_free_again_when_their_batch_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read batch by batch, everything crosses in slots; kept, the slots run out and the rest comes the plain way."""
    taken = spied(monkeypatch)
    data = batches(2, 2, persistent=True)
    for _ in range(3):
        for batch in data:
            del batch
    assert all(taken)
    for _ in range(5):  # left early: what was sent and thrown away is free again too
        next(iter(data))
    taken.clear()
    for batch in data:
        del batch
    assert all(taken)
    taken.clear()
    kept = list(data)
    assert 2 * 3 <= sum(taken) < len(taken) == len(kept)
    assert_right(kept)


def test_pixels_outlive_the_loader() -> None:
    found = list(batches(1, 1))
    image = found[0]["image"][0]
    del found
    gc.collect()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels(0))


def test_two_iterations_at_once_do_not_share_slots() -> None:
    data = batches(1, 1)
    pairs = list(zip(data, data, strict=True))
    assert_right([one for one, _ in pairs])
    assert_right([other for _, other in pairs])


def spied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one for each batch: whether it came in a slot."""
    taken = []

    def spy(self: SlotCollate, batch: dict[str, Any]) -> dict[str, Any]:
        taken.append("slot" in batch)
        return right(self, batch)

    right = SlotCollate.taken_out
    monkeypatch.setattr(SlotCollate, "taken_out", spy)
    return taken


def test_images_really_cross_in_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = spied(monkeypatch)
    for batch in batches(2, 2):
        del batch
    assert all(taken)
    # Without room, or in workers that inherit nothing, batches come the plain way.
    taken.clear()
    monkeypatch.setattr(loader, "_BYTES_PER_IMAGE", 100)
    assert_right(list(batches(2, 2)))
    assert len(set(taken)) == 2
    taken.clear()
    without = batches(1, 1)
    without.multiprocessing_context = "spawn"
    assert_right(list(without))
    assert not any(taken)


def test_the_main_process_makes_no_slots() -> None:
    dataset = EpisodeDataset(Sized(), [0, 1], None)
    items = [dataset[0], dataset[1]]
    assert SlotCollate(1, 2, 3)(items).keys() == collate_episodes(items).keys()
    assert pickle.loads(pickle.dumps(SlotCollate(1, 2, 3))).slots == []
