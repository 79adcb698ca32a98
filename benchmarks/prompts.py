"""A prompt learned on the embedded demo's base compositions, tested on base and held-out ones, over several seeds.

    python -m benchmarks.prompts [--config FILE] [--seeds 1 2 3] [--images N] [--json FILE]

A seed decides which images are drawn to learn from, their order and their crops. Base images are classified among the
48 base compositions, new ones among the 16 held-out ones, as is the custom for base-to-new. Each image is encoded once
for all prompts. ``H`` is the harmonic mean of base and new.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.fits import fit
from lorattt import demo
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.data.demo import DemoImages, Part
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.files import Prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.ranking import is_right
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views

PARTS: tuple[Part, ...] = ("base", "new")


def main() -> None:
    """Fit, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("lightning_configs/demo/coop.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=1000, help="images a domain and part")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--domains", nargs="+", choices=demo.DOMAINS, default=list(demo.DOMAINS))
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    sys.argv[1:] = []  # Lightning warns where it sees arguments beside those it is given
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clip = load_clip(ClipSpec(demo.MODEL_NAME, "demo"))
    prompts: dict[str, Prompt] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            started = time.perf_counter()
            file = fit(arguments.config, seed, Path(folder) / f"seed-{seed}", ["--trainer.limit_val_batches", "0"])
            prompts[f"seed {seed}"] = build_prompt(PromptSpec(file=str(file)), clip, [], seed)
            print(f"seed {seed}: fitted in {time.perf_counter() - started:.0f} s", flush=True)
    accuracy: dict[str, dict[str, dict[str, float]]] = {}
    for domain in arguments.domains:
        accuracy[domain] = {}
        for part in PARTS:
            images = DemoImages(domain, arguments.severity, arguments.images, arguments.split, part)
            accuracy[domain][part] = measure(clip, images, prompts)
        print(f"{domain}: {accuracy[domain]}", flush=True)
    report = {"images": arguments.images, "seeds": arguments.seeds, "accuracy": accuracy, **summarise(accuracy)}
    print()
    print(markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def measure(clip: Clip, images: DemoImages, prompts: dict[str, Prompt]) -> dict[str, float]:
    """Top-1 in percent of the words and of each prompt, on the plain views of the images."""
    texts: dict[str, Tensor] = {"zero-shot": clip.text_features(images.class_names, "single")}
    for name, prompt in prompts.items():
        joined = ClassPrompts(clip, images.class_names, prompt.position, prompt.tokens)
        texts[name] = joined.features(prompt.context)
    views = Views(ViewSpec(number=1), clip.image_size, 0, clip.plain_view)
    right = dict.fromkeys(texts, 0)
    for batch in episode_batches(images, views, 128):
        features = clip.image_features(batch["views"][:, 0])
        for name, text in texts.items():
            right[name] += int(is_right(features @ text.T, batch["label"]).sum())
    return {name: 100 * hits / len(images) for name, hits in right.items()}


def summarise(accuracy: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Base, new and H for each domain and the mean of the shifted ones: the words', and mean and deviation of seeds."""
    rows: dict[str, Any] = {}
    groups = {domain: [domain] for domain in accuracy}
    if shifted := [domain for domain in accuracy if domain != "source"]:
        groups["mean of shifted"] = shifted
    for name, domains in groups.items():
        columns = list(accuracy[domains[0]]["base"])
        values: dict[str, dict[str, float]] = {
            column: {p: statistics.mean(accuracy[d][p][column] for d in domains) for p in PARTS} for column in columns
        }
        for row in values.values():
            row["H"] = statistics.harmonic_mean([row[part] for part in PARTS])
        seeds = [values[column] for column in columns if column != "zero-shot"]
        rows[name] = {"zero-shot": values["zero-shot"], "learned": {}}
        for key in (*PARTS, "H"):
            over = [row[key] for row in seeds]
            deviation = statistics.stdev(over) if len(over) > 1 else 0.0
            rows[name]["learned"][key] = {"mean": statistics.mean(over), "deviation": deviation}
    return {"rows": rows}


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    keys = (*PARTS, "H")
    titles = [f"words, {key}" for key in keys] + [f"learned, {key}" for key in keys]
    lines = [
        f"Top-1 in percent, {report['images']} images a domain and part; mean and standard deviation of "
        f"{len(report['seeds'])} seeds.",
        "",
        "| domain | " + " | ".join(titles) + " |",
        "|" + " --- |" * (len(titles) + 1),
    ]
    for name, row in report["rows"].items():
        words = [f"{row['zero-shot'][key]:.1f}" for key in keys]
        learned = [f"{row['learned'][key]['mean']:.1f} ± {row['learned'][key]['deviation']:.1f}" for key in keys]
        title = f"**{name}**" if name == "mean of shifted" else name
        lines.append(f"| {title} | " + " | ".join([*words, *learned]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
