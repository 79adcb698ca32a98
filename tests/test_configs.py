"""Every file under lightning_configs is complete, or becomes so beside the others; a new file is found by itself."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Cli

ROOT = Path(__file__).parents[1] / "lightning_configs"
# A sweep is of another command, and has tests of its own.
FILES = sorted(path for path in ROOT.rglob("*.yaml") if path.relative_to(ROOT).parts[0] != "sweeps")


# Data to fit on: a file of these is complete beside a method that fits.
TO_FIT_ON = ("FewShotData", "FolderSourceData", "DemoSourceData")

# What each control of Self-TPT's first stage has for itself.
CONTROLS: dict[str, dict[str, Any]] = {
    "ce_ensemble": {"contrast_weight": 0, "matching_weight": 0, "classify_by": "mean"},
    "without_gm": {"matching_weight": 0},
    "cpt_only": {"ce_weight": 0, "matching_weight": 0},
    "without_front": {"class_views": ["middle", "end", "hand"]},
    "without_middle": {"class_views": ["front", "end", "hand"]},
    "without_end": {"class_views": ["front", "middle", "hand"]},
    "without_hand": {"class_views": ["front", "middle", "end"]},
}
PROTOCOLS = ("base_to_new", "cross_dataset", "domain_generalisation")


def _command(config: dict[str, Any]) -> str:
    fits = "max_epochs" in config.get("trainer", {}) or config.get("data", {}).get("class_path") in TO_FIT_ON
    return "fit" if fits else "test"


def _names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_files() -> None:
    known = {"demo/lora_ttt.yaml", "methods/lora_ttt_paper_ood.yaml", "data/image_folder.yaml"}
    known |= {f"experiments/self_tpt_{name}.yaml" for name in CONTROLS}
    known |= {f"experiments/self_tpt_{name}.yaml" for name in ("without_stage2", "v", *PROTOCOLS)}
    assert known <= set(map(_names, FILES))


@pytest.mark.parametrize("path", FILES, ids=_names)
def test_parses(path: Path, cli: Cli) -> None:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    command = _command(config)
    missing = [] if "model" in config else ["--model", "CoOp" if command == "fit" else "ZeroShot"]
    missing += [] if "data" in config else ["--data", "DemoData"]
    # The user's own folder; it is read when the run starts.
    root = ["--data.root", "images"] if config.get("data", {}).get("class_path") == "ImageFolderData" else []
    run = cli(command, *missing, "-c", str(path), *root, "--print_config")
    assert run.code == 0, run.err
    shown = yaml.safe_load(run.out)
    for part in ("model", "data"):
        if part in config:
            assert shown[part]["class_path"].endswith(f".{config[part]['class_path']}")
            _is_within(config[part]["init_args"], shown[part]["init_args"])
    _is_within(config.get("trainer", {}), shown["trainer"])


def _is_within(given: dict[str, Any], shown: dict[str, Any]) -> None:
    for key, value in given.items():
        if key.endswith("+"):  # added to the list of the defaults
            for each, found in zip(value, shown[key[:-1]][-len(value) :], strict=True):
                assert found["class_path"].endswith(f".{each['class_path']}")
                _is_within(each.get("init_args", {}), found.get("init_args", {}))
        elif isinstance(value, dict):
            _is_within(value, shown[key])
        else:
            assert shown[key] == value, key


@pytest.mark.parametrize("path", FILES, ids=_names)
def test_header_tells_what_to_expect_and_how_to_run(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    text = "\n".join(header)
    assert f"-c lightning_configs/{path.relative_to(ROOT).as_posix()}" in text
    assert any(line.startswith("#   lorattt ") for line in header)
    assert "http" not in "\n".join(lines)
    for line in lines:
        assert "/home" not in line
        assert "/work" not in line


def test_presets_differ_as_the_paper_and_the_code_do() -> None:
    presets = {
        name: yaml.safe_load((ROOT / "methods" / f"lora_ttt_{name}.yaml").read_text(encoding="utf-8"))
        for name in ("paper_ood", "paper_fine_grained", "released")
    }
    args = {name: config["model"]["init_args"] for name, config in presets.items()}
    assert {name: arg["lora"]["multiplier"] for name, arg in args.items()} == {
        "paper_ood": 12,
        "paper_fine_grained": 2,
        "released": 2,
    }
    assert {name: arg["loss"]["reconstruction"] for name, arg in args.items()} == {
        "paper_ood": 16,
        "paper_fine_grained": 16,
        "released": 0,
    }
    assert args["released"]["reset_every_step"]
    assert all(arg["clip"]["model"] == "ViT-B-16-quickgelu" for arg in args.values())


def test_several_has_each_methods_own_settings() -> None:
    """But for what all of them share, which is TPT's AugMix alone."""
    for name, lora, tpt in (
        ("several", "lora_ttt_paper_ood", "tpt"),
        ("several_fine_grained", "lora_ttt_paper_fine_grained", "tpt_fine_grained"),
    ):
        whole = _config(f"methods/{name}")["model"]["init_args"]
        own = {"lora_ttt": lora, "tpt": tpt, "mta": "mta", "zero": "zero", "mean_of_views": "mean_of_views"}
        for method, options in whole["options"].items():
            preset = _config(f"methods/{own[method]}")["model"]["init_args"]
            assert preset["clip"] == whole["clip"]
            assert preset["views"] == whole["views"] or (method, preset["views"]["augmix"]) == ("tpt", True)
            for key, value in options.items():
                preset_value = preset[key]
                if method == "zero":  # its file also has the default for ties
                    preset_value = {each: preset_value[each] for each in value}
                assert value == preset_value, f"{name}: {method}.{key}"
    text = (ROOT / "methods" / "several_fine_grained.yaml").read_text(encoding="utf-8")
    assert "tpt_fine_grained.yaml has TPT as published" in text
    methods = _config("methods/several_fine_grained")["model"]["init_args"]["methods"]
    assert {"zero_shot", "mean_of_views", "mta", "zero", "tpt", "lora_ttt"} == set(methods)


