"""What the benchmarks of episodes share: views of demo pictures, and timed runs that take turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Turns:
    """What runs that took turns needed, each a list with one value per round.

    Args:
        seconds: Time that passed, per image.
        cpu_seconds: Processor time of all threads, per image. Where guests share a machine's processors, time passes
            while others have them; processor time does not count that. It means something with one thread: several
            threads that wait for each other count as working.
        peaks: Peak of memory in bytes: of the first run on CUDA, elsewhere of the process so far.
    """

    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]
    peaks: dict[str, int]

    def best(self) -> dict[str, float]:
        """The least disturbed time of each, in seconds per image."""
        return {key: min(values) for key, values in self.seconds.items()}

    def ratio(self, one: str, other: str) -> float:
        """Time of one over that of the other: the median over the rounds, in which they ran close to each other."""
        return _median_ratio(self.seconds[one], self.seconds[other])

    def cpu_ratio(self, one: str, other: str) -> float:
        """The same of processor time."""
        return _median_ratio(self.cpu_seconds[one], self.cpu_seconds[other])

    def entries(self) -> dict[str, dict[str, float]]:
        """What a row of results has of them."""
        return {
            "seconds_per_image": self.best(),
            "median_seconds_per_image": {key: statistics.median(values) for key, values in self.seconds.items()},
            "cpu_seconds_per_image": {key: min(values) for key, values in self.cpu_seconds.items()},
        }


def take_turns(runs: Mapping[str, Callable[[], object]], *, repeats: int, images: int, device: torch.device) -> Turns:
    """Each run once to warm the libraries up, then ``repeats`` rounds of all of them, one after the other."""
    turns = Turns({key: [] for key in runs}, {key: [] for key in runs}, {})
    for repeat in range(repeats + 1):
        for key, run in runs.items():
            cpu = time.process_time()
            seconds, peak = timed(run, device)
            turns.peaks.setdefault(key, peak)
            if repeat:
                turns.seconds[key].append(seconds / images)
                turns.cpu_seconds[key].append((time.process_time() - cpu) / images)
    return turns


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


def _median_ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))
