"""The benchmark of behaviour: what it compares, its statistics, and one small run of it."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from benchmarks import behaviour, fits
from benchmarks.behaviour import COLUMNS, CONFIGS, CONTROLS, EFFECTS, FITS, IMAGES, RUNS
from benchmarks.behaviour_prompts import RISES, FittedDomain, prompt_values
from benchmarks.behaviour_tables import COSINE, ECE, TOP1, Answers, compare, overview, verdict
from lorattt.calibration import calibration_error
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.data.demo import DemoImages
from lorattt.losses.class_texts import class_contrast
from lorattt.methods.class_contrast import TEMPERATURE, ProjectionHead
from lorattt.methods.registry import METHODS
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.class_views import ClassViews
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.views.crops import ViewSpec
from lorattt.views.render import Views


def _config(name: str) -> dict[str, Any]:
    contents: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return contents


def test_the_plan_is_complete() -> None:
    """Every effect's columns are of runs, methods and fits that are there."""
    used = set()
    for name, effect in {**EFFECTS, **CONTROLS}.items():
        assert effect.images, name
        assert set(effect.images) <= set(IMAGES)
        assert set(effect.measures) <= {TOP1, ECE, COSINE, *RISES}
        for column in effect[:2]:
            run, method, when = COLUMNS[column]
            used.add(column)
            model = _config(RUNS[run].config)["model"]
            listed = model["init_args"].get("methods", [])
            assert method in METHODS
            assert method in listed or model["class_path"] == METHODS[method].__name__
            assert when in ("before", "after")
            if set(effect.measures) - {TOP1, ECE}:
                assert RUNS[run].prompt is not None
    assert used == set(COLUMNS)
    assert {run for run, _, _ in COLUMNS.values()} == set(RUNS)
    assert {run.prompt for run in RUNS.values()} - {None} == set(FITS)
    for config in FITS.values():
        assert _config(config)["data"]["class_path"] == "DemoSourceData"


def test_controls_are_fair() -> None:
    """As many views vote in the control of STSS, cut in the same way; several methods have the settings of each."""
    tlla, several = (_config(f"demo/{name}")["model"]["init_args"] for name in ("tlla", "several"))
    assert tlla["views"] == several["views"]
    assert int(several["views"]["number"] * 0.1) == tlla["views_kept"]  # 0.1 is the mean's own selection
    for name in ("mta", "zero", "tpt", "ctpt", "lora_ttt"):  # as in the file of the method alone
        own = _config(f"demo/{name}")["model"]["init_args"]
        assert several["options"].get(name, {}) == {key: own[key] for key in own.keys() - {"clip", "views"}}


def test_paired_differences_by_hand() -> None:
    """Against numpy: two seeds of 4 and 3 images."""
    ours = [[1, 1, 0, 1], [1, 0, 1]]
    theirs = [[1, 0, 0, 0], [1, 1, 1]]
    sides = [[Answers(np.array(x, bool), np.ones(len(x)), 0.0, []) for x in side] for side in (ours, theirs)]
    row = compare(TOP1, *sides)
    difference = 100.0 * (np.concatenate(ours) - np.concatenate(theirs))
    half = 1.96 * difference.std(ddof=1) / math.sqrt(7)
    assert row["values"] == pytest.approx([500 / 7, 400 / 7])
    assert row["difference"] == pytest.approx(difference.mean())
    assert (row["low"], row["high"]) == pytest.approx((difference.mean() - half, difference.mean() + half))
    assert row["by_seed"] == pytest.approx([50.0, -100 / 3])
    assert (row["pairs"], row["better"], row["verdict"]) == (7, "higher", "not shown")