def test_layers_of_files(cli: Cli, images: Path) -> None:
    """Method, data and trainer from a file each, the rest on the command line."""
    parts = ("methods/lora_ttt_paper_ood", "data/image_folder", "trainer/cpu")
    files = [arg for part in parts for arg in ("-c", str(ROOT / f"{part}.yaml"))]
    small = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", "--model.views.number", "10"]
    run = cli("test", *files, *small, "--data.root", str(images), "--data.workers", "0")
    assert run.code == 0, run.err
    assert run.results["n"] == 6
    assert run.results["dataset"] == "pets"


def _config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_changes_one_thing(name: str) -> None:
    whole, control = _config("demo/self_tpt_fit"), _config(f"experiments/self_tpt_{name}")
    whole["model"]["init_args"] |= CONTROLS[name]
    assert control == whole


def test_controls_at_test_time_change_one_thing() -> None:
    whole = _config("demo/self_tpt")
    without, many = (_config(f"experiments/self_tpt_{name}") for name in ("without_stage2", "v"))
    arguments = {key: whole["model"]["init_args"][key] for key in ("clip", "prompt")}
    assert without == {**whole, "model": {"class_path": "SelfTPT", "init_args": {**arguments, "stage2": False}}}
    whole["model"]["init_args"] |= {"ensemble": True, "selection": 0.1}
    assert many == whole


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_have_the_methods_own_settings(name: str) -> None:
    """Stages 2 and 3 as in methods/; each protocol's file says which prompt and which commands."""
    protocol, own = _config(f"experiments/self_tpt_{name}"), _config("methods/self_tpt")
    for key in ("clip", "stage2", "steps", "stage2_lr"):
        assert protocol["model"]["init_args"][key] == own["model"]["init_args"][key]
    text = (ROOT / "experiments" / f"self_tpt_{name}.yaml").read_text(encoding="utf-8")
    fit = "self_tpt_base_fit" if name == "base_to_new" else "self_tpt_imagenet_fit"
    assert f"lorattt fit -c lightning_configs/methods/{fit}.yaml" in text
    assert (ROOT / "methods" / f"{fit}.yaml").exists()
    if name == "base_to_new":
        assert "2bn/(b+n)" in text
        assert all(f"--data.classes {part}" in text for part in ("base", "new"))
