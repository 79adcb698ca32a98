"""Batches sent ahead are the batches themselves, in their order, each while the next one is fetched."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lorattt.data import shared
from lorattt.data.loader import DevicePrefetcher, EpisodeLoader
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
    found = list(DevicePrefetcher(device)({"image": batch, "path": [str(number)]} for number, batch in enumerate(sent)))
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
    (found,) = DevicePrefetcher(device)([given])
    assert found["views"].device == device
    assert torch.equal(found["views"].cpu(), views)
    assert found["label"] is label
    assert found["skipped"] is given["skipped"]
    assert given["views"] is views  # the batch that was given is not changed


def test_one_batch_is_fetched_ahead_and_no_more() -> None:
    asked: list[int] = []

    def source() -> Iterator[dict[str, Any]]:
        for number in range(4):
            asked.append(number)
            yield {"image": images(number), "number": number}

    for batch in DevicePrefetcher(CPU)(source()):
        last = min(batch["number"] + 1, 3)
        wait_until(lambda last=last: asked[-1] == last)  # while this batch is at work
        time.sleep(0.01)
        assert asked == list(range(last + 1))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


class Logged:
    """Stands for a CUDA stream and for an event in it; says what is asked of them."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def record_event(self) -> "Logged":
        self.log.append(f"{self.name}: event")
        return Logged(f"event of {self.name}", self.log)

    def wait_event(self, event: "Logged") -> None:
        self.log.append(f"{self.name}: wait for {event.name}")


@pytest.mark.parametrize("key", ["image", "views"])
def test_work_waits_for_the_copy_and_memory_for_the_work(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    work, copies = Logged("work", log), Logged("copies", log)

    @contextmanager
    def within(stream: Logged) -> Iterator[None]:
        log.append(f"in {stream.name}")
        yield
        log.append(f"out of {stream.name}")

    def sent(self: Tensor, *to: Any, non_blocking: bool = False) -> Tensor:
        assert non_blocking
        log.append("copy")
        return self.clone()

    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: work)
    monkeypatch.setattr(Tensor, "to", sent)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    ahead: Any = DevicePrefetcher(CPU)
    ahead._copies = copies
    given = images(0) if key == "image" else torch.zeros(3, 2, 3, 4, 4, dtype=torch.uint8)
    (_,) = ahead([{key: given}])
    assert [line for line in log if line.startswith("work")] == ["work: wait for event of copies"]
    assert [line for line in log if not line.startswith(("work", "kept"))] == [
        "in copies",
        "copy",
        "copies: event",
        "out of copies",
    ]
    assert log.index("work: wait for event of copies") > log.index("copies: event")
    assert log.count("kept for work") == 3


def test_an_error_waits_for_its_turn() -> None:
    """What was fetched before it is not lost."""

    def source() -> Iterator[dict[str, Any]]:
        yield {"number": 0}
        yield {"number": 1}
        raise OSError("the disk is gone")

    given, batches = [], DevicePrefetcher(CPU)(source())
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in batches:
            given.append(batch["number"])
    assert given == [0, 1]


@pytest.mark.parametrize("batch", [{"image": []}, {"views": torch.empty(0, dtype=torch.uint8)}, {"skipped": [1]}])
def test_batches_without_images_pass(batch: dict[str, Any]) -> None:
    (found,) = DevicePrefetcher(CPU)([batch])
    assert found.keys() == batch.keys()


def test_no_batches() -> None:
    assert list(DevicePrefetcher(CPU)([])) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_sends_ahead_what_it_would_have_given(workers: int) -> None:
    loader = batches(workers, 1)
    loader.send_to = CPU
    assert_right(list(loader))
    assert len(list(loader)) == len(loader) == COUNT // 3


def test_shared_memory_is_free_as_soon_as_its_images_are_on_their_way() -> None:
    """A batch that is kept holds no shared memory: its images are elsewhere."""
    loader = batches(1, 1)
    loader.send_to = CPU
    kept = list(loader)
    memory: Any = loader._memory
    assert (memory._state == shared._FREE).all()
    assert_right(kept)


def test_a_loader_without_images_gives_its_empty_batch() -> None:
    loader: EpisodeLoader = EpisodeLoader([], batch_size=2)  # type: ignore[arg-type]
    loader.send_to = CPU
    (batch,) = loader
    assert batch["path"] == []


def test_a_loader_left_early_ends_its_thread() -> None:
    loader = batches(1, 1)
    loader.send_to = CPU
    for _ in loader:
        break
    wait_until(lambda: not any(thread.name.startswith("send-ahead") for thread in threading.enumerate()))
    assert_right(list(loader))
