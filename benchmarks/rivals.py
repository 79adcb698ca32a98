"""Accuracy on the embedded demo, per domain, of several methods on the same views.

    python -m benchmarks.rivals [--config FILE] [--images N] [--split test] [--json FILE]

The methods and their settings are those of the configuration file, whose first method is what the others are
compared with; one setting for all domains. Intervals are those of :mod:`benchmarks.paired`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.config import configured
from benchmarks.paired import markdown, summarise
from lorattt import demo
from lorattt.data.demo import DemoImages
from lorattt.methods.several import Several
from lorattt.ranking import is_right


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("lightning_configs/demo/several.yaml"))
    parser.add_argument("--images", type=int, default=1000, help="images a domain")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--domains", nargs="+", choices=demo.DOMAINS, default=list(demo.DOMAINS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    method = configured(Several, arguments.config, arguments.seed)
    columns = list(method.members)
    right: dict[str, Tensor] = {}
    for domain in arguments.domains:
        started = time.perf_counter()
        images = DemoImages(domain, arguments.severity, arguments.images, arguments.split)
        right[domain] = measure(method, images, arguments.batch_size)
        accuracy = ", ".join(f"{name} {100 * x:.1f}" for name, x in zip(columns, right[domain].mean(1), strict=True))
        print(f"{domain}: {accuracy} ({time.perf_counter() - started:.0f} s)", flush=True)
    report = summarise(right, columns)
    print()
    print(markdown(report, columns))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(method: Several, images: DemoImages, batch_size: int) -> Tensor:
    """``(methods, N)``, 1 where an image was classified rightly, else 0."""
    method.use_classes(images.class_names)
    columns = []
    for batch in episode_batches(images, method.make_views(), batch_size):
        answers = method.predictions(batch).values()
        columns.append(torch.stack([is_right(a["after"], batch["label"]) for a in answers]).double())
    return torch.cat(columns, dim=1)


if __name__ == "__main__":
    main()
