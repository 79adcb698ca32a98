"""Self-TPT's ladder and the controls its reviewers asked for, on the embedded demo, over several seeds.

    python -m benchmarks.self_tpt [--seeds 1 2 3] [--images N] [--rungs ...] [--out FOLDER] [--json FILE] [-- FIT KEYS]

Every prompt is learned on source images of the 48 base compositions, by ``lorattt fit`` with the rung's configuration
and what stands behind ``--``; a seed decides which images are drawn, their order and their crops. A prompt that
``--out`` holds already is taken as it is. What stage 2 and the ensemble of views do is read from ``--config``.

Measured are, on images of the source domain, ``base`` (48 names to choose from) and ``new`` (the 16 held-out ones),
with the harmonic mean of the two, and all shifted domains with all 64 names. Stage 2 runs for each of the three lists.
With ``--shifted-new``, the 16 held-out ones of all shifted domains as well: at home little is left to gain. Each rung
has two readings: texts of the ``end`` view, and the mean over the views of a class.

The views of an image are encoded once for all rungs. A cell has the mean and standard deviation over seeds, and the
paired 95 % interval, over scenes, of the gain over CoOp in the same reading; of a scene, the share of seeds counts.
"""

import argparse
import json
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.fits import fit_once
from benchmarks.paired import summarise
from lorattt import demo
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.data.demo import DemoImages, Part
from lorattt.methods.mean_of_views import mean_of_views
from lorattt.methods.metrics import half_interval
from lorattt.methods.registry import convert
from lorattt.methods.self_tpt import SelfTPT
from lorattt.methods.shared_views import encode_views
from lorattt.prompts.prompt import PromptSpec
from lorattt.ranking import is_right
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views

Reading = Literal["end", "mean"]
READINGS: tuple[Reading, ...] = ("end", "mean")
_PARTS: tuple[Part, ...] = ("base", "new")
_NEW = ", new"  # behind a domain's name: its held-out compositions, among themselves


@dataclass(frozen=True)
class Rung:
    """One row of the table.

    Args:
        title: What the table calls it.
        fit: The configuration that its prompt is learned with, below ``lightning_configs``.
        stage2: Whether the prompt adapts to the class names.
        ensemble: Whether the confident views classify in place of the plain one.
    """

    title: str
    fit: str
    stage2: bool = True
    ensemble: bool = False


_OWN, _NO_GM = "demo/self_tpt_fit", "experiments/self_tpt_without_gm"
RUNGS: dict[str, Rung] = {
    "coop": Rung("CoOp", "demo/coop", stage2=False),
    "cpt": Rung("+ CPT", _NO_GM, stage2=False),
    "stage2": Rung("+ stage 2", _NO_GM),
    "gm": Rung("+ GM: Self-TPT", _OWN),
    "v": Rung("Self-TPT-v", _OWN, ensemble=True),
    "ce_ensemble": Rung("CE only, four prompts", "experiments/self_tpt_ce_ensemble", stage2=False),
    "without_stage2": Rung("without stage 2", _OWN, stage2=False),
    "cpt_only": Rung("CPT only", "experiments/self_tpt_cpt_only"),
    **{
        f"without_{view}": Rung(f"without {view}", f"experiments/self_tpt_without_{view}")
        for view in ("front", "middle", "end", "hand")
    },
}
"""The ladder, then the controls; the first is what the others are compared with."""


