"""What towers of half precision change: predictions and accuracy of each method, beside those of float32.

    python -m benchmarks.precision [--configs FILE ...] [--dtypes bf16] [--images N] [--domains ...] [--json FILE]

Methods and settings are those of the configuration files. A dtype's model sees the same views of the same images, a
domain at a time, and all domains count together: the share of images whose prediction is that of float32, and top-1.
The prediction before adaptation is compared as well: what differs there is the model's rounding, not the method's.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from torch import Tensor

from benchmarks.batches import episode_batches
from benchmarks.config import configured
from benchmarks.timing import device_name
from lorattt import demo
from lorattt.clip.build import Dtype
from lorattt.data.demo import DemoImages
from lorattt.methods.base import Method
from lorattt.methods.registry import METHODS
from lorattt.methods.several import Several
from lorattt.ranking import top_k

CONFIGS = tuple(Path("lightning_configs/demo") / f"{name}.yaml" for name in ("several", "tlla", "self_tpt"))
BEFORE = "before"


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, nargs="+", default=list(CONFIGS))
    parser.add_argument("--dtypes", nargs="+", choices=[d for d in get_args(Dtype) if d != "fp32"], default=["bf16"])
    parser.add_argument("--images", type=int, default=250, help="images a domain")
    parser.add_argument("--severity", type=int, default=3)
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--domains", nargs="+", choices=demo.DOMAINS, default=["source", "noise", "contrast", "blur"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    sources = [DemoImages(d, arguments.severity, arguments.images, arguments.split) for d in arguments.domains]
    rows: list[dict[str, Any]] = []
    for config in arguments.configs:
        found = {}
        for dtype in ("fp32", *arguments.dtypes):
            started = time.perf_counter()
            found[dtype] = predictions(config, dtype, sources, arguments.seed, arguments.batch_size, device)
            print(f"{config.stem}, {dtype}: {time.perf_counter() - started:.0f} s", flush=True)
        rows += compare(config.stem, found)
    about = {"torch": torch.__version__, "device": device_name(device), "images": arguments.images * len(sources)}
    about |= {name: getattr(arguments, name) for name in ("domains", "severity", "split")}
    print(f"\n{markdown(rows, about['images'])}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def predictions(
    config: Path, dtype: Dtype, sources: list[DemoImages], seed: int, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """What each method of a configuration says, before and after: ``(N,)`` int64; under ``label`` the truth."""
    kinds: dict[str, type[Method]] = {kind.__name__: kind for kind in (*METHODS.values(), Several)}
    name = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["class_path"]
    method = configured(kinds[name], config, seed, clip={"dtype": dtype}).to(device).eval()
    found: dict[str, list[Tensor]] = {}
    for images in sources:
        method.use_classes(images.class_names)
        for batch in episode_batches(images, method.make_views(), batch_size):
            batch["views"], batch["index"] = batch["views"].to(device), batch["index"].to(device)
            with torch.set_grad_enabled(method.needs_gradient):
                answers = method.predictions(batch)
            found.setdefault("label", []).append(batch["label"])
            found.setdefault(BEFORE, []).append(_predicted(next(iter(answers.values()))["before"]))
            for member, answer in answers.items():
                found.setdefault(member or method.name, []).append(_predicted(answer["after"]))
    return {key: torch.cat(values) for key, values in found.items()}


def _predicted(logits: Tensor) -> Tensor:
    return top_k(logits, 1)[:, 0].cpu()


def compare(config: str, found: dict[str, dict[str, Tensor]]) -> list[dict[str, Any]]:
    """A row for each method and dtype: share of equal predictions and both top-1, in percent."""
    whole = found["fp32"]
    rows = []
    for dtype, low in found.items():
        for method in low if dtype != "fp32" else ():
            if method != "label":
                same = 100 * (low[method] == whole[method]).double().mean().item()
                exact, own = (100 * (x[method] == x["label"]).double().mean().item() for x in (whole, low))
                rows.append({"config": config, "method": method, "dtype": dtype, "equal": same})
                rows[-1] |= {"fp32": exact, "top1": own, "difference": own - exact}
    return rows


def markdown(rows: list[dict[str, Any]], images: int) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"Predictions equal to float32's and top-1, in percent of {images:,} images:",
        "",
        "| configuration | method | dtype | equal | top-1, fp32 | top-1 | difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (row["config"], row["method"], row["dtype"], f"{row['equal']:.2f}", f"{row['fp32']:.2f}")
        lines.append("| " + " | ".join((*cells, f"{row['top1']:.2f}", f"{row['difference']:+.2f}")) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