def test_a_lower_rise_is_better() -> None:
    row = compare(RISES[0], [np.array([0.1, 0.2, 0.3])], [np.array([0.5, 0.7, 0.6])])
    assert row["difference"] == pytest.approx(-0.4)
    assert (row["better"], row["verdict"]) == ("lower", "shown")
    assert compare(COSINE, [np.array([0.1, 0.2, 0.3])], [np.array([0.5, 0.7, 0.6])])["verdict"] == "opposite"
    with pytest.raises(ValueError, match="not of the same images"):
        compare(COSINE, [np.zeros(3)], [np.zeros(2)])


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [
        (0.1, 2.0, True, "shown"),
        (-2.0, -0.1, True, "opposite"),
        (-2.0, -0.1, False, "shown"),
        (0.1, 2.0, False, "opposite"),
        (-0.1, 2.0, True, "not shown"),
        (0.0, 0.0, False, "not shown"),
        (math.nan, math.nan, True, "not shown"),
    ],
)
def test_verdicts(low: float, high: float, higher: bool, expected: str) -> None:
    assert verdict(low, high, higher=higher) == expected


def test_interval_of_the_calibration_error() -> None:
    """Two methods with the same answers: one says how often it is right, the other is 30 points too sure."""
    rng = np.random.default_rng(1)
    right = rng.random(400) < 0.6
    honest, sure = (Answers(right, np.full(400, share), 0.0, []) for share in (0.6, 0.9))
    row = compare(ECE, [honest], [sure])
    errors = [100 * calibration_error(right, each.confidence) for each in (honest, sure)]
    assert row["values"] == pytest.approx(errors)
    assert row["difference"] == pytest.approx(errors[0] - errors[1])
    # With one bin each, the errors of a draw are those of its share of right answers.
    shares = np.array([right[rng.integers(400, size=400)].mean() for _ in range(4000)])
    low, high = 100 * np.quantile(abs(shares - 0.6) - abs(shares - 0.9), (0.025, 0.975))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.5)
    assert row["verdict"] == "shown"
    assert compare(ECE, [honest], [sure]) == row
    same = compare(ECE, [honest], [honest])
    assert (same["low"], same["high"], same["verdict"]) == (0.0, 0.0, "not shown")


def test_overview_pools_the_seeds() -> None:
    sure = np.ones(2)
    first = Answers(np.array([True, False]), sure, 1.0, ["noise", "blur"])
    second = Answers(np.array([True, True]), sure, 2.0, ["noise", "blur"])
    rows = overview({"zero-shot": [first, first], "MTA": [first, second]})
    assert (rows["MTA"]["top1"], rows["MTA"]["nll"], rows["MTA"]["ece"]) == (75.0, 1.5, 25.0)
    assert rows["MTA"]["domains"] == {"blur": 50.0, "noise": 100.0}
    assert rows["MTA"]["gain"]["by_seed"] == [0.0, 50.0]


def test_rises_are_those_of_the_loss() -> None:
    """By hand at the packaged prompt of SAPT; along the gradient the mean rises more than at random."""
    spec = PromptSpec(file="demo-sapt")
    task = FittedDomain(48, 3)
    found = task.rises(spec, 0.4)
    prompt = build_prompt(spec, task.clip, task.names, 0)
    assert set(found) == set(RISES)
    # The direction in which the mean loss rises fastest, found by moving the prompt instead of by the rule.
    joined = ClassPrompts(task.clip, task.names, "end", prompt.tokens)
    context = prompt.context.clone().requires_grad_()
    before = task.losses(joined.features(context))
    before.mean().backward()
    assert context.grad is not None
    with torch.no_grad():
        moved = joined.features(context + 0.4 * context.grad / context.grad.norm())
        expected = F.cross_entropy(task.clip.logit_scale * task.features @ moved.T, task.labels, reduction="none")
    torch.testing.assert_close(found["rise of CE, worst, rho"], expected - before.detach(), atol=1e-4, rtol=0)
    for share in ("rho", "rho/2"):
        assert found[f"rise of CE, worst, {share}"].mean() > found[f"rise of CE, random, {share}"].mean()
    assert all(rise.shape == (48,) for rise in found.values())
    # Half of rho 0.8 is 0.4.
    twice = task.rises(spec, 0.8)
    for kind in ("random", "worst"):
        torch.testing.assert_close(twice[f"rise of CE, {kind}, rho/2"], found[f"rise of CE, {kind}, rho"])


