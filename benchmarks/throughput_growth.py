"""How time and memory grow with the views of an image, the classes, and the images that are adapted at once."""

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.throughput_setup import Settings, build, class_names
from benchmarks.throughput_stages import classify_times, timed
from lorattt.clip.load import LoadedClip
from lorattt.methods.base import Method
from lorattt.methods.batch import EpisodeBatch

VIEWS: Final = (8, 16, 32, 64, 128, 256)
CLASSES: Final = (10, 100, 1_000, 10_000)
EPISODES: Final = {"cpu": (1, 2, 4, 8), "cuda": (1, 4, 16, 64)}
METHODS: Final = ("lora_ttt", "tlla", "tpt")
"""Classes cost TLLA and TPT more than others. Views and images are encoded by all alike: there the first stands for
all."""
_AT_ONCE = {"cpu": 1, "cuda": 16}


@dataclass(frozen=True)
class Axes:
    """What is varied, one after the other; the rest stays as in the first table.

    Attributes:
        views: Numbers of views.
        classes: Numbers of class names.
        episodes: Numbers of images adapted at once.
        methods: Rows that are measured for classes; the first of them for views and images.
    """

    views: Sequence[int]
    classes: Sequence[int]
    episodes: Sequence[int]
    methods: Sequence[str]

    def points(self, settings: Settings) -> Iterator[tuple[str, str, Settings]]:
        """What grows, the method, and the settings; ``batch_size`` is the number of images at once."""
        at_once = _AT_ONCE.get(settings.device.type, 1)
        base, first = replace(settings, batch_size=at_once), self.methods[0]
        yield from (("views", first, replace(base, views=views)) for views in sorted(self.views))
        yield from (("images at once", first, replace(base, batch_size=size)) for size in sorted(self.episodes))
        for name in self.methods:
            yield from (("classes", name, replace(base, classes=classes)) for classes in sorted(self.classes))


def measure(axes: Axes, clip: LoadedClip, settings: Settings, head: Path) -> Iterator[dict[str, Any]]:
    """A row for each point; views are random pixels, which cost the same."""
    for grows, name, point in axes.points(settings):
        _release(settings.device)
        row = {
            "grows": grows,
            "method": name,
            "views": point.views,
            "classes": point.classes,
            "images_at_once": point.batch_size,
        }
        try:
            row |= _point(build(name, clip, point, head), point)
        except RuntimeError as error:  # which torch.OutOfMemoryError is
            if "memory" not in str(error):
                raise
            row["not_enough_memory"] = True
        yield row


def _point(method: Method, point: Settings) -> dict[str, Any]:
    device, names = point.device, class_names(point.classes)
    texts = timed(lambda: method.use_classes(names), device)
    found = classify_times(method, _random_batch(method, point), device, point.repeats, plain=False)
    return {
        "texts_seconds": texts.seconds,
        "texts_peak_memory_bytes": texts.peak_bytes,
        **found,
        "seconds_per_image": sum(found["seconds"].values()),
    }


def _random_batch(method: Method, point: Settings) -> EpisodeBatch:
    images, size, device = point.batch_size, method.clip.image_size, point.device
    shape = (images, point.views, 3, size, size)
    return {
        "views": torch.randint(256, shape, dtype=torch.uint8, device=device),
        "label": torch.zeros(images, dtype=torch.int64, device=device),
        "index": torch.arange(images, device=device),
        "path": [""] * images,
        "skipped": [],
    }


def _release(device: torch.device) -> None:
    """Give back what earlier points left behind, so that it is not in the next one's peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        # glibc keeps freed memory; another C library has no such function.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
