"""The command line from end to end: what a run shows and what it leaves behind."""

import re
from pathlib import Path

import pytest
import yaml

from conftest import CPU, DEMO, LORA, ZERO, Cli
from lorattt import __version__

MEASURES = {f"{name}_{when}" for name in ("top1", "top5", "ece", "nll") for when in ("before", "after")}
MEASURES |= {"top1_change_low", "top1_change_high"}
ABOUT = {"method", "dataset", "backbone", "preprocessing", "n", "images_per_second", "peak_memory_bytes", "seed"}
ABOUT |= {"fallbacks", "skipped", "resumed", "versions", "corruption"}
ABOUT |= {"format", "stages", "not_finite", "batches_halved", "directory", "shared_with"}
SMALL = ["--model.clip.model", "small-vit", "--model.clip.pretrained", "null"]
COLUMNS = "index,path,label,prediction_before,prediction_after,confidence_before,confidence_after,"
COLUMNS += "entropy_before,entropy_after,name_before,name_after"


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out.strip() == f"lorattt {__version__}"
    run = cli("--help")
    assert run.code == 0
    for command in ("fit", "validate", "test", "predict"):
        assert command in run.out
    run = cli("test", "--help")
    assert run.code == 0
    assert "--run.folder" in run.out


def test_print_config_shows_the_guarded_defaults(cli: Cli) -> None:
    run = cli("test", *LORA, *DEMO, "--print_config")
    shown = yaml.safe_load(run.out)
    assert (run.code, shown["trainer"]["inference_mode"]) == (0, False)
    assert shown["model"]["class_path"] == "lorattt.methods.lora_ttt.LoRATTT"
    assert not list(run.cwd.iterdir())


def test_null_on_the_command_line(cli: Cli) -> None:
    args = ["--model.clip.pretrained", "null", "--data.limit", "null", "--print_config"]
    shown = yaml.safe_load(cli("test", *LORA, *DEMO, *args).out)
    assert shown["model"]["init_args"]["clip"]["pretrained"] is None
    assert shown["data"]["init_args"]["limit"] is None