def main() -> None:
    """Fit, measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, default=Path("lightning_configs"), help="folder of the configurations")
    parser.add_argument("--config", type=Path, help="of stages 2 and 3 (default: demo/self_tpt.yaml in --configs)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=1000, help="images of base, of new and of each domain")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--rungs", nargs="+", choices=list(RUNGS), default=list(RUNGS), help="coop is always there")
    parser.add_argument("--domains", nargs="+", choices=demo.DOMAINS, default=list(demo.DOMAINS), help="shifted ones")
    parser.add_argument("--shifted-new", action="store_true", help="also the new part of each shifted domain")
    parser.add_argument("--views", type=int, help="views of an image, for v (default: the configuration's)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_self_tpt"), help="folder of the prompts")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="after --: keys of fit, such as --trainer.max_epochs 5")
    arguments = parser.parse_args()
    sys.argv[1:] = []  # Lightning warns where it sees arguments beside those it is given
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    keys = arguments.keys[1:] if arguments.keys[:1] == ["--"] else arguments.keys
    rungs = {name: rung for name, rung in RUNGS.items() if name == "coop" or name in arguments.rungs}
    files: dict[str, list[Path]] = {}
    for name in dict.fromkeys(rung.fit for rung in rungs.values()):
        config, files[name] = arguments.configs / f"{name}.yaml", []
        for seed in arguments.seeds:
            folder = arguments.out / f"{Path(name).name}-seed-{seed}"
            files[name].append(fit_once(config, seed, folder, keys))
    settings = stage2_settings(arguments.config or arguments.configs / "demo" / "self_tpt.yaml")
    if arguments.views:
        settings["views"] = ViewSpec(arguments.views, scale=settings["views"].scale)
    clip = LoadedClip(load_clip(ClipSpec(demo.MODEL_NAME, "demo")), ClipSpec(demo.MODEL_NAME, "demo"))
    size = (arguments.severity, arguments.images, arguments.split)
    sources = {str(part): DemoImages("source", *size, part) for part in _PARTS}
    domains = [name for name in arguments.domains if name != "source"]
    sources |= {name: DemoImages(name, *size) for name in domains}
    if arguments.shifted_new:
        sources |= {f"{name}{_NEW}": DemoImages(name, *size, "new") for name in domains}
    right: dict[str, Tensor] = {}
    prompts: dict[tuple[str, ...], Texts] = {}
    for name, images in sources.items():
        started, names = time.perf_counter(), tuple(images.class_names)
        if names not in prompts:
            prompts[names] = class_texts(clip, rungs, files, names, settings)
        right[name] = measure(clip, images, rungs, prompts[names], settings)
        shares = zip(rungs, right[name][:, 0].mean((1, 2)).tolist(), strict=True)
        cells = ", ".join(f"{rung} {100 * share:.1f}" for rung, share in shares)
        print(f"{name}: {cells} ({time.perf_counter() - started:.0f} s)", flush=True)
    about = {name: getattr(arguments, name) for name in ("seeds", "severity", "split", "images")}
    about |= {"views": settings["views"].number, "keys": keys}
    about |= {name: settings[name] for name in ("steps", "stage2_lr", "selection")}
    report: dict[str, Any] = dict(about)
    for place, reading in enumerate(READINGS):
        report[reading] = report_of(right, list(rungs), place)
    print(f"\n{markdown(report)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def stage2_settings(config: Path) -> dict[str, Any]:
    """``steps``, ``stage2_lr``, ``selection`` and ``views`` of a configuration of SelfTPT; its defaults else."""
    given = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["init_args"]
    known: dict[str, Any] = {"steps": 10, "stage2_lr": 0.002, "selection": 0.1, "views": {}}
    kinds: dict[str, Any] = {"steps": int, "stage2_lr": float, "selection": float, "views": ViewSpec}
    return {name: convert(kinds[name], name, given.get(name, value)) for name, value in known.items()}


Texts = dict[tuple[str, bool], Tensor]
"""By configuration of fit and whether there is a stage 2: ``(readings, seeds, K, D)``."""


def class_texts(
    clip: LoadedClip,
    rungs: dict[str, Rung],
    files: dict[str, list[Path]],
    names: Sequence[str],
    settings: dict[str, Any],
) -> Texts:
    """The class texts of all prompts, of stage 1 or adapted to these names."""
    found: Texts = {}
    for name, stage2 in dict.fromkeys((rung.fit, rung.stage2) for rung in rungs.values()):
        rows = []
        for reading in READINGS:
            row = []
            for file in files[name]:
                spec, options = PromptSpec(file=str(file)), {k: settings[k] for k in ("steps", "stage2_lr")}
                method = SelfTPT(clip=clip, prompt=spec, stage2=stage2, classify_by=reading, **options).eval()
                method.use_classes(names)
                row.append(method.adapted)
            rows.append(torch.stack(row))
        found[name, stage2] = torch.stack(rows)
    return found


@torch.no_grad()
def measure(
    clip: LoadedClip, images: DemoImages, rungs: dict[str, Rung], texts: Texts, settings: dict[str, Any]
) -> Tensor:
    """``(rungs, readings, seeds, N)`` float64, 1 where an image was classified rightly, else 0."""
    model, views = clip.clip, settings["views"]
    if not any(rung.ensemble for rung in rungs.values()):
        views = ViewSpec(1)
    make = Views(views, model.image_size, 0, model.plain_view)
    batches = []
    for batch in episode_batches(images, make, 32):
        features = model.logit_scale * encode_views(model, batch["views"], batch["index"], 0).features
        rows = []
        for rung in rungs.values():
            each = texts[rung.fit, rung.stage2].flatten(0, 1)  # readings x seeds
            if rung.ensemble:
                answers = [mean_of_views(features @ text.T, settings["selection"]) for text in each]
            else:
                answers = [features[:, 0] @ text.T for text in each]
            hits = torch.stack([is_right(logits, batch["label"]) for logits in answers])
            rows.append(hits.unflatten(0, (len(READINGS), -1)))
        batches.append(torch.stack(rows).double())
    return torch.cat(batches, dim=-1)


def report_of(right: dict[str, Tensor], rungs: Sequence[str], reading: int) -> dict[str, Any]:
    """Accuracies, gains over the first rung, and deviations over seeds.

    There is a row for ``base``, ``new``, their harmonic mean, each shifted domain and the mean of these, and their new
    parts likewise.

    Args:
        right: For ``base``, ``new`` and each domain ``(rungs, readings, seeds, N)``; the same scenes in all domains.
        rungs: Their names.
        reading: Which of the readings.
    """
    chosen = {name: values[:, reading] for name, values in right.items()}
    rows: dict[str, Any] = {
        name: summarise({name: values.mean(1)}, rungs)["domains"][name] for name, values in chosen.items()
    }
    by_seed = {name: 100 * values.mean(-1) for name, values in chosen.items()}  # (rungs, seeds)
    if set(_PARTS) <= set(chosen):
        by_seed["harmonic mean"] = harmonic(by_seed["base"], by_seed["new"])
        rows["harmonic mean"] = _harmonic_row(chosen["base"].mean(1), chosen["new"].mean(1), rungs)
    shifted = {name: values for name, values in chosen.items() if name not in _PARTS}
    for ending in ("", _NEW):
        group = {name: values.mean(1) for name, values in shifted.items() if name.endswith(_NEW) == bool(ending)}
        if group:
            by_seed[f"mean of shifted{ending}"] = torch.stack([by_seed[name] for name in group]).mean(0)
            rows[f"mean of shifted{ending}"] = summarise(group, rungs)["mean of shifted"]
    for name, row in rows.items():
        row["by_seed"] = dict(zip(rungs, by_seed[name].tolist(), strict=True))
        row["deviation"] = {
            rung: statistics.stdev(values) if len(values) > 1 else 0.0 for rung, values in row["by_seed"].items()
        }
    # Of seeds, the mean of their harmonic means is reported, as of everything else.
    if "harmonic mean" in rows:
        means = by_seed["harmonic mean"].mean(1).tolist()
        rows["harmonic mean"]["accuracy"] = dict(zip(rungs, means, strict=True))
    return rows


def harmonic(base: Tensor, new: Tensor) -> Tensor:
    """2bn / (b + n), 0 where both are 0."""
    total = base + new
    return torch.where(total > 0, 2 * base * new / total.clamp_min(1e-12), torch.zeros_like(total))


def _harmonic_row(base: Tensor, new: Tensor, rungs: Sequence[str]) -> dict[str, Any]:
    """Gains in the harmonic mean of ``(rungs, N)`` shares of right answers; the interval is that of its linear part."""
    b, n = 100 * base.mean(1), 100 * new.mean(1)
    squares = (b + n).clamp_min(1e-12) ** 2
    slopes = ((base, 2 * n**2 / squares), (new, 2 * b**2 / squares))
    means = harmonic(b, n)
    row: dict[str, Any] = {"gain": {}}
    for place, rung in enumerate(rungs[1:], start=1):
        differences = [100 * (slope[place] * shares[place] - slope[0] * shares[0]) for shares, slope in slopes]
        # Base and new are independent: their variances add up.
        mean, half = float(means[place] - means[0]), math.hypot(*(half_interval(each.tolist()) for each in differences))
        row["gain"][rung] = {"mean": mean, "low": mean - half, "high": mean + half}
    return row


_COLUMNS = ("new", "base", "harmonic mean", "mean of shifted", f"mean of shifted{_NEW}")


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: a table for each reading, rungs below each other."""
    lines = [
        f"Top-1 in percent, {report['images']} images of base, of new and of each domain; mean ± standard deviation of "
        f"{len(report['seeds'])} seeds, in brackets the paired 95 % interval of the gain over CoOp in the same "
        f"reading. Stage 2: {report['steps']} steps with rate {report['stage2_lr']:g}.",
    ]
    for reading in READINGS:
        rows = {name: report[reading][name] for name in _COLUMNS if name in report[reading]}
        title = {"end": "Texts of the end view", "mean": "Mean over the views of a class"}[reading]
        lines += ["", f"{title}:", "", "| | " + " | ".join(rows) + " |", "|" + " --- |" * (len(rows) + 1)]
        for rung in next(iter(rows.values()))["accuracy"]:
            cells = []
            for row in rows.values():
                cell = f"{row['accuracy'][rung]:.1f} ± {row['deviation'][rung]:.1f}"
                if rung in row["gain"]:
                    gain = row["gain"][rung]
                    cell += f" ({gain['low']:+.1f} to {gain['high']:+.1f})"
                cells.append(cell)
            lines.append(f"| {RUNGS[rung].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
