"""One rule for every number: what a run prints, its files and its report say follows from ``predictions.csv``.

The lists here have classes of the same name, as ImageNet has: their logits are equal, so that a rule for ties shows.
"""

import json
import math
import random
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conftest import CPU, Cli, Run
from lorattt.clip.load import ClipSpec
from lorattt.methods.base import Method
from lorattt.methods.several import Several
from lorattt.methods.zero_shot import ZeroShot
from lorattt.prompts.prompt import PromptSpec
from lorattt.ranking import top_k
from lorattt.report.command import main

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30), "yellow": (220, 220, 30)}
# The name of each class, and how many images it has.
LISTS = {
    "three of one name": [
        ("red circle", 6),
        ("blue square", 6),
        ("red circle", 1),
        ("green star", 6),
        ("blue square", 1),
        ("yellow triangle", 1),
        ("red circle", 2),
    ],
    "the last is the first": [("yellow star", 5), ("green circle", 4), ("blue star", 4), ("yellow star", 3)],
}
MODEL = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]


def folder_of(root: Path, classes: list[tuple[str, int]]) -> list[str]:
    """Folders a, b, ... of squares in their classes' colours; the arguments that name them."""
    chance = random.Random(0)
    for number, (name, count) in enumerate(classes):
        place = root / "abcdefgh"[number]
        place.mkdir(parents=True)
        for image in range(count):
            colour = tuple(min(255, max(0, value + chance.randint(-25, 25))) for value in COLOURS[name.split()[0]])
            Image.new("RGB", (48, 48), colour).save(place / f"{image}.png")
    names = root.parent / "names.txt"
    names.write_text("".join(f"{name}\n" for name, _ in classes), encoding="utf-8")
    return ["--data", "ImageFolderData", "--data.root", str(root), "--data.class_names", str(names)]


def from_csv(rows: list[dict[str, str]], when: str) -> dict[str, float]:
    right = [row["label"] == row[f"prediction_{when}"] for row in rows]
    gaps: dict[int, float] = defaultdict(float)
    for row, good in zip(rows, right, strict=True):
        sure = float(row[f"confidence_{when}"])
        gaps[max(1, math.ceil(round(sure * 20, 9)))] += sure - good  # (0, 1/20], (1/20, 2/20], ...
    return {"top1": sum(right) / len(rows), "ece": sum(map(abs, gaps.values())) / len(rows)}


