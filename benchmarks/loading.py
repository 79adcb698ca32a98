"""How fast images come out of the data module, against a bare Pillow loop with as many processes.

    python -m benchmarks.loading FOLDER [--images 100] [--workers 0 1 2] [--json FILE]

Both decode the same files to RGB arrays at their own size; no views are made. The bare loop opens each file,
converts it and makes an array, in a pool of processes that keep what they made; ours also finds out the
orientation, labels and numbers the image, and hands it to the main process in batches. Each is warmed up
first, both take turns, and the best of the repeats counts.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorattt.data.folder import ImageFolder
from lorattt.data.loader import EpisodeLoader
from lorattt.data.source import EpisodeDataset

# Times over the images in one measurement, so that starting and ending it matter little.
ROUNDS = 4


def decode(path: str) -> int:
    """One image of the bare loop; gives the number of its bytes, so that no array travels."""
    with Image.open(path) as image:
        return np.array(image.convert("RGB")).nbytes


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    source = ImageFolder(arguments.folder)
    count = min(arguments.images, len(source))
    rows = [measure(source, count, workers, arguments.repeats) for workers in arguments.workers]
    print(f"Images per second, {count} images, decoded only:\n")
    print(f"{'processes':>9}  {'bare loop':>9}  {'ours':>9}  {'ours / bare':>11}")
    for row in rows:
        print(f"{row['workers']:9}  {row['bare']:9.1f}  {row['ours']:9.1f}  {row['ours_over_bare']:11.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"images": count, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def measure(source: ImageFolder, count: int, workers: int, repeats: int) -> dict[str, Any]:
    """One row: the same number of processes for both, 0 for the main process alone."""
    indices = list(range(count)) * ROUNDS
    paths = [str(source.listing.root / source.path(index)) for index in indices]
    dataset = EpisodeDataset(source, indices, None)
    # As the data modules make it.
    loader = EpisodeLoader(dataset, batch_size=8, num_workers=workers, persistent_workers=workers > 0)
    pool = multiprocessing.get_context("fork").Pool(workers) if workers else None

    def ours() -> int:
        return sum(image.numel() for batch in loader for image in batch["image"])

    def bare() -> int:
        # In the same parts as our batches, so that handing out the work costs both the same.
        return sum(pool.imap(decode, paths, chunksize=8) if pool else map(decode, paths))

    if ours() != bare():  # also warms both up
        raise SystemExit("the two loops did not decode the same pixels")
    runs: dict[str, Callable[[], int]] = {"bare": bare, "ours": ours}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    if pool:
        pool.terminate()
    speeds = {name: len(indices) / seconds for name, seconds in best.items()}
    return {"workers": workers, **speeds, "ours_over_bare": speeds["ours"] / speeds["bare"]}


if __name__ == "__main__":
    main()
