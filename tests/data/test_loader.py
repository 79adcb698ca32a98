"""Pixels out of memory that is used again: always each batch's own, whatever the worker does meanwhile."""

import errno
import gc
import os
import re
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorattt.data import loader, shared
from lorattt.data.images import UnreadableImageError
from lorattt.data.loader import EpisodeLoader, LostWorkerError
from lorattt.data.source import EpisodeDataset, collate_episodes
from lorattt.errors import UserError

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
    # Late images are the largest, so that pieces have to move; then small again.
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


def test_memory_freed_too_early_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: pieces that are never held show the next batches in those that were kept."""
    monkeypatch.setattr(shared, "_TAKEN", shared._FREE)
    with pytest.raises(AssertionError):
        assert_right(list(batches(1, 1)))


def test_memory_is_free_again_when_its_batch_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read batch by batch, everything crosses in shared memory; kept, it runs out and the rest comes by value."""
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


def test_two_iterations_at_once_do_not_share_memory() -> None:
    data = batches(1, 1)
    pairs = list(zip(data, data, strict=True))
    assert_right([one for one, _ in pairs])
    assert_right([other for _, other in pairs])


def spied(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows by one for each batch: whether it came in shared memory. None may come as tensors."""
    taken = []

    def spy(memory: Any, message: dict[str, Any]) -> dict[str, Any]:
        assert not any(isinstance(value, torch.Tensor) for value in message.values())
        taken.append("place" in message)
        return right(memory, message)

    right = loader.take_out
    monkeypatch.setattr(loader, "take_out", spy)
    return taken


def test_images_really_cross_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = spied(monkeypatch)
    for batch in batches(2, 2):
        del batch
    assert all(taken)
    # Without room, or in workers that inherit nothing, batches come by value.
    taken.clear()
    monkeypatch.setattr(shared, "REGION", 5000)
    monkeypatch.setattr(shared, "_LEAST", 1)
    assert_right(list(batches(2, 2)))
    assert len(set(taken)) == 2
    taken.clear()
    without = batches(1, 1)
    without.multiprocessing_context = "spawn"
    assert_right(list(without))
    assert not any(taken)


def views(image: Image.Image, index: int) -> torch.Tensor:
    """Two views of a pixel each, that tell the image."""
    return torch.full((2, 3, 1, 1), index, dtype=torch.uint8)


def halves(image: Image.Image, index: int) -> torch.Tensor:
    """Views of another kind than ours: numbers with a fraction."""
    return torch.full((2, 3, 1, 1), index + 0.5)


@pytest.mark.parametrize("room", [True, False])
def test_views_cross_as_images_do(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = spied(monkeypatch)
    if not room:
        monkeypatch.setattr(shared, "_reserve", lambda size: None)
    data = EpisodeLoader(EpisodeDataset(Sized(), list(range(COUNT)), views), batch_size=3, num_workers=2)
    found = list(data)
    own = [collate_episodes([data.dataset[i] for i in range(first, first + 3)]) for first in range(0, COUNT, 3)]
    for batch, expected in zip(found, own, strict=True):
        assert batch.keys() == expected.keys()
        assert batch["skipped"] == expected["skipped"]
        for key in ("views", "label", "index"):
            assert batch[key].dtype == expected[key].dtype
            assert torch.equal(batch[key], expected[key])
    assert any(taken) == room


def test_views_of_another_dtype_come_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = spied(monkeypatch)
    (batch,) = EpisodeLoader(EpisodeDataset(Sized(), [0, 5, 2], halves), batch_size=3, num_workers=1)
    assert batch["views"].shape == (2, 2, 3, 1, 1)
    assert batch["views"][:, 0, 0, 0, 0].tolist() == [0.5, 2.5]
    assert taken == [False]


def test_a_batch_of_nothing_but_unreadable_images() -> None:
    (batch,) = EpisodeLoader(EpisodeDataset(Sized(), [5, 18], views), batch_size=3, num_workers=1)
    assert batch["views"].shape == (0,)
    assert [bad["index"] for bad in batch["skipped"]] == [5, 18]


def test_pieces_lie_where_there_is_room_and_never_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of any size come and go in any order, as a worker and the main process see them."""
    monkeypatch.setattr(shared, "REGION", 1000)
    monkeypatch.setattr(shared, "_LEAST", 1)
    memory = shared.SharedRegions(1, 9, 5)
    chance = np.random.default_rng(0)
    kept: list[tuple[Any, int]] = []
    refused = 0
    for number in range(300):
        sizes = chance.integers(1, 200, 2).tolist()
        place = memory.put(0, [np.full(size, number % 256, np.uint8) for size in sizes])
        if place is None:
            refused += 1
        else:
            kept.append((memory.take(0, *place, sum(sizes)), number % 256))
        assert all((pixels == value).all() for pixels, value in kept)
        while kept and (place is None or chance.random() < 0.4):
            del kept[chance.integers(len(kept))]
            place = ()
    assert 0 < refused < 150
    assert memory.put(0, [np.zeros(1001, np.uint8)]) is None


@pytest.mark.parametrize(("limit", "workers", "size"), [(-1, 3, 1 << 32), (1 << 34, 4, 1 << 29), (1 << 40, 2, 1 << 32)])
def test_a_limited_address_space_is_not_used_up(
    limit: int, workers: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="limits of an address space are POSIX's")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limit, limit))
    assert shared._wanted(workers) == size