def assert_all_follow(run: Run, rows: list[dict[str, str]], stated: dict[str, Any], said: dict[str, Any]) -> None:
    """results.json, the table on the screen, the JSON lines and the report against the CSV."""
    assert stated["ece_bins"] == 20
    with (run.method_folder / "predictions.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    for when in ("before", "after"):
        counted = from_csv(rows, when)
        for key, value in counted.items():
            assert stated[f"{key}_{when}"] == pytest.approx(value, abs=1e-12), (key, when)
            assert said[when][key] == pytest.approx(value, abs=1e-12), (key, when)
        listed = [[each["label"] for each in line[when]] for line in lines]
        assert [str(classes[0]) for classes in listed] == [row[f"prediction_{when}"] for row in rows]
        within = sum(line["label"] in classes for line, classes in zip(lines, listed, strict=True))
        assert stated[f"top5_{when}"] == within / len(rows)
        assert said[when]["nll"] == stated[f"nll_{when}"]
    right = [[row[f"prediction_{when}"] == row["label"] for row in rows] for when in ("before", "after")]
    change = [after - before for before, after in zip(*right, strict=True)]
    half = 1.96 * statistics.stdev(change) / math.sqrt(len(change))
    ends = [statistics.fmean(change) + sign * half for sign in (-1, 1)]
    assert [stated[f"top1_change_{end}"] for end in ("low", "high")] == pytest.approx(ends, abs=1e-12)
    assert f"   (95 %: {100 * ends[0]:+.2f} to {100 * ends[1]:+.2f})\n" in run.out
    for title, key in (("top-1 %", "top1"), ("ECE %", "ece")):
        before, after = re.search(rf"^{title} +([\d.]+) +([\d.]+) ", run.out, re.MULTILINE).groups()  # type: ignore[union-attr]
        assert [before, after] == [f"{100 * from_csv(rows, when)[key]:.2f}" for when in ("before", "after")]


@pytest.mark.parametrize(
    ("classes", "batch_size"), list(zip(LISTS.values(), ("1", "8"), strict=True)), ids=LISTS.keys()
)
def test_all_numbers_follow_from_the_predictions(
    cli: Cli, tmp_path: Path, classes: list[tuple[str, int]], batch_size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_of(tmp_path / "images", classes)
    more = ["--data.workers", "0", "--data.batch_size", batch_size, "--run.folder", "run", *CPU]
    monkeypatch.setattr("lorattt.callbacks.progress.SECONDS", 0)
    run = cli("test", "--model", "MeanOfViews", *MODEL, "--model.views.number", "10", *data, *more)
    assert run.code == 0, run.err
    assert main(["run", "--no-plots", "--format", "markdown", "--out", "out"]) == 0
    report = json.loads(Path("out", "report.json").read_text(encoding="utf-8"))
    assert report["bins"] == 20
    assert report["notes"] == []
    assert_all_follow(run, run.rows, run.results, report["runs"][0])
    # The progress at the last batch.
    last = [line for line in run.out.splitlines() if line.startswith("testing: ")][-1]
    shown = " -> ".join(f"{100 * from_csv(run.rows, when)['top1']:.1f}" for when in ("before", "after"))
    assert f"top-1 {shown} %" in last
    # Of classes of one name the first is predicted.
    first = {name: str(number) for number, (name, _) in reversed(list(enumerate(classes)))}
    for when in ("before", "after"):
        assert all(row[f"prediction_{when}"] == first[row[f"name_{when}"]] for row in run.rows)


@pytest.mark.parametrize("names", [[*"abca"], ["x", "y", "y", "y", "z"]])
@pytest.mark.parametrize("specific", [False, True], ids=["one context", "a context for each class"])
def test_a_rounding_does_not_decide_between_classes_of_one_name(
    names: list[str], specific: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in another order, as of a batch of one image, may give the later class the larger logit by a last bit."""
    logits = torch.zeros(2, len(names))
    later = [number for number, name in enumerate(names) if names.index(name) < number]
    logits[:, later] = torch.nextafter(torch.tensor(0.0), torch.tensor(1.0))

    def rounded(self: Method, views: Any) -> Any:
        return logits, 2 * logits, torch.zeros(2, dtype=torch.bool)

    spec, prompt = ClipSpec("lorattt-demo", "demo"), PromptSpec(class_specific=specific)
    monkeypatch.setattr(ZeroShot, "classify", rounded)
    batch: Any = {"index": torch.arange(2), "views": torch.zeros(2, 1, 3, 48, 48, dtype=torch.uint8)}
    for method in (ZeroShot(clip=spec, prompt=prompt), Several(methods=["zero_shot"], clip=spec, prompt=prompt)):
        method.use_classes(names)
        (answer,) = method.predictions(batch).values()
        for found in (answer["before"], answer["after"]):
            # Classes with contexts of their own have other texts, so that their logits mean what they say.
            assert top_k(found, 1).unique().tolist() == ([later[0]] if specific else [0])


def test_answers_that_are_not_finite_are_wrong_everywhere(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the images, those of the first class among them, have no finite answer before and after."""
    plain = ZeroShot.classify

    def overflowing(self: ZeroShot, views: Any) -> Any:
        before, after, fallback = plain(self, views)
        bad = views.index % 2 == 0
        before[bad], after[bad] = float("nan"), float("inf")
        return before, after, fallback

    monkeypatch.setattr(ZeroShot, "classify", overflowing)
    data = folder_of(tmp_path / "images", [("red circle", 4), ("blue square", 4)])
    more = ["--data.workers", "0", "--data.batch_size", "3", "--run.folder", "run", *CPU]
    run = cli("test", "--model", "ZeroShot", *MODEL, *data, *more)
    assert run.code == 0, run.err
    bad = [row for row in run.rows if int(row["index"]) % 2 == 0]
    assert len(bad) == 4
    assert all(row[f"prediction_{when}"] == row[f"name_{when}"] == "" for row in bad for when in ("before", "after"))
    assert main(["run", "--no-plots", "--images", "0", "--out", "out"]) == 0
    (said,) = json.loads(Path("out", "report.json").read_text(encoding="utf-8"))["runs"]
    for when in ("before", "after"):
        right = sum(row["label"] == row[f"prediction_{when}"] for row in run.rows) / 8
        assert run.results[f"top1_{when}"] == said[when]["top1"] == right <= 0.5
        assert run.results[f"top5_{when}"] == 0.5
        assert run.results[f"ece_{when}"] is None
        assert said[when]["ece"] is None
    assert run.results["not_finite"] == 4
