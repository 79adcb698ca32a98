"""What the benchmarks of episodes share: views of demo pictures, and one timed run."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lorattt.callbacks.results import peak_memory
from lorattt.clip.model import Clip
from lorattt.data.demo import DemoImages
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views


def demo_views(clip: Clip, images: int) -> Tensor:
    """Views of demo images at the model's size, ``(E, V, 3, S, S)`` uint8."""
    source = DemoImages("noise", 3, images, "test")
    make = Views(ViewSpec(), clip.image_size)
    return torch.stack([make(source.read(index), index) for index in range(images)])


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Seconds of one run, and the peak of memory: of this run on CUDA, elsewhere of the process so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    # Elsewhere than on CUDA it only grows: runs come in the order of what they need, and the first round's figure
    # counts. What loading the model took is in all of them.
    return seconds, peak_memory(device)


def device_name(device: torch.device) -> str:
    """The GPU's name, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