# Workers that die, hang or cannot be started


class Fatal(Sized):
    """Ends or holds the process that reads image 7."""

    def __init__(self, what: str) -> None:
        self._what = what

    def read(self, index: int) -> Image.Image:
        if index == 7:
            if self._what == "hang":
                time.sleep(600)
            elif self._what == "leave":
                os._exit(3)
            os.kill(os.getpid(), getattr(signal, self._what))
            time.sleep(600)  # until it is delivered
        return super().read(index)


@pytest.mark.skipif(sys.platform != "linux", reason="the line has the names that Linux gives to signals")
@pytest.mark.parametrize(
    ("what", "ahead", "message"),
    [
        ("SIGKILL", False, r"was killed \(Killed\), as when memory runs out: use fewer data.workers"),
        ("SIGKILL", True, r"was killed \(Killed\), as when memory runs out: use fewer data.workers"),
        ("SIGBUS", False, r"was killed \(Bus error\), as when memory runs out"),
        ("SIGTERM", False, r"was ended from outside \(Terminated\)$"),
        ("leave", False, r"has ended, as when memory runs out"),
    ],
)
def test_a_worker_that_dies_ends_the_run_with_one_line(what: str, ahead: bool, message: str) -> None:
    """Told by the loader, or at any other place by PyTorch's handler of a signal."""
    from lorattt.cli.errors import explain  # here: a process that is spawned imports this file

    data = EpisodeLoader(EpisodeDataset(Fatal(what), list(range(20)), None), batch_size=3, num_workers=2)
    data.send_to = torch.device("cpu") if ahead else None
    found = []
    with pytest.raises((LostWorkerError, RuntimeError)) as caught:
        for batch in data:
            found.append(batch["index"].tolist())
            time.sleep(0.1)
    assert re.search(message, str(explain(caught.value)))
    assert "shared memory" not in str(explain(caught.value))
    assert found == [[0, 1, 2], [3, 4]][: len(found)]


def test_a_batch_that_never_comes_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_LOOK_SECONDS", 1)
    monkeypatch.setattr(loader, "PATIENCE_SECONDS", 2)
    found = []
    with pytest.raises(LostWorkerError, match=r"have given no batch for .* minutes: .* or set data.workers 0"):
        for batch in EpisodeLoader(EpisodeDataset(Fatal("hang"), list(range(20)), None), batch_size=3, num_workers=1):
            found.append(batch["index"].tolist())
    assert found == [[0, 1, 2], [3, 4]]


def test_a_slow_batch_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes longer than a look at the workers comes all the same, in its turn."""
    read = Sized.read

    def slow(self: Sized, index: int) -> Image.Image:
        time.sleep(1.5 if index == 3 else 0)
        return read(self, index)

    monkeypatch.setattr(loader, "_LOOK_SECONDS", 1)
    monkeypatch.setattr(Sized, "read", slow)
    found = list(EpisodeLoader(EpisodeDataset(Sized(), [0, 1, 2, 3, 4, 6], None), batch_size=2, num_workers=1))
    assert [batch["index"].tolist() for batch in found] == [[0, 1], [2, 3], [4, 6]]


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, r"make room in /dev/shm \(in a container: --shm-size=1g or --ipc=host\), or set data.workers"),
        (errno.EAGAIN, r"\): set data.workers to fewer, or 0$"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/shm")
def test_workers_that_cannot_be_started(code: int, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(UserError, match=f"the 2 processes that read images .*{os.strerror(code)}.*{fix}"):
        list(batches(2, 2))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1")
def test_workers_leave_signals_to_the_main_process() -> None:
    """Ctrl-C and a scheduler's warning reach all processes of a run; the main process decides what they mean."""
    for what in ("SIGINT", "SIGUSR1"):
        data = EpisodeLoader(EpisodeDataset(Warned(what), list(range(20)), None), batch_size=5, num_workers=1)
        assert [len(batch["path"]) for batch in data] == [5, 4, 5, 4]


class Warned(Sized):
    """Sends a signal to the process that reads."""

    def __init__(self, what: str) -> None:
        self._what = what

    def read(self, index: int) -> Image.Image:
        os.kill(os.getpid(), getattr(signal, self._what))
        return super().read(index)
