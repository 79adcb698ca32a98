"""Accuracy on the embedded demo, per domain: zero-shot, LoRA-TTT with each loss, the mean of confident views.

    python -m benchmarks.demo [--config FILE] [--images N] [--split test] [--json FILE]

One setting, that of the configuration file, for all domains. All columns come from the same views of the same
images, and the same scenes are drawn in every domain, so differences are paired. The interval of a mean over
domains is taken over scenes: a scene's outcomes in the eight shifted domains are not independent.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.config import configured
from benchmarks.paired import markdown, summarise
from lorattt import demo
from lorattt.data.demo import DemoImages
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.lora_ttt_engine import LoRATTTEngine, LossSpec
from lorattt.ranking import is_right
from lorattt.rng import episode_keys
from lorattt.views.render import Views

COLUMNS = ("zero-shot", "both", "MEM", "reconstruction", "mean of views")


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("lightning_configs/demo/lora_ttt.yaml"))
    parser.add_argument("--images", type=int, default=1000, help="images a domain")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--domains", nargs="+", choices=demo.DOMAINS, default=list(demo.DOMAINS))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    method = configured(LoRATTT, arguments.config, arguments.seed)
    right: dict[str, Tensor] = {}
    for domain in arguments.domains:
        started = time.perf_counter()
        images = DemoImages(domain, arguments.severity, arguments.images, arguments.split)
        right[domain] = measure(method, images, arguments.batch_size)
        accuracy = ", ".join(f"{name} {100 * x:.1f}" for name, x in zip(COLUMNS, right[domain].mean(1), strict=True))
        print(f"{domain}: {accuracy} ({time.perf_counter() - started:.0f} s)", flush=True)
    report = summarise(right, COLUMNS)
    print()
    print(markdown(report, COLUMNS))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(method: LoRATTT, images: DemoImages, batch_size: int) -> Tensor:
    """``(columns, N)``, 1 where an image was classified rightly, else 0, in the order of :data:`COLUMNS`."""
    engine, clip = method.engine, method.clip
    text, scale = clip.text_features(images.class_names, method.templates), clip.logit_scale
    engines = {
        "both": engine,
        "MEM": _with(engine, replace(engine.loss, reconstruction=0.0)),
        "reconstruction": _with(engine, replace(engine.loss, mem=0.0)),
    }
    views = Views(method.views, clip.image_size, method.seed, clip.plain_view)
    columns = []
    for batch in episode_batches(images, views, batch_size):
        pixels, keys = clip.normalise(batch["views"]), episode_keys(method.seed, batch["index"])
        encoded = engine.encode(pixels)
        outcomes = {name: e.run(pixels, text, scale, keys, encoded=encoded) for name, e in engines.items()}
        first = outcomes["both"]
        confident = torch.stack(
            [
                logits[chosen].softmax(-1).mean(0)
                for logits, chosen in zip(first.view_logits, first.selected, strict=True)
            ]
        )
        scores = [first.before, *(outcome.after for outcome in outcomes.values()), confident]
        columns.append(torch.stack([is_right(s, batch["label"]) for s in scores]).double())
    return torch.cat(columns, dim=1)


def _with(engine: LoRATTTEngine, loss: LossSpec) -> LoRATTTEngine:
    return LoRATTTEngine(
        engine.tower,
        engine.tuner,
        loss=loss,
        optimiser=engine.optimiser,
        steps=engine.steps,
        reset_every_step=engine.reset_every_step,
        chunk=engine.chunk,
    )


if __name__ == "__main__":
    main()
