"""Whether a long run keeps its memory, its file handles and its processes to itself.

    python -m benchmarks.memory [-c FILE] [--images 5000] [--every 100] [--json FILE] [-- KEYS OF TEST]

Runs ``lorattt test`` in this process and reads the resident set of the process after every so many images; Linux only.
Printed: the resident set after the first tenth of the images, the largest one after that, and what was left behind at
the end: open files and child processes that were not there before.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lorattt.callbacks.base import RunObserver
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.cli import LorattCLI
from lorattt.cli import main as lorattt


class MemoryWatch(RunObserver):
    """Reads the resident set of the process, in bytes, after every so many images."""

    def __init__(self, every: int) -> None:
        self._every = every
        self.readings: list[tuple[int, int]] = []
        self._seen = 0

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """Nothing was classified yet."""
        self._seen = 0

    def on_batch_end(self, outputs: Any) -> None:
        """Read, where so many are full again."""
        before, self._seen = self._seen, self._seen + len(outputs["index"])
        if self._seen // self._every > before // self._every:
            self.readings.append((self._seen, resident_bytes()))


def main() -> None:
    """Run, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, default=Path("lightning_configs/demo/lora_ttt.yaml"))
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--every", type=int, default=100, help="images between two readings")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="after --: keys of test, such as --model.views.number 8")
    arguments = parser.parse_args()
    sys.argv[1:] = []
    keys = arguments.keys[1:] if arguments.keys[:1] == ["--"] else arguments.keys
    report = measure(arguments.config, arguments.images, arguments.every, keys)
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(config: Path, images: int, every: int, keys: list[str]) -> dict[str, Any]:
    """The readings of one run, and what it left behind.

    Args:
        config: A configuration of ``test`` on the demo.
        images: How many images.
        every: How many of them between two readings.
        keys: More keys of ``test``.
    """
    watch, files, children = MemoryWatch(every), open_files(), child_processes()
    plain = LorattCLI.instantiate_trainer

    def watched(self: LorattCLI, **kwargs: Any) -> Trainer:
        trainer = plain(self, **kwargs)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.insert(next(i for i, each in enumerate(callbacks) if isinstance(each, PredictionsWriter)) + 1, watch)
        return trainer

    LorattCLI.instantiate_trainer = watched  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = ["--run.folder", str(Path(folder) / "run"), "--trainer.enable_progress_bar", "false"]
            lorattt(["test", "-c", str(config), "--data.images", str(images), *run, *keys])
    finally:
        LorattCLI.instantiate_trainer = plain  # type: ignore[method-assign]
    gc.collect()  # what waits for the garbage collector is not left behind
    tenth = max(images // 10, watch.readings[0][0])
    early = [value for seen, value in watch.readings if seen <= tenth]
    late = [value for seen, value in watch.readings if seen > tenth]
    return {
        "images": images,
        "bytes_after_first_tenth": early[-1],
        "largest_after_that": max(late),
        "last": late[-1],
        "growth": max(late) / early[-1] - 1,
        "files_left_open": sorted(open_files() - files),
        "processes_left": sorted(child_processes() - children),
    }


def resident_bytes() -> int:
    """The resident set of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> set[str]:
    """What this process has open, by path; pipes and sockets by number."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(entry))
        except FileNotFoundError:  # of the listing itself
            continue
    return found


def child_processes() -> set[int]:
    """Processes that this one started and that are still there."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(number) for number in (task / "children").read_text(encoding="ascii").split()}
    return found


if __name__ == "__main__":
    main()
