"""Accuracies of several methods on the same scenes in several domains, and what one gains over another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorattt.methods.metrics import half_interval


def summarise(right: dict[str, Tensor], columns: Sequence[str]) -> dict[str, Any]:
    """Accuracies in percent per domain, and paired differences to the first column with 95 % intervals, in points.

    Args:
        right: For each domain ``(columns, N)``, 1 where an image was classified rightly, else 0; the same scenes in
            the same order in every domain.
        columns: Their names.
    """
    report: dict[str, Any] = {"images": next(iter(right.values())).shape[1], "domains": {}}
    for domain, values in right.items():
        report["domains"][domain] = _row(values.double(), columns)
    shifted = [values.double() for domain, values in right.items() if domain != "source"]
    if shifted:
        report["mean of shifted"] = _row(torch.stack(shifted).mean(0), columns)
    return report


def _row(values: Tensor, columns: Sequence[str]) -> dict[str, Any]:
    """``(columns, N)`` shares of right answers, each of N independent scenes, to a row."""
    row: dict[str, Any] = {"accuracy": dict(zip(columns, (100 * values.mean(1)).tolist(), strict=True)), "gain": {}}
    for name, column in zip(columns[1:], values[1:], strict=True):
        difference = 100 * (column - values[0])
        mean, half = difference.mean().item(), half_interval(difference.tolist())
        row["gain"][name] = {"mean": mean, "low": mean - half, "high": mean + half}
    return row


def markdown(report: dict[str, Any], columns: Sequence[str]) -> str:
    """The report as a Markdown table."""
    lines = [
        f"Top-1 in percent, {report['images']} images a domain; in brackets the paired 95 % interval of the gain.",
        "",
        "| domain | " + " | ".join(columns) + " |",
        "|" + " --- |" * (len(columns) + 1),
    ]
    rows = {**report["domains"]}
    if "mean of shifted" in report:
        rows["**mean of shifted**"] = report["mean of shifted"]
    for name, row in rows.items():
        cells = [f"{row['accuracy'][columns[0]]:.1f}"]
        for column in columns[1:]:
            gain = row["gain"][column]
            cells.append(f"{row['accuracy'][column]:.1f} ({gain['low']:+.1f} to {gain['high']:+.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
