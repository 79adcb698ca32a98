"""How long class features from a learned context take: sequences of 77 tokens, as CoOp and TPT encode them, and ours.

    python -m benchmarks.text [--classes 1000] [--part 100] [--repeats N] [--json FILE]

ViT-B/16's text tower with random weights, the names of ImageNet's classes, a context of four vectors; forward
alone, and forward and backward to the context. The graph of 1,000 sequences of 77 tokens does not fit a usual
machine, so the loss is a sum over classes and both programs run in parts of the same number of classes, whose
gradients add up; ours also in one go. Every program runs in a process of its own, which tells what its memory
grew by; each time is the best of the repeats, as the least disturbed one. Features and gradients are compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.callbacks.results import peak_memory
from lorattt.clip.model import Clip
from lorattt.data.imagenet_family import imagenet_names
from lorattt.prompts.class_prompts import ClassPrompts

MODEL = "ViT-B-16-quickgelu"
CONTEXT = 4
PROGRAMS = {
    "loop": "sequences of 77 tokens",
    "ours": "ours, in the same parts",
    "whole": "ours, all classes at once",
}
Features = Callable[[Tensor], Tensor]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--part", type=int, default=100, help="classes whose graph is kept at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, help="another width of the tower, for a quick try")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--program", choices=list(PROGRAMS), help=argparse.SUPPRESS)  # this process is one of them
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        measure(arguments)
        return
    report = compare(arguments)
    print(table(report))
    text = json.dumps(report, indent=2)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each program in a process of its own, and how far their results are apart."""
    found: dict[str, dict[str, Any]] = {}
    command = [sys.executable, "-m", "benchmarks.text"]
    for name in ("classes", "part", "repeats", "width"):
        value = getattr(arguments, name)
        command += [f"--{name}", str(value)] if value is not None else []
    with tempfile.TemporaryDirectory() as folder:
        for program in PROGRAMS:
            out = Path(folder) / program
            subprocess.run([*command, "--program", program, "--out", str(out)], check=True)
            found[program] = torch.load(out, weights_only=True)
    expected = found["loop"]
    rows = {}
    loop_bytes = max(expected["memory_bytes"], 1)  # a small one may fit what the process already had
    for program, row in found.items():
        rows[program] = {key: row[key] for key in ("forward_seconds", "seconds", "memory_bytes")}
        for key in ("features", "gradient"):
            rows[program][f"largest_{key}_difference"] = (row[key] - expected[key]).abs().max().item()
    return {
        "model": MODEL,
        "classes": arguments.classes,
        "classes_per_part": arguments.part,
        "largest_gradient": expected["gradient"].abs().max().item(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "loop_over_ours": {key: expected[key] / found["ours"][key] for key in ("forward_seconds", "seconds")},
        "memory_ours_over_loop": found["ours"]["memory_bytes"] / loop_bytes,
        "memory_whole_over_loop": found["whole"]["memory_bytes"] / loop_bytes,
    }


def measure(arguments: argparse.Namespace) -> None:
    """One program: its times, what its memory grew by, its features and gradient, to a file."""
    clip = text_clip(arguments.width)
    names = list(imagenet_names().values())[: arguments.classes]
    part = len(names) if arguments.program == "whole" else arguments.part
    make = loop_features if arguments.program == "loop" else our_features
    parts = [make(clip, names[start : start + part]) for start in range(0, len(names), part)]
    generator = torch.Generator().manual_seed(1)
    context = 0.02 * torch.randn(CONTEXT, clip.text_tower.width, generator=generator)
    # The loss: features times fixed random numbers, a sum over classes.
    weights = torch.randn(len(names), clip.model.text_projection.shape[1], generator=generator).split(part)
    before = peak_memory(torch.device("cpu"))
    forward, both = [], []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        with torch.no_grad():
            features = torch.cat([run(context) for run in parts])
        forward.append(time.perf_counter() - started)
        started = time.perf_counter()
        leaf = context.clone().requires_grad_()
        for run, factor in zip(parts, weights, strict=True):
            (run(leaf) * factor).sum().backward()
        both.append(time.perf_counter() - started)
    torch.save(
        {
            "forward_seconds": min(forward),
            "seconds": min(both),
            "memory_bytes": peak_memory(torch.device("cpu")) - before,
            "features": features,
            "gradient": leaf.grad,
        },
        arguments.out,
    )


def text_clip(width: int | None) -> Clip:
    """The model's text tower with random weights, beside an image tower of no size."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(MODEL)
    text = dict(config["text_cfg"])
    if width:
        text |= {"width": width, "heads": max(width // 64, 1)}
    vision = {"image_size": 32, "patch_size": 32, "width": 64, "layers": 1}
    model = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"])
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Clip(model.requires_grad_(False), open_clip.get_tokenizer(MODEL), MODEL, plain).eval()


def our_features(clip: Clip, names: list[str]) -> Features:
    """Ours."""
    return ClassPrompts(clip, names, "end", CONTEXT).features


def loop_features(clip: Clip, names: list[str]) -> Features:
    """The plain way: the context between the start and the rest of 77 embedded tokens, open_clip's own blocks."""
    model = clip.model
    tokens = clip.tokenizer([" ".join(["X"] * CONTEXT) + f" {name}." for name in names])
    ends = tokens.argmax(dim=-1)
    embedded = model.token_embedding(tokens)

    def run(context: Tensor) -> Tensor:
        shared = context.expand(len(names), -1, -1)
        x = torch.cat([embedded[:, :1], shared, embedded[:, 1 + CONTEXT :]], dim=1) + model.positional_embedding
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        return F.normalize(x[torch.arange(len(names)), ends] @ model.text_projection, dim=-1)

    return run


def table(report: dict[str, Any]) -> str:
    """The rows as text."""
    lines = [
        f"{report['classes']} classes, parts of {report['classes_per_part']}, {report['threads']} threads; "
        "differences are to the first row:",
        "",
        f"{'':26} {'forward s':>10} {'and back s':>10} {'MiB':>8}  {'features':>9} {'gradient':>9}",
    ]
    for program, row in report["rows"].items():
        lines.append(
            f"{PROGRAMS[program]:26} {row['forward_seconds']:10.2f} {row['seconds']:10.2f} "
            f"{row['memory_bytes'] / 2**20:8,.0f}  {row['largest_features_difference']:9.1e} "
            f"{row['largest_gradient_difference']:9.1e}"
        )
    ratios = report["loop_over_ours"]
    lines += [
        "",
        f"ours is {ratios['forward_seconds']:.1f} times as fast forward, {ratios['seconds']:.1f} times with backward, "
        f"in {report['memory_ours_over_loop']:.2f} of the memory; the largest entry of the gradient is "
        f"{report['largest_gradient']:.1e}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
