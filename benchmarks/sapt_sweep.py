"""Which radius rho SAPT should have, by accuracy on held-out source images alone.

    python -m benchmarks.sapt_sweep [-c FILE] [--rhos 0 0.05 ...] [--seeds 1 2 3] [--out FOLDER] [-- KEYS OF FIT]

Every radius is fitted with every seed, by ``lorattt fit`` with the configuration and what stands behind ``--``; a seed
decides which images are drawn as well. What is compared is the validation top-1 that the run leaves in its prompt's
file; the validation images of the data to fit on are source images that are not trained on, never test images. The
loss on them is shown as well.

The rule was written down before any run: the largest rho whose mean is at most ``--margin`` points below that of the
smallest one. A large radius costs accuracy at home and is meant to gain elsewhere, where nothing may be chosen.

``FOLDER`` gets a run's folder for each fit, ``sweep.json`` and ``sweep.md``.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fits import fit
from lorattt.prompts.files import load_prompt

RHOS = (0.0, 0.05, 0.1, 0.3, 0.5, 0.7)
"""The paper's grid, and CoOp."""


def main() -> None:
    """Fit, read, choose, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, default=Path("lightning_configs/demo/sapt.yaml"))
    parser.add_argument("--rhos", type=float, nargs="+", default=list(RHOS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--margin", type=float, default=1.0, help="points of top-1 that a larger radius may cost")
    parser.add_argument("--out", type=Path, default=Path("runs/sapt_sweep"), help="a folder that is not there yet")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="after --: keys of fit, such as --trainer.max_epochs 5")
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"--out {arguments.out} is there already: name another folder, or remove it")
    sys.argv[1:] = []  # Lightning warns where it sees arguments beside those it is given
    keys = arguments.keys[1:] if arguments.keys[:1] == ["--"] else arguments.keys
    rows = []
    for rho in sorted(set(arguments.rhos)):
        started = time.perf_counter()
        found = [validate(arguments.config, rho, seed, arguments.out, keys) for seed in arguments.seeds]
        top1, loss = (list(each) for each in zip(*found, strict=True))
        rows.append({"rho": rho, "top1": top1, "loss": loss, "seconds": time.perf_counter() - started})
    report = summarise(rows, arguments.seeds, arguments.margin)
    report["config"], report["keys"] = str(arguments.config), keys
    table = markdown(report)
    print(f"\n{table}")
    (arguments.out / "sweep.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "sweep.md").write_text(table + "\n", encoding="utf-8")


def validate(config: Path, rho: float, seed: int, out: Path, keys: Sequence[str]) -> tuple[float, float]:
    """Validation top-1, in percent, and loss, in nats, of the prompt that is learned with that radius and seed.

    Raises:
        SystemExit: If there is nothing to validate on at the end of the last epoch.
    """
    prompt = fit(config, seed, out / f"rho-{rho:g}-seed-{seed}", ["--model.rho", str(rho), *keys])
    notes = load_prompt(prompt).notes
    if "validation_top1" not in notes:
        raise SystemExit(f"{config}: no validation; give the data some, and let check_val_every_n_epoch divide epochs")
    return 100 * float(notes["validation_top1"]), float(notes["validation_loss"])


def summarise(rows: list[dict[str, Any]], seeds: Sequence[int], margin: float) -> dict[str, Any]:
    """Mean and standard deviation of each radius, and the radius that the rule chooses.

    Args:
        rows: ``rho``, rising; ``top1`` and ``loss``, a value of each seed in percent and nats.
        seeds: The seeds.
        margin: How many points below the first row's mean the chosen one may lie.
    """
    for row in rows:
        row["mean"] = statistics.mean(row["top1"])
        row["deviation"] = statistics.stdev(row["top1"]) if len(seeds) > 1 else 0.0
    least = rows[0]["mean"] - margin
    chosen = max(row["rho"] for row in rows if row["mean"] >= least - 1e-9)  # 99 is not below 100 - 1
    return {"seeds": list(seeds), "margin": margin, "rows": rows, "chosen": chosen}


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = [
        f"Top-1 on held-out source images in percent, mean and standard deviation of seeds "
        f"{', '.join(map(str, report['seeds']))}; chosen is the largest rho at most {report['margin']:g} points of "
        "top-1 below the first.",
        "",
        "| rho | validation top-1 | validation loss | seconds a fit | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        mark = "chosen" if row["rho"] == report["chosen"] else ""
        seconds = row["seconds"] / len(report["seeds"])
        top1, loss = f"{row['mean']:.2f} ± {row['deviation']:.2f}", statistics.mean(row["loss"])
        lines.append(f"| {row['rho']:g} | {top1} | {loss:.4f} | {seconds:.0f} | {mark} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
