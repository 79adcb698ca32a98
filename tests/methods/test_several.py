"""Several methods in one pass: each says what it says alone, and what they share is made once."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import lorattt.clip.load
from conftest import CPU, DEMO, ZERO, Cli, Run
from lorattt.clip.load import ClipSpec
from lorattt.clip.model import Clip
from lorattt.clip.vision import VisionTower
from lorattt.errors import UserError
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.registry import build_method
from lorattt.methods.several import Several
from lorattt.views.crops import ViewSpec

NAMES = ["red circle", "blue square", "green star", "a cross"]
CLIP = ClipSpec("lorattt-demo", "demo")
VIEWS = ViewSpec(number=10, scale=(0.5, 1.0))
OPTIONS: dict[str, dict[str, Any]] = {
    "lora_ttt": {"lora": {"multiplier": 40.0, "blocks": [-1]}, "steps": 2},
    "zero": {"zero": {"gamma": 0.5}},
}
ALL = ["zero_shot", "mean_of_views", "mta", "zero", "lora_ttt"]
E = 3


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    pixels = torch.randint(0, 256, (E, 10, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {
        "views": pixels,
        "label": torch.tensor([0, 3, -1]),
        "index": torch.tensor([4, 0, 9]),
        "path": ["a", "b", "c"],
        "skipped": [{"index": 1, "path": "d", "reason": "no image"}],
    }


def _several(methods: list[str], **arguments: Any) -> Several:
    several = Several(methods=methods, clip=CLIP, views=VIEWS, **arguments)
    several.eval().use_classes(NAMES)
    return several


@pytest.mark.parametrize("methods", [ALL, ALL[::-1], ["mta", "zero_shot"], ["zero_shot"]], ids=str)
def test_each_says_what_it_says_alone(methods: list[str], batch: EpisodeBatch) -> None:
    options = {name: OPTIONS[name] for name in methods if name in OPTIONS}
    several = _several(methods, options=options, seed=3)
    output = several.test_step(batch, 0)
    assert list(output["methods"]) == methods  # type: ignore[typeddict-item]
    for name in methods:
        views = {} if name == "zero_shot" else {"views": VIEWS}
        alone = build_method(name, {**OPTIONS.get(name, {}), **views}, clip=CLIP, seed=3)
        alone.eval().use_classes(NAMES)
        expected = alone.test_step(batch, 0)
        answer = output["methods"][name]  # type: ignore[typeddict-item]
        for key in ("before", "after"):
            torch.testing.assert_close(answer[key], expected[key], rtol=0, atol=1e-5)  # type: ignore[literal-required]
        assert torch.equal(answer["fallback"], expected["fallback"])
        assert not answer["after"].requires_grad
        metrics = several.members[name].metrics.compute()  # type: ignore[operator, union-attr]
        assert metrics == pytest.approx(alone.metrics.compute())
        assert metrics["n"] == 2
    assert torch.equal(output["after"], output["methods"][methods[0]]["after"])  # type: ignore[typeddict-item]
    assert output["skipped"] == batch["skipped"]


def test_what_is_shared_is_made_once(batch: EpisodeBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"models": 0, "texts": 0, "whole views": 0}

    def counting(owner: Any, attribute: str, key: str, amount: Callable[..., int]) -> None:
        whole = getattr(owner, attribute)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[key] += amount(*args, **kwargs)
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, counted)

    def whole_views(_: VisionTower, pixels: Tensor, kept: Tensor | None = None) -> int:
        return len(pixels) if kept is None else 0

    counting(lorattt.clip.load, "build_model", "models", lambda *_: 1)
    counting(Clip, "text_features", "texts", lambda *_: 1)
    counting(VisionTower, "embed", "whole views", whole_views)
    several = _several(ALL)
    several.test_step(batch, 0)
    assert counts == {"models": 1, "texts": 1, "whole views": 30}
    several.use_classes(NAMES)
    several.test_step(batch, 1)
    assert counts == {"models": 1, "texts": 1, "whole views": 60}


def test_gradients_are_those_of_any() -> None:
    assert _several(["zero_shot", "lora_ttt"]).needs_gradient
    assert not _several(["zero_shot", "mta"]).needs_gradient


def test_a_batch_without_images(batch: EpisodeBatch) -> None:
    several = _several(["zero_shot", "mta"])
    empty: EpisodeBatch = {
        "views": batch["views"][:0],
        "label": batch["label"][:0],
        "index": batch["index"][:0],
        "path": [],
        "skipped": batch["skipped"],
    }
    output = several.test_step(empty, 0)
    assert output["after"].shape == (0, 4)
    assert [answer["before"].shape for answer in output["methods"].values()] == [(0, 4)] * 2  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": []}, r"^model\.methods is empty: name at least one$"),
        ({"methods": ["mtt"]}, r"^model\.methods 'mtt': known are"),
        ({"methods": ["several"]}, r"^model\.methods 'several': known are"),
        ({"methods": ["mta", "zero", "mta"]}, r"^model\.methods has mta more than once"),
        ({"methods": ["mta"], "options": {"zer": {}}}, r"^model\.options 'zer': did you mean zero\?$"),
        ({"methods": ["mta"], "options": {"LoRATTT": {}}}, r"^model\.options 'LoRATTT': did you mean lora_ttt\?$"),
        ({"methods": ["mta"], "options": {"mta": {"mu": 1}}}, r"^model\.options\.mta\.mu: MTA has no such argument"),
        (
            {"methods": ["mta"], "options": {"mta": {"mta": {"outer": "x"}}}},
            r"^model\.options\.mta\.mta\.outer: 'x' is not a whole number$",
        ),
        (
            {"methods": ["mta"], "options": {"mta": [1]}},
            r"^model\.options\.mta: must be arguments and their values, not \[1\]",
        ),
        *(
            (
                {"methods": ["mta"], "options": {"mta": {key: 1}}},
                rf"^model\.options\.mta\.{key}: all methods share it: set model\.{key}$",
            )
            for key in ("clip", "class_names", "templates", "views", "seed")
        ),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Several(clip=CLIP, views=VIEWS, **arguments)
    assert "\n" not in str(caught.value)


def test_options_of_methods_that_do_not_run_are_not_used(recwarn: pytest.WarningsRecorder) -> None:
    several = Several(methods=["mta"], clip=CLIP, views=VIEWS, options={"zero": {"zero": 3}, "tpt": None, "mta": None})
    assert list(several.members) == ["mta"]
    (warning,) = [str(each.message) for each in recwarn if "model.options" in str(each.message)]
    assert warning == "model.options of zero, tpt are not used: model.methods does not list them"


def test_views_that_a_method_cannot_use() -> None:
    with pytest.raises(UserError, match=r"^mta\.bandwidth 0\.3 of 4 views"):
        Several(methods=["mta"], clip=CLIP, views=ViewSpec(number=4))


# ---- the command line


def _config(tmp_path: Path, **arguments: Any) -> list[str]:
    settings = {
        "clip": {"model": CLIP.model, "pretrained": CLIP.pretrained},
        "views": {"number": 10, "scale": [0.5, 1.0]},
        **arguments,
    }
    file = tmp_path / "several.yaml"
    file.write_text(yaml.safe_dump({"model": {"class_path": "Several", "init_args": settings}}), encoding="utf-8")
    return ["-c", str(file)]


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_a_folder_for_each_method(cli: Cli, tmp_path: Path) -> None:
    methods = ["zero_shot", "mta", "lora_ttt"]
    run = cli("test", *_config(tmp_path, methods=methods, options={"lora_ttt": {"steps": 2}}), *DEMO)
    assert run.code == 0, run.err
    assert run.folder == run.cwd / "runs" / "several" / "demo-noise" / "000"
    each = ("predictions.csv", "predictions.jsonl", "results.json")
    assert _files(run.folder) == {
        "config.yaml",
        "metrics.csv",
        *(f"{name}/{file}" for name in methods for file in each),
    }
    folder = run.folder
    alone = {"zero_shot": ZERO, "mta": ["--model", "MTA", *ZERO[2:]], "lora_ttt": ["--model", "LoRATTT", *ZERO[2:]]}
    views = ["--model.views.number", "10", "--model.views.scale", "[0.5, 1.0]"]
    for name in methods:
        other = cli(
            "test",
            *alone[name],
            *(views if name != "zero_shot" else []),
            *(["--model.steps", "2"] if name == "lora_ttt" else []),
            *DEMO,
        )
        assert other.code == 0, other.err
        results = json.loads((folder / name / "results.json").read_text(encoding="utf-8"))
        assert results["shared_with"] == [method for method in methods if method != name]
        assert set(results) == set(other.results)
        assert results["method"] == name
        for key in ("n", "seed", "fallbacks", "skipped", "backbone", "dataset"):
            assert results[key] == other.results[key]
        for key in ("top1", "top5", "ece", "nll"):
            for when in ("before", "after"):
                assert results[f"{key}_{when}"] == pytest.approx(other.results[f"{key}_{when}"], abs=1e-4)
        with (folder / name / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row, expected in zip(rows, other.rows, strict=True):
            for key, value in expected.items():
                if key.startswith(("confidence", "entropy")):
                    assert float(row[key]) == pytest.approx(float(value), abs=1e-5)
                else:
                    assert row[key] == value
    bar, table = run.out.split("\n3 methods on demo-noise, lorattt-demo, 6 images\n")
    lines = [line.split() for line in table.splitlines() if line]
    assert [line[0] for line in lines[1:5]] == ["before", *methods]
    assert [len(line) for line in lines[1:5]] == [5, 9, 9, 9]
    last = json.loads((folder / "lora_ttt" / "results.json").read_text(encoding="utf-8"))
    assert float(lines[1][1]) == pytest.approx(100 * last["top1_before"], abs=0.01)
    shown = re.findall(r"top-1 ([\d.]+) -> ([\d.]+) %", bar)[-1]
    # The bar's is the last method's.
    assert [float(x) for x in shown] == pytest.approx([100 * last["top1_before"], 100 * last["top1_after"]], abs=0.051)
    assert float(lines[4][1]) == pytest.approx(100 * last["top1_after"], abs=0.01)
    assert float(lines[4][5]) == pytest.approx(100 * (last["top1_after"] - last["top1_before"]), abs=0.011)
    ends = [100 * last[f"top1_change_{end}"] for end in ("low", "high")]
    assert [float(lines[4][place].strip("()")) for place in (6, 8)] == pytest.approx(ends, abs=0.0051)
    assert max(map(len, table.splitlines()[:6])) <= 80
    assert "images/s for all methods together" in table
    assert table.endswith(f"written to {folder.relative_to(run.cwd)}, a folder for each method\n")


def test_unreadable_images_and_a_folder_that_holds_results(cli: Cli, images: Path, tmp_path: Path) -> None:
    (images / "cat" / "1.png").write_text("no image", encoding="utf-8")
    config = _config(tmp_path, methods=["zero_shot", "zero"])
    data = ["--data", "ImagesData", "--data.images", str(images), "--data.class_names", "[cat, dog]"]
    args = ["predict", *config, *data, "--data.workers", "0", "--run.folder", "here", *CPU]
    run = cli(*args)
    assert run.code == 0, run.err
    each = ("predictions.csv", "predictions.jsonl", "results.json")
    expected = {
        "config.yaml",
        "metrics.csv",
        "skipped.csv",
        *(f"{name}/{file}" for name in ("zero_shot", "zero") for file in each),
    }
    assert _files(run.folder) == expected
    assert "1 images could not be read" in run.out
    again = cli(*args)
    assert (again.code, "finished: nothing to do" in again.out) == (0, True), again.err
    again = cli(*args, "--run.resume", "false")
    again.refused("run.folder here already holds zero/results.json: name another one, or remove it")


def test_mistakes_on_the_command_line(cli: Cli, tmp_path: Path) -> None:
    for arguments, message in (
        ({"methods": ["mta", "mta"]}, "model.methods has mta more than once"),
        ({"methods": ["mta"], "options": {"mta": {"seed": 1}}}, "model.options.mta.seed: all methods share it"),
    ):
        run = cli("test", *_config(tmp_path, **arguments), *DEMO)
        assert run.code == 2
        assert run.err.startswith(f"lorattt: error: {message}")
        assert run.err.count("\n") == 1
    run = cli("test", *_config(tmp_path, methods=["lora_ttt"]), *DEMO, "--trainer.inference_mode", "true")
    assert run.code == 2
    assert "Several needs gradients at test time" in run.err


PRESET = Path(__file__).parents[2] / "lightning_configs" / "methods" / "several_fine_grained.yaml"
PLAIN = Path(__file__).parents[2] / "lightning_configs" / "methods" / "several.yaml"


def _options(run: Run) -> dict[str, Any]:
    assert run.code == 0, run.err
    found: dict[str, Any] = yaml.safe_load(run.out)["model"]["init_args"]["options"]
    return found


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        ({"lora_ttt.lora.multiplier": "4"}, {("lora_ttt", "lora", "multiplier"): 4}),
        ({"lora_ttt.steps": "2", "mta.mta.outer": "3"}, {("lora_ttt", "steps"): 2, ("mta", "mta", "outer"): 3}),
        ({"lora_ttt.lora.blocks": "[-1]"}, {("lora_ttt", "lora", "blocks"): [-1]}),
        ({"ctpt.optimiser.lr": "1e-3"}, {("ctpt", "optimiser", "lr"): 0.001}),
    ],
)
@pytest.mark.parametrize("place", ["command line", "one word each", "file"])
def test_one_option_changes_and_the_others_stay(
    place: str, keys: dict[str, str], changes: dict[tuple[str, ...], Any], cli: Cli, tmp_path: Path
) -> None:
    extra: dict[str, Any] = {}
    expected: dict[str, Any] = yaml.safe_load(PRESET.read_text(encoding="utf-8"))["model"]["init_args"]["options"]
    for path, value in changes.items():
        for options in (extra, expected):
            group = options
            for part in path[:-1]:
                group = group.setdefault(part, {})
            group[path[-1]] = value
    words = [word for key, value in keys.items() for word in (f"--model.options.{key}", value)]
    if place == "one word each":
        words = [f"--model.options.{key}={value}" for key, value in keys.items()]
    if place == "file":
        (tmp_path / "extra.yaml").write_text(
            yaml.safe_dump({"model": {"init_args": {"options": extra}}}), encoding="utf-8"
        )
        words = ["-c", str(tmp_path / "extra.yaml")]
    assert _options(cli("test", "-c", str(PRESET), *DEMO, *words, "--print_config")) == expected


def test_null_drops_what_a_file_says(cli: Cli) -> None:
    base = ["test", "-c", str(PLAIN), *DEMO, "--print_config"]
    assert _options(cli(*base, "--model.options.lora_ttt", "null")) == {"lora_ttt": None}
    later = ["--model.options", "null", "--model.options.mta.mta.outer", "3"]
    assert _options(cli(*base, *later)) == {"mta": {"mta": {"outer": 3}}}
    whole = _options(cli(*base, "--model.options", "{mta: {mta: {inner: 2}}}"))
    assert (sorted(whole), whole["mta"]) == (["lora_ttt", "mta"], {"mta": {"inner": 2}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.options.lora_ttt.lora.rnk", "3"], "got rnk; did you mean model.options.lora_ttt.lora.rank?"),
        (["--model.options.lora_ttt.stps", "3"], "model.options.lora_ttt.stps: LoRATTT has no such argument; did you"),
        (["--model.options.lora_tt.steps", "3"], "model.options 'lora_tt': did you mean lora_ttt?"),
        (["--model.options.mta", "3"], "model.options.mta: must be arguments and their values, not 3"),
        (["--model.options.zero.zero.ties", "coin"], "model.options.zero.zero.ties: 'coin' is not one of"),
        (["--model.options.lora_ttt.lora.rank", "0"], "lora.rank 0"),
        (["--model.options.mta.views.number", "3"], "model.options.mta.views: all methods share it: set model.views"),
        (["--model.methods", "[zero_shot, loratt]"], "model.methods 'loratt': did you mean lora_ttt?"),
    ],
)
def test_a_wrong_option_is_found_by_print_config_too(words: list[str], message: str, cli: Cli) -> None:
    for end in (["--print_config"], []):
        run = cli("test", "-c", str(PRESET), *DEMO, *words, *end)
        assert (run.code, run.err.count("\n"), run.out) == (2, 1, ""), run.err
        assert message in run.err


def test_some_of_the_methods_of_a_file(cli: Cli, tmp_path: Path) -> None:
    config = _config(tmp_path, methods=["zero_shot", "mta", "lora_ttt"], options={"lora_ttt": {"steps": 2}, "mta": {}})
    run = cli("test", *config, *DEMO, "--model.methods", "[mta, zero_shot]")
    assert run.code == 0, run.err
    warnings = [line for line in run.err.splitlines() if "model.options" in line]
    expected = "model.options of lora_ttt are not used: model.methods does not list them"
    assert warnings == [f"lorattt: warning: {expected}"]
    assert {path.parent.name for path in run.folder.glob("*/results.json")} == {"mta", "zero_shot"}