@pytest.mark.parametrize("command", ["test", "validate"])
def test_run_on_the_demo(command: str, cli: Cli) -> None:
    run = cli(command, *LORA, *DEMO, "--seed_everything", "5")
    assert run.code == 0, run.err
    assert run.folder == run.cwd / "runs" / "lora_ttt" / "demo-noise" / "000"
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "lora_ttt", "metrics.csv"}
    left = {"results.json", "predictions.csv", "predictions.jsonl"}
    assert {path.name for path in (run.folder / "lora_ttt").iterdir()} == left
    assert set(run.results) == MEASURES | ABOUT | {"ece_bins"}
    assert (run.results["format"], run.results["shared_with"]) == (2, [])
    about = {key: run.results[key] for key in ("method", "dataset", "backbone", "n", "seed", "fallbacks", "skipped")}
    assert about == {
        "method": "lora_ttt",
        "dataset": "demo-noise",
        "backbone": "lorattt-demo",
        "n": 6,
        "seed": 5,
        "fallbacks": 0,
        "skipped": 0,
    }
    assert (run.results["ece_bins"], run.results["directory"]) == (20, str(run.cwd))
    assert {"lorattt", "torch", "lightning", "open_clip_torch"} <= set(run.results["versions"])
    assert (run.method_folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[0] == COLUMNS
    assert [row["index"] for row in run.rows] == [str(i) for i in range(6)]
    right = sum(row["prediction_after"] == row["label"] for row in run.rows)
    assert run.results["top1_after"] == pytest.approx(right / 6)


def test_screen(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar with the accuracy so far, then the table, once; nothing else."""
    monkeypatch.setattr("lorattt.callbacks.progress.in_lines", lambda: False)
    run = cli("test", *LORA, *DEMO)
    bar, table = run.out.split("\nlora_ttt on demo-noise, lorattt-demo, 6 images\n")
    assert re.search(r"2/2 .*top-1 [\d.]+ -> [\d.]+ %", bar)
    assert "%|" not in table
    assert table.count("top-1 %") == 1
    assert table.endswith(f"written to {run.folder.relative_to(run.cwd)}\n")
    assert run.err == ""
    assert "Testing" not in cli("test", *LORA, *DEMO, "--trainer.enable_progress_bar", "false").out


def test_config_of_a_run_repeats_it(cli: Cli) -> None:
    first = cli("test", *LORA, *DEMO, "--model.lora.multiplier", "3", "--seed_everything", "7")
    rows = first.rows
    second = cli("test", "-c", str(first.folder / "config.yaml"))
    assert second.code == 0, second.err
    assert second.folder.name == "001"
    assert (second.rows, second.results["seed"]) == (rows, 7)


def test_before_is_zero_shot(cli: Cli) -> None:
    adapted = cli("test", *LORA, *DEMO)
    results, rows = adapted.results, adapted.rows
    plain = cli("test", *ZERO, *DEMO)
    for key in ("top1", "top5", "ece", "nll"):
        assert results[f"{key}_before"] == pytest.approx(plain.results[f"{key}_after"], abs=1e-5)
        assert plain.results[f"{key}_before"] == plain.results[f"{key}_after"]
    for one, other in zip(rows, plain.rows, strict=True):
        assert one["prediction_before"] == other["prediction_after"]
        for key in ("confidence", "entropy"):
            assert float(one[f"{key}_before"]) == pytest.approx(float(other[f"{key}_after"]), abs=1e-4)
    assert any(row["confidence_before"] != row["confidence_after"] for row in rows)


def test_seed_changes_the_views(cli: Cli) -> None:
    one, other = (cli("test", *LORA, *DEMO, "--seed_everything", seed).rows for seed in ("0", "1"))
    assert one != other
    assert [row["confidence_before"] for row in one] == [row["confidence_before"] for row in other]


def test_folder_of_images(cli: Cli, images: Path) -> None:
    data = ["--data", "ImageFolderData", "--data.root", str(images), "--data.workers", "1", *CPU]
    run = cli("test", *LORA, *data)
    assert run.code == 0, run.err
    assert run.results["dataset"] == "pets"
    assert [row["label"] for row in run.rows] == ["0", "0", "0", "1", "1", "1"]
    assert run.rows[3]["path"] == "dog/0.png"
    run = cli("test", *LORA, *data, "--data.limit", "2", "--run.folder", "here")
    assert [row["path"] for row in run.rows] == ["cat/0.png", "dog/0.png"]
    assert run.folder == run.cwd / "here"


def test_predict_without_labels(cli: Cli, images: Path) -> None:
    data = ["--data", "ImageFolderData", "--data.root", str(images / "cat"), "--data.workers", "0", *CPU]
    run = cli("predict", *LORA, *data, "--model.class_names", "[cat, dog]")
    assert run.code == 0, run.err
    assert [row["label"] for row in run.rows] == ["", "", ""]
    assert {row["prediction_after"] for row in run.rows} <= {"0", "1"}
    assert set(run.results) == ABOUT
    assert run.results["n"] == 3
    assert "top-1" not in run.out


def test_layernorm_and_zero_steps(cli: Cli) -> None:
    tuned = cli("test", *LORA, *DEMO, "--model.tune", "layernorm").rows
    assert any(row["confidence_before"] != row["confidence_after"] for row in tuned)
    still = cli("test", *LORA, *DEMO, "--model.steps", "0").rows
    for row in still:
        assert float(row["confidence_before"]) == pytest.approx(float(row["confidence_after"]), abs=1e-5)


def test_a_warning_is_one_line(cli: Cli, small_models: None) -> None:
    run = cli("test", *LORA, *DEMO, *SMALL)
    assert run.code == 0, run.err
    lines = run.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("lorattt: warning: preprocessing of images: assumed OpenAI's mean [0.48145466, ")
    assert lines[1] == "lorattt: warning: small-vit has random weights: pretrained is null"


def test_preprocessing_is_what_the_keys_say(cli: Cli, small_models: None) -> None:
    keys = ["--model.clip.mean", "[0.5, 0.5, 0.5]", "--model.clip.std", "[0.25, 0.25, 0.25]"]
    keys += ["--model.clip.resize_mode", "longest", "--model.clip.interpolation", "bilinear"]
    run = cli("test", *LORA, *DEMO, *SMALL, *keys)
    assert run.code == 0, run.err
    assert "preprocessing" not in run.err
    assert run.results["preprocessing"] == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "resize_mode": "longest",
        "interpolation": "bilinear",
        "fill_color": 0,
    }
    # The run again, from its own configuration.
    again = cli("test", "-c", str(run.folder / "config.yaml"))
    assert again.results["preprocessing"] == run.results["preprocessing"]
    assert again.rows == run.rows
