"""TLLA and its halves on the embedded demo: CoOp's and SAPT's prompts, each alone and with STSS, over several seeds.

    python -m benchmarks.tlla [--seeds 1 2 3] [--images N] [--out FOLDER] [--json FILE] [-- KEYS OF FIT]

Both prompts are learned on source images of the 48 base compositions, by ``lorattt fit`` with the two configurations
and what stands behind ``--``; a seed decides which images are drawn, their order and their crops. A prompt that
``--out`` holds already is taken as it is. Images of all domains are classified among all 64 compositions: a prompt
that has only learned its 48 classes by heart shall not look good; ``--classes base`` asks for those alone.

The views of an image are encoded once for all prompts. A cell has the mean and standard deviation over seeds, and the
paired 95 % interval, over scenes, of the gain over CoOp's prompt alone; of a scene, the share of seeds counts.
"""

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.fits import fit_once
from benchmarks.paired import summarise
from lorattt import demo
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.data.demo import DemoImages
from lorattt.methods.shared_views import encode_views
from lorattt.methods.tlla import stss
from lorattt.prompts.class_prompts import ClassPrompts, neighbour_features
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.ranking import is_right
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views
from lorattt.views.selection import FlatnessSpec

COLUMNS = ("CoOp", "SAPT", "STSS on CoOp", "STSS on SAPT")


def main() -> None:
    """Fit, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coop", type=Path, default=Path("lightning_configs/demo/coop.yaml"), metavar="FILE")
    parser.add_argument("--sapt", type=Path, default=Path("lightning_configs/demo/sapt.yaml"), metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=1000, help="images a domain")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--domains", nargs="+", choices=demo.DOMAINS, default=list(demo.DOMAINS))
    parser.add_argument("--classes", choices=("all", "base", "new"), default="all")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--views-kept", type=int, default=6)
    parser.add_argument("--directions", type=int, default=10)
    parser.add_argument("--radius", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_tlla"), help="folder of the prompts")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="after --: keys of fit, such as --trainer.max_epochs 5")
    arguments = parser.parse_args()
    sys.argv[1:] = []  # Lightning warns where it sees arguments beside those it is given
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    keys = arguments.keys[1:] if arguments.keys[:1] == ["--"] else arguments.keys
    prompts: dict[str, list[Path]] = {"CoOp": [], "SAPT": []}
    for name, config in (("CoOp", arguments.coop), ("SAPT", arguments.sapt)):
        for seed in arguments.seeds:
            folder = arguments.out / f"{name.lower()}-seed-{seed}"
            prompts[name].append(fit_once(config, seed, folder, keys))
    clip = load_clip(ClipSpec(demo.MODEL_NAME, "demo"))
    views = ViewSpec(number=arguments.views, scale=(0.5, 1.0))  # a shape must stay in the crop
    flatness = FlatnessSpec(arguments.directions, arguments.radius)
    right: dict[str, Tensor] = {}
    for domain in arguments.domains:
        started = time.perf_counter()
        images = DemoImages(domain, arguments.severity, arguments.images, arguments.split, arguments.classes)
        right[domain] = measure(clip, images, prompts, views, flatness, arguments.views_kept)
        shares = zip(COLUMNS, right[domain].mean((1, 2)).tolist(), strict=True)
        cells = ", ".join(f"{name} {100 * share:.1f}" for name, share in shares)
        print(f"{domain}: {cells} ({time.perf_counter() - started:.0f} s)", flush=True)
    names = ("seeds", "severity", "split", "classes", "views", "views_kept", "directions", "radius")
    report = {**{name: getattr(arguments, name) for name in names}, **report_of(right)}
    print(f"\n{markdown(report)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def measure(
    clip: Clip, images: DemoImages, files: dict[str, list[Path]], views: ViewSpec, flatness: FlatnessSpec, kept: int
) -> Tensor:
    """``(columns, seeds, N)`` float64, 1 where an image was classified rightly, else 0."""
    texts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, paths in files.items():
        texts[name] = []
        for path in paths:
            prompt = build_prompt(PromptSpec(file=str(path)), clip, images.class_names, 0)
            joined = ClassPrompts(clip, images.class_names, prompt.position, prompt.tokens)
            bank = neighbour_features(
                joined, prompt.context, directions=flatness.directions, radius=flatness.radius, seed=0
            )
            texts[name].append((joined.features(prompt.context), bank))
    make = Views(views, clip.image_size, 0, clip.plain_view)
    batches = []
    for batch in episode_batches(images, make, 32):
        features = encode_views(clip, batch["views"], batch["index"], 0).features
        plain, voted = [], []
        for pairs in texts.values():
            votes = [
                stss(features, text, bank, clip.logit_scale, views_kept=kept, sharpness=flatness.sharpness)
                for text, bank in pairs
            ]
            plain.append(torch.stack([is_right(vote.before, batch["label"]) for vote in votes]))
            voted.append(torch.stack([is_right(vote.after, batch["label"]) for vote in votes]))
        batches.append(torch.stack([*plain, *voted]).double())
    return torch.cat(batches, dim=2)


def report_of(right: dict[str, Tensor]) -> dict[str, Any]:
    """Accuracies, gains over the first column, and deviations over seeds, per domain and for the mean of shifted.

    Args:
        right: For each domain ``(columns, seeds, N)``; the same scenes in the same order in every domain.
    """
    report = summarise({domain: values.mean(1) for domain, values in right.items()}, COLUMNS)
    rows = dict(report["domains"])
    groups = {domain: [domain] for domain in right}
    if "mean of shifted" in report:
        rows["mean of shifted"] = report["mean of shifted"]
        groups["mean of shifted"] = [domain for domain in right if domain != "source"]
    for name, row in rows.items():
        by_seed = 100 * torch.stack([right[domain].mean(2) for domain in groups[name]]).mean(0)  # (columns, seeds)
        row["by_seed"] = dict(zip(COLUMNS, by_seed.tolist(), strict=True))
        row["deviation"] = {
            column: statistics.stdev(values) if len(values) > 1 else 0.0 for column, values in row["by_seed"].items()
        }
    return report


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = [
        f"Top-1 in percent, {report['images']} images a domain, classes: {report['classes']}; mean ± standard "
        f"deviation of {len(report['seeds'])} seeds, in brackets the paired 95 % interval of the gain over CoOp.",
        "",
        "| domain | " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * (len(COLUMNS) + 1),
    ]
    rows = dict(report["domains"])
    if "mean of shifted" in report:
        rows["**mean of shifted**"] = report["mean of shifted"]
    for name, row in rows.items():
        cells = [f"{row['accuracy'][column]:.1f} ± {row['deviation'][column]:.1f}" for column in COLUMNS]
        for place, column in enumerate(COLUMNS[1:], start=1):
            gain = row["gain"][column]
            cells[place] += f" ({gain['low']:+.1f} to {gain['high']:+.1f})"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
