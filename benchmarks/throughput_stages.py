"""Each stage by itself: decoding, making views, encoding them, adapting, and a plain forward of the same views."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor

from benchmarks.throughput_setup import Settings
from lorattt.callbacks.results import peak_memory
from lorattt.clip.vision import VisionTower
from lorattt.data.datamodule import EpisodeData
from lorattt.data.loader import EpisodeLoader
from lorattt.data.source import EpisodeDataset, ImageSource, Transform
from lorattt.episodes.clock import StageTimer
from lorattt.methods.base import Method
from lorattt.methods.batch import EpisodeBatch, MicroBatcher
from lorattt.methods.shared_views import views_at_once
from lorattt.views.device import DeviceViews

# Images that are decoded for the decoder's own time, at least and at most.
_DECODED = (64, 1024)


class DecodedImages:
    """Images in memory as a source: what a loader makes of it is views alone.

    Args:
        images: The images.
    """

    name = "decoded"

    def __init__(self, images: list[Image.Image]) -> None:
        self._images = images
        self.class_names = ["none"]

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def path(self, index: int) -> str:
        """Their number."""
        return str(index)

    def label(self, index: int) -> int:
        """All the same."""
        return 0

    def read(self, index: int) -> Image.Image:
        """The image."""
        return self._images[index]


def decode_speed(source: ImageSource, settings: Settings) -> float:
    """Images a second out of the loader, decoded and nothing else."""
    least, most = _DECODED
    count = min(len(source), max(least, min(settings.count, most)))
    return _loader_speed(source, count, None, settings.workers, batch=8)


def views_speed(method: Method, source: ImageSource, settings: Settings) -> float:
    """Images a second whose views the workers make, of images that are decoded already."""
    images = [source.read(index) for index in range(min(len(source), 4 * max(1, settings.workers)))]
    return _loader_speed(DecodedImages(images), len(images), method.make_views(), settings.workers, batch=1)


def _loader_speed(source: ImageSource, count: int, transform: Transform | None, workers: int, batch: int) -> float:
    dataset = EpisodeDataset(source, list(range(count)), transform)
    loader = EpisodeLoader(dataset, batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    seconds = []
    for _ in range(2):  # the first time starts the workers
        started = time.perf_counter()
        done = sum(len(taken["index"]) for taken in loader)
        seconds.append(time.perf_counter() - started)
    assert done == count
    return count / min(seconds)


def first_batch(method: Method, source: ImageSource, settings: Settings) -> EpisodeBatch:
    """A batch as the method gets it in a run, on the device."""
    data = EpisodeData(source, batch_size=settings.batch_size, workers=0, limit=None, on_bad_image="error")
    if settings.on_device:
        data.planner = DeviceViews(method.make_views()).plan
    else:
        data.transform = method.make_views()
    batch: EpisodeBatch = move_data_to_device(next(iter(data.test_dataloader())), settings.device)
    return batch


@dataclass(frozen=True)
class Timed:
    """One timed run.

    Attributes:
        seconds: How long it took.
        peak_bytes: The peak of memory while it ran.
    """

    seconds: float
    peak_bytes: int


def timed(run: Callable[[], object], device: torch.device) -> Timed:
    """Run and measure.

    The peak is the allocator's on CUDA. Elsewhere it is the process's resident set: of this run where the system can
    forget an earlier peak (Linux), else of the process so far.
    """
    synchronise(device)
    forget_peak(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return Timed(time.perf_counter() - started, peak(device))


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """Measure the peak of memory from now on, where that is possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak(device: torch.device) -> int:
    """Bytes, see :func:`timed`."""
    if device.type != "cuda":
        try:
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        except OSError:
            pass
    return peak_memory(device)


def classify_times(
    method: Method, batch: EpisodeBatch, device: torch.device, repeats: int, *, plain: bool = True
) -> dict[str, Any]:
    """Seconds an image of the method on a batch: making views where the method does so, encoding, adapting.

    Args:
        method: Knows its class names.
        batch: On the device.
        device: Where it runs.
        repeats: How often; the best counts. If more than once, once more beforehand; a compiled model three times.
        plain: Time a plain forward of the same views through the model's own image tower as well, in turn.
    """
    images = len(batch["index"])
    method.parts = MicroBatcher()

    def ours() -> None:
        method.clock = StageTimer(device)
        with method.clock.stage("adapt"):
            method.parts.classify(batch, method.predictions)

    forward = plain_forward(method, batch, device) if plain else None
    rounds: list[tuple[dict[str, float], Timed, Timed | None]] = []
    # The first round warms libraries up. A compiled model tries parts, then compiles those whose sizes repeat.
    warm_up = 3 if _is_compiled(method) else int(repeats > 1)
    for _ in range(warm_up + repeats):
        of_ours = timed(ours, device)
        rounds.append((method.clock.seconds(), of_ours, timed(forward, device) if forward else None))
    del rounds[:warm_up]
    stages, best, _ = min(rounds, key=lambda found: found[1].seconds)
    row: dict[str, Any] = {
        "images_at_once": images,
        "seconds": {key: stages.get(key, 0.0) / images for key in ("views", "encode", "adapt")},
        "peak_memory_bytes": max(found[1].peak_bytes for found in rounds),
    }
    forwards = [found[2].seconds for found in rounds if found[2] is not None]
    if forwards:
        row["plain_seconds"] = min(forwards) / images
        row["ours_over_plain"] = (best.seconds - stages.get("views", 0.0)) / min(forwards)
    return row


def _is_compiled(method: Method) -> bool:
    tower = method.clip.vision
    return isinstance(tower, VisionTower) and tower.compiled_pass is not None


def pixels_of(method: Method, batch: EpisodeBatch) -> Tensor:
    """``(E, V, 3, S, S)`` normalised views of a batch."""
    return method.clip.normalise(batch["views"]) if "views" in batch else method.render(batch)


def plain_forward(method: Method, batch: EpisodeBatch, device: torch.device) -> Callable[[], Tensor]:
    """open_clip's own forward of the views of a batch, which are made and normalised already."""
    pixels = pixels_of(method, batch).flatten(0, 1)
    # The same chunks as ours: larger ones are slower on a CPU, whose caches they leave.
    parts = pixels.split(views_at_once(method.clip.vit, device))

    @torch.no_grad()
    def run() -> Tensor:
        return torch.cat([method.clip.model.encode_image(part) for part in parts])

    return run
