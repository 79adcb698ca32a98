"""Run folders made by writing their files, as a test run of any method on any images would leave them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

COLUMNS = ["index", "path", "label", "prediction_before", "prediction_after", "confidence_before", "confidence_after"]
COLUMNS += ["entropy_before", "entropy_after", "name_before", "name_after"]


def write_run(
    folder: Path,
    *,
    method: str = "lora_ttt",
    dataset: str = "demo-noise",
    seed: int = 0,
    n: int = 40,
    classes: int = 5,
    right: Sequence[bool] | None = None,
    before: Sequence[bool] | None = None,
    draw: int | None = None,
    settings: dict[str, Any] | None = None,
    **stated: Any,
) -> Path:
    """Write ``results.json``, ``predictions.csv`` and ``config.yaml``; images are numbered from 0, labels repeat.

    ``right`` says which predictions after adaptation are right, ``before`` the same before it; else they are drawn.
    """
    random = np.random.default_rng(seed if draw is None else draw)
    n = len(right) if right is not None else n
    right = random.random(n) < 0.7 if right is None else np.asarray(right)
    before = np.arange(n) % 5 < 3 if before is None else np.asarray(before)
    label = np.arange(n) % classes
    said = {
        "before": np.where(before, label, (label + 1) % classes),
        "after": np.where(right, label, (label + 2) % classes),
    }
    sure = {when: random.uniform(1 / classes, 1, n).round(6) for when in said}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for i in range(n):
            numbers = [said["before"][i], said["after"][i], sure["before"][i], sure["after"][i], 0.5, 0.5]
            rows.writerow([i, f"{dataset}/{i:06d}.png", label[i], *numbers, "a", "b"])
    results = {
        "method": method,
        "dataset": dataset,
        "backbone": "ViT-B-16-quickgelu",
        "corruption": None,
        "n": n,
        **{f"{name}_{when}": 0.25 for when in said for name in ("top5", "ece", "nll")},
        **{f"top1_{when}": float((said[when] == label).mean()) for when in said},
        "images_per_second": 20.0,
        "peak_memory_bytes": 3 * 2**20,
        "seed": seed,
        "fallbacks": 0,
        "skipped": 0,
        "versions": {"lorattt": "0.1.0"},
        **stated,
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    arguments = {"views": {"number": 64}, "seed": seed, **(settings or {})}
    config = {"seed_everything": seed, "model": {"class_path": "lorattt.methods.Any", "init_args": arguments}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def change_results(folder: Path, **values: Any) -> None:
    """Set keys of ``results.json``; of value None, remove them."""
    file = folder / "results.json"
    row = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps({key: value for key, value in row.items() if value is not None}), encoding="utf-8")


def write_ranked(folder: Path, probabilities: np.ndarray, labels: Sequence[int | None], k: int) -> None:
    """Write ``predictions.jsonl`` with the ``k`` most probable classes of ``(N, K)`` probabilities."""
    lines = []
    for i, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        order = np.argsort(-row, kind="stable")[:k]
        listed = [{"class": f"c{j}", "label": int(j), "probability": round(float(row[j]), 6)} for j in order]
        entry = {"index": i, "path": str(i), "label": label, "before": listed, "after": listed, "fallback": False}
        lines.append(json.dumps(entry) + "\n")
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