def test_cosines_are_those_of_both_gradients() -> None:
    """Of the last 8 of 40 images, by hand, at the packaged prompt of Self-TPT."""
    spec = PromptSpec(file="demo-self-tpt")
    task = FittedDomain(40, 3)
    cosines = task.cosines(spec)
    assert cosines.shape == (2,)
    prompt = build_prompt(spec, task.clip, task.names, 0)
    context = prompt.context.clone().requires_grad_()
    text = ClassPrompts(task.clip, task.names, "end", prompt.tokens).features(context)
    loss = F.cross_entropy(task.clip.logit_scale * task.features[32:] @ text.T, task.labels[32:])
    (first,) = torch.autograd.grad(loss, context)
    head = ProjectionHead.from_tensors(spec.content.extras, text.shape[1], "the packaged prompt")
    views = ClassViews(task.clip, task.names, prompt.tokens)
    (second,) = torch.autograd.grad(class_contrast(head(views.features(context)), TEMPERATURE), context)
    expected = F.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    assert float(cosines[1]) == pytest.approx(float(expected), abs=1e-4)
    assert set(prompt_values(spec.path, 40, 3)) == {COSINE, *RISES}
    assert set(prompt_values(PromptSpec(file="demo").path, 40, 3)) == set(RISES)  # it has no head


def test_a_small_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two seeds, 8 images, 10 views, fits of an epoch on 16 images; then again, with all runs as they are."""
    few = {name: replace(run, keys=(*run.keys, "--model.views.number", "10")) for name, run in RUNS.items()}
    monkeypatch.setattr(behaviour, "RUNS", {**few, "words": RUNS["words"]})
    quick = ["--data.classes", "new", "--data.shots", "1", "--data.val_shots", "1", "--data.workers", "0"]
    quick += ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    out, file = tmp_path / "study", tmp_path / "study.json"
    arguments = ["behaviour", "--seeds", "1", "2", "--images", "8", "--split", "val", "--out", str(out)]
    arguments += ["--effects", "stss", "sapt_flatness", "--json", str(file), "--", *quick]
    monkeypatch.setattr(sys, "argv", list(arguments))
    behaviour.main()
    table = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert [row["effect"] for row in report["effects"]] == ["stss", *["sapt_flatness"] * len(RISES)]
    assert [row["pairs"] for row in report["effects"]] == [16] * (1 + len(RISES))
    assert list(report["methods"]) == ["zero-shot", "SAPT, mean of views", "TLLA"]
    for words in ("| `stss` | TLLA vs SAPT, mean of views | shifted |", "| TLLA | ", "| method | blur | clutter |"):
        assert words in table
    fitted = {path.relative_to(out).as_posix() for path in out.glob("*/fits/*/prompt.safetensors")}
    assert fitted == {f"seed-{s}/fits/{fit}/prompt.safetensors" for s in (1, 2) for fit in ("coop", "sapt")}
    # Every seed has scenes, views and a prompt of its own.
    clip = load_clip(ClipSpec("lorattt-demo", "demo"))
    right = 0
    for seed in (1, 2):
        folder = out / f"seed-{seed}"
        config = yaml.safe_load((folder / "shifted" / "tlla" / "config.yaml").read_text(encoding="utf-8"))
        given = config["model"]["init_args"]
        assert config["seed_everything"] == config["data"]["init_args"]["draw_seed"] == seed
        assert given["prompt"]["file"] == str(folder / "fits" / "sapt" / "prompt.safetensors")
        assert given["views"]["number"] == 10
        images = DemoImages("shifted", 3, 8, "val", seed=seed)
        text = clip.text_features(images.class_names, "single")
        for number in images.numbers:
            view = Views(ViewSpec(1), clip.image_size)(images.read(number), number)
            right += int((clip.image_features(view) @ text.T).argmax()) == images.label(number)
    assert report["methods"]["zero-shot"]["top1"] == pytest.approx(100 * right / 16)
    monkeypatch.setattr(fits, "fit", None)
    behaviour.main()
    assert json.loads(file.read_text()) == report
