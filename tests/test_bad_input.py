"""Every mistake of a user, through the command line: one line, exit code 2, no traceback, no results.

All commands here share a parser, whose making takes longer than most of them; test_cli makes one for each.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

import lorattt.cli
from conftest import CPU, DEMO, LORA, ZERO, Cli, Run
from lorattt import demo
from lorattt.cli.dry import SharedParserCLI


@pytest.fixture(autouse=True)
def _one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lorattt.cli.main, "__defaults__", (None, SharedParserCLI))


def refusal(run: Run) -> str:
    """The line, once it is known that there is just the one and nothing that looks like a finished run."""
    lines = [line for line in run.err.splitlines() if "error" in line.lower()]
    assert run.code == 2, run.err
    assert len(lines) == 1, run.err
    assert lines[0].startswith("lorattt: error: ")
    assert "Traceback" not in run.err + run.out
    assert not list(run.cwd.rglob("results.json"))
    assert not list(run.cwd.rglob("predictions.csv"))
    return lines[0]


# --- values -----------------------------------------------------------------------------------------

# Classes that know nothing of ours.
BORING = "lightning.pytorch.demos.boring_classes.Boring"
VALUES = {
    "unknown model": (["--model.clip.model", "ViT-B-61"], ["'ViT-B-61'", "did you mean", "ViT-B-16"]),
    "unknown tag": (
        ["--model.clip.model", "ViT-B-16-quickgelu", "--model.clip.pretrained", "openia"],
        ["'openia'", "its tags are", "openai"],
    ),
    "missing checkpoint": (["--model.clip.pretrained", "none.pt"], ["'none.pt'", "existing file", "its tags are demo"]),
    "quick GELU": (
        ["--model.clip.model", "ViT-B-16", "--model.clip.pretrained", "openai"],
        ["'openai'", "quick GELU", "use model ViT-B-16-quickgelu"],
    ),
    "mean of two": (["--model.clip.mean", "[0.5, 0.5]"], ["clip.mean: expected", "3 elements", "[0.5, 0.5]"]),
    "mean of bytes": (["--model.clip.mean", "[124, 116, 104]"], ["model.clip.mean [124", "divide by 255"]),
    "std of text": (["--model.clip.std", "half"], ["clip.std: expected a list", "half"]),
    "std of 0": (["--model.clip.std", "[0.5, 0, 0.5]"], ["model.clip.std [0.5, 0.0, 0.5]", "from 0.001 to 1"]),
    "resize mode": (["--model.clip.resize_mode", "crop"], ["resize_mode", "shortest, longest, squash", "crop"]),
    "interpolation": (["--model.clip.interpolation", "nearest"], ["interpolation", "bicubic, bilinear", "nearest"]),
    "block": (["--model.lora.blocks", "[6]"], ["blocks [6]", "6 blocks", "0 to 5"]),
    "norm's block": (["--model.tune", "layernorm", "--model.layernorm.blocks", "[-7]"], ["-7 is out of range"]),
    "too few names": (["--model.class_names", "[cat, dog]"], ["model.class_names has 2", "64 classes", "one name per"]),
    "no name": (["--model.class_names", "[]"], ["class_names"]),
    "too few views": (["--model.views.number", "5"], ["0.1 of 5 views keeps none", "at least 10 views"]),
    "fraction 0": (["--model.loss.selection", "0"], ["selection 0", "must be in (0, 1]"]),
    "no view": (["--model.views.number", "0"], ["views.number 0", "at least 1 view"]),
    "steps": (["--model.steps", "-1"], ["steps -1", "at least 0"]),
    "rank": (["--model.lora.rank", "0"], ["lora.rank 0", "at least 1"]),
    "inference mode": (["--trainer.inference_mode", "true"], ["LoRATTT", "set trainer.inference_mode to false"]),
    "batch size": (["--data.batch_size", "0"], ["data.batch_size 0", "at least 1"]),
    "domain": (["--data.domain", "fog"], ["fog", "noise"]),
    "template": (["--model.templates", "[a photo]"], ["'a photo'", "exactly once"]),
    "accelerator": (["--trainer.accelerator", "abacus"], ["trainer.accelerator abacus: ", "cpu"]),
    "ckpt_path": (["--ckpt_path", "last.ckpt"], ["ckpt_path", "model.clip.pretrained"]),
    "brace in a template": (["--model.templates", '["a {name}"]'], ["'a {name}'", "exactly once"]),
    "blank name": (["--model.class_names", '[a, ""]'], ["model.class_names: name 2 is blank"]),
    "seed": (["--seed_everything", "true"], ["seed_everything: expected int, got True"]),
    "seed below 0": (["--seed_everything", "-1"], ["seed_everything -1", "from 0 to 4294967295"]),
    "large seed": (["--seed_everything", "4294967296"], ["seed_everything 4294967296", "from 0 to"]),
    "precision": (["--trainer.precision", "16-true"], ["trainer.precision 16-true", "model.clip.dtype"]),
    # --- groups of keys
    "no group": (["--model.lora", "null"], ["model.lora: expected keys below it (rank, multiplier", "got null"]),
    "no clip": (["--model.clip", "null"], ["model.clip: expected keys below it (model, pretrained", "got null"]),
    "no views": (["--model.views", "null"], ["model.views: expected keys below it (number", "got null"]),
    # --- keys
    "unknown key": (["--model.lerning_rate", "1"], ["model.lerning_rate: no such key of LoRATTT; accepted are clip, "]),
    "near key": (["--data.worker", "1"], ["error: data.worker: no such key; did you mean data.workers?"]),
    "key's place": (["--model.rank", "1"], ["error: model.rank: no such key; did you mean model.lora.rank?"]),
    "nested key": (["--model.lora.rnk", "1"], ["error: model.lora.rnk: no such key; did you mean model.lora.rank?"]),
    "trainer's key": (["--trainer.acelerator", "cpu"], ["did you mean trainer.accelerator?"]),
    "shortened key": (["--run.folde", "x"], ["error: run.folde: no such key; did you mean run.folder?"]),
    "choice": (
        ["--model.tune", "all"],
        ["error: model.tune: expected one of lora, layernorm or the import", "got all"],
    ),
    "adapter": (["--model.tune", "my.Adapter"], ["model.tune: unknown class my.Adapter; give the import path"]),
    "type": (["--model.steps", "two"], ["error: model.steps: expected int, got two"]),
    "list": (["--model.class_names", "cat"], ["error: model.class_names: expected a list", "got cat"]),
    "far key": (["--modle.steps", "7"], ["modle.steps: no such key; did you mean model.steps?"]),
    "class": (["--model", "LoRATT"], ["model: unknown class LoRATT; did you mean LoRATTT?", "ZeroShot"]),
    "data's class": (["--data", "Folder"], ["data: unknown class Folder;", "ImageFolderData"]),
    "group file": (["--data", "none.yaml"], ["data: no such file none.yaml"]),
    "config": (["-c", "none.yaml"], ["config: no such file", "none.yaml"]),
    "help of no class": (["--model.help", "Nope"], ["error: unknown class Nope"]),
    # --- classes without a use here
    "base": (["--model", "Method"], ["model: Method is an abstract base class; known are", "LoRATTT"]),
    "data to train on": (["--data", f"{BORING}DataModule"], ["BoringDataModule has no images to classify", "DemoData"]),
    "model to train": (["--model", "CoOp"], ["CoOp learns a prompt: use fit, then test with"]),
}


@pytest.mark.parametrize("name", VALUES)
def test_value(name: str, cli: Cli) -> None:
    args, parts = VALUES[name]
    line = refusal(cli("test", *LORA, *DEMO, *args))
    assert all(part in line for part in parts), line


# --- configurations ---------------------------------------------------------------------------------

YAML = {
    "unknown key": ("model: {class_path: LoRATTT, init_args: {lerning_rate: 1}}", "model.init_args.lerning_rate"),
    "nested key": (
        "model: {class_path: LoRATTT, init_args: {lora: {rnk: 1}}}",
        "did you mean model.init_args.lora.rank?",
    ),
    "top key": ("modle: {class_path: LoRATTT}", "did you mean model.class_path?"),
    "choice": ("model: {class_path: LoRATTT, init_args: {optimiser: {name: adam}}}", "expected one of adamw, sgd"),
    "class": ("model: {class_path: nowhere.LoRATTT}", "unknown class nowhere.LoRATTT; did you mean LoRATTT?"),
    "missing key": ("data: {class_path: ImageFolderData}", "data.root: ImageFolderData needs it"),
    "syntax": ("model: [", "run.yaml, line 1: expected the node content"),
    "empty": (" ", "run.yaml is empty: name a YAML file with keys"),
    "empty group": ("model: {class_path: LoRATTT, init_args: {lora: }}", "model.lora: expected keys below it (rank"),
    "list for a group": ("model: {class_path: LoRATTT, init_args: {lora: [1]}}", "model.lora: expected keys below it"),
    "keys beside the class": ("model: {class_path: LoRATTT, steps: 1}", "keys of a class go below init_args"),
    "seed": ("seed_everything: -5\nmodel: {class_path: LoRATTT}", "seed_everything -5: it must be from 0"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml(name: str, cli: Cli, tmp_path: Path) -> None:
    text, part = YAML[name]
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    base = [*LORA, *CPU] if "data" in text else [*DEMO]
    assert part in refusal(cli("test", *base, "-c", str(path)))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ([], "fit, validate, test or predict"),
        (["tset"], "'tset'"),
        (["test"], "no model and data: name a configuration"),
        (["test", "--model", "ZeroShot"], "no data: name a configuration"),
        (["test", "--data.root", "images", *ZERO, *DEMO], "data.root: name the class before its keys"),
        (["fit", *LORA, *DEMO], "LoRATTT has nothing to fit: use test, validate or predict"),
        (["test", "run.yaml", *LORA, *DEMO], "run.yaml: put -c before a configuration: lorattt test -c run.yaml"),
    ],
)
def test_command(args: list[str], part: str, cli: Cli) -> None:
    assert part in refusal(cli(*args))


def test_config_that_is_no_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    for given in (["-c", str(tmp_path / "picture.png")], [f"--config={tmp_path / 'picture.png'}"]):
        line = refusal(cli("test", *given))
        assert "picture.png is not a text file in UTF-8 (invalid start byte, byte 0): name a YAML file" in line


# --- checkpoints ------------------------------------------------------------------------------------


def _cut_safetensors(folder: Path) -> tuple[str, str]:
    content = demo.CHECKPOINT.read_bytes()
    path = folder / "cut.safetensors"
    path.write_bytes(content[: len(content) // 2])
    return demo.MODEL_NAME, str(path)


def _cut_pt(folder: Path) -> tuple[str, str]:
    path = folder / "cut.pt"
    torch.save({"state_dict": {"weight": torch.zeros(10_000)}}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    return demo.MODEL_NAME, str(path)


def _other_model(folder: Path) -> tuple[str, str]:
    path = folder / "other.pt"
    torch.save({"state_dict": nn.Linear(2, 2).state_dict()}, path)
    return demo.MODEL_NAME, str(path)


def _archive(folder: Path) -> tuple[str, str]:
    """A TorchScript archive, the format in which OpenAI published its models, all with quick GELU."""
    path = folder / "openai.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    return "ViT-B-16", str(path)


def _cut_archive(folder: Path) -> tuple[str, str]:
    path = Path(_archive(folder)[1])
    path.write_bytes(path.read_bytes()[:-200])
    return "ViT-B-16-quickgelu", str(path)


def _text(folder: Path) -> tuple[str, str]:
    (folder / "page.pt").write_text("<html>not found</html>", encoding="utf-8")
    return demo.MODEL_NAME, str(folder / "page.pt")


def _safetensors_as_pt(folder: Path) -> tuple[str, str]:
    (folder / "named.pt").write_bytes(demo.CHECKPOINT.read_bytes())
    return demo.MODEL_NAME, str(folder / "named.pt")


def _module(folder: Path) -> tuple[str, str]:
    torch.save(nn.Linear(2, 2), folder / "module.pt")
    return demo.MODEL_NAME, str(folder / "module.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning:torch.jit")
@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (_cut_safetensors, ["cut.safetensors cannot be read", "fetch it again"]),
        (_cut_pt, ["cut.pt cannot be read (it is cut short): fetch it again"]),
        (_cut_archive, ["openai.pt cannot be read (it is cut short): fetch it again"]),
        (_text, ["page.pt cannot be read (it is a web page, and no checkpoint of PyTorch): fetch it again"]),
        (_safetensors_as_pt, ["named.pt is in the format of safetensors: rename it"]),
        (_module, ["module.pt cannot be read: it holds a whole model as Python objects", "state_dict alone"]),
        (_other_model, ["other.pt does not fit model lorattt-demo", "name the model it was made for"]),
        (_archive, ["openai.pt does not fit model ViT-B-16: it has none of the model's", "but weight, bias"]),
    ],
)
def test_checkpoint(make: Callable[[Path], tuple[str, str]], parts: list[str], cli: Cli, tmp_path: Path) -> None:
    model, path = make(tmp_path)
    line = refusal(cli("test", *LORA, *DEMO, "--model.clip.model", model, "--model.clip.pretrained", path))
    assert all(part in line for part in parts), line


def test_weights_that_cannot_be_fetched(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "Failed to download weights: " + "no route to the host, " * 20

    def unreachable(*_: object, **__: object) -> None:
        logging.getLogger("huggingface_hub").warning("attempt 1")
        logging.error(reason)
        raise RuntimeError(reason)

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    run = cli("test", *ZERO, *DEMO, "--model.clip.model", "ViT-B-32", "--model.clip.pretrained", "laion2b_s34b_b79k")
    line = refusal(run)
    assert "cannot fetch the weights 'laion2b_s34b_b79k' of ViT-B-32: check the connection, or name a file" in line
    assert " ... " in line, "cut in the middle"
    assert len(line) < 400
    assert "attempt 1" not in run.err


def test_lora_on_a_resnet(cli: Cli, small_models: None) -> None:
    resnet = ["--model.clip.model", "small-rn", "--model.clip.pretrained", "null"]
    line = refusal(cli("test", *LORA, *DEMO, *resnet))
    assert "small-rn has no class-token ViT" in line
    assert "use a ViT" in line
    assert open_clip.get_model_config("small-rn") is not None
    assert cli("test", *ZERO, *DEMO, *resnet).code == 0  # image features are all that this needs


# --- folders ----------------------------------------------------------------------------------------


def _folder(root: Path, *args: str) -> list[str]:
    return [*ZERO, "--data", "ImageFolderData", "--data.root", str(root), "--data.workers", "0", *CPU, *args]


def test_missing_and_empty_folder(cli: Cli, tmp_path: Path) -> None:
    assert "nowhere: no such folder" in refusal(cli("test", *_folder(tmp_path / "nowhere")))
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    line = refusal(cli("test", *_folder(tmp_path / "empty")))
    assert "empty holds no images" in line
    assert "JPEG" in line


def test_images_beside_folders(cli: Cli, images: Path) -> None:
    (images / "cat" / "0.png").rename(images / "0.png")
    assert "(first: 0.png): move them" in refusal(cli("test", *_folder(images)))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("names.txt", "a cat\n", "has 1 names but the dataset has 2 class folders"),
        ("names.json", '{"cat": "a cat"}', "class folder 'dog' is not in"),
        ("names.json", '["a cat", "a dog", "a cow"]', "has 3 names"),
        ("names.json", "[", "is not valid JSON"),
        ("names.txt", "", "holds no names"),
        ("names.json", '{"cat": ["x", "y"], "dog": "a dog"}', "name 1 (of 'cat') is a list of 2, not a text"),
        ("names.json", '["a cat", " "]', "name 2 is blank"),
    ],
)
def test_names_that_do_not_match(name: str, content: str, part: str, cli: Cli, images: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    line = refusal(cli("test", *_folder(images, "--data.class_names", str(tmp_path / name))))
    assert part in line
    assert name in line


def test_names_of_another_dataset(cli: Cli, images: Path) -> None:
    line = refusal(cli("test", *_folder(images, "--data.class_names", "imagenet")))
    assert "class folder 'cat' is not in the ImageNet classes (2 of 2 are not)" in line
    assert "no such file" in refusal(cli("test", *_folder(images, "--data.class_names", "imagnet")))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_unreadable_image_ends_the_run(workers: str, cli: Cli, images: Path) -> None:
    (images / "dog" / "1.png").write_bytes(b"no image")
    line = refusal(cli("test", *_folder(images, "--data.workers", workers, "--data.batch_size", "2")))
    assert "cannot read image dog/1.png" in line
    assert "data.on_bad_image to skip" in line


def test_names_in_another_encoding(cli: Cli, images: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("café\ndog\n".encode("latin-1"))
    line = refusal(cli("test", *_folder(images, "--data.class_names", str(tmp_path / "names.txt"))))
    assert "names.txt is not a text file in UTF-8" in line
    assert "save it as UTF-8" in line


def test_a_root_of_images_that_is_a_file(cli: Cli, images: Path) -> None:
    line = refusal(cli("test", *_folder(images / "cat" / "0.png")))
    assert "0.png: a file, not a folder; name the folder" in line


@pytest.mark.parametrize("command", ["test", "validate"])
def test_no_image_can_be_read(command: str, cli: Cli, images: Path) -> None:
    for path in images.rglob("*.png"):
        path.write_bytes(b"no image")
    run = cli(command, *_folder(images, "--data.on_bad_image", "skip"))
    line = refusal(run)
    assert "none of the 6 images could be read (the first: cat/0.png: " in line
    assert not list(run.cwd.rglob("journal*"))


def test_unreadable_image_is_left_out(cli: Cli, images: Path) -> None:
    bad = images / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    run = cli("test", *_folder(images, "--data.on_bad_image", "skip", "--data.batch_size", "1"))
    assert run.code == 0, run.err
    assert (run.results["n"], run.results["skipped"]) == (5, 1)
    assert [row["path"] for row in run.rows] == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/2.png"]
    header, line = (run.folder / "skipped.csv").read_text(encoding="utf-8").splitlines()
    assert header == "index,path,reason"
    assert line.startswith("4,dog/1.png,")
    assert "1 images could not be read" in run.out


def test_images_without_labels(cli: Cli, images: Path) -> None:
    loose = images / "cat"
    line = refusal(cli("test", *_folder(loose, "--model.class_names", "[cat, dog]")))
    assert "use predict with model.class_names" in line
    assert "give model.class_names" in refusal(cli("predict", *_folder(loose)))


# --- the run's folder -------------------------------------------------------------------------------


def test_a_finished_run_is_not_overwritten(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "done"
    folder.mkdir()
    (folder / "results.json").write_text("{}", encoding="utf-8")
    assert "already holds results.json: name another" in refusal(cli("test", *ZERO, *DEMO, "--run.folder", str(folder)))


def test_a_root_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "name another run.root" in refusal(cli("test", *ZERO, *DEMO, "--run.root", str(tmp_path / "file")))


# --- classes of one's own ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("absent_module.A", None, "there is no module absent_module: put its folder on PYTHONPATH"),
        ("needs_absent.A", "import nowhere_at_all\n", "cannot be imported (No module named 'nowhere_at_all')"),
        ("breaks_at_import.A", "1 / 0\n", "cannot be imported (ZeroDivisionError: division by zero)"),
        ("has_another.A", "B = 1\n", "the module has_another has no A"),
    ],
)
def test_classes_that_cannot_be_imported(
    name: str, text: str | None, told: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / f"{name.split('.')[0]}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    line = refusal(cli("test", "--model", name, *DEMO))
    assert f"model: unknown class {name}; " in line
    assert told in line


def test_a_group_that_a_class_of_ones_own_hands_on(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
from typing import TYPE_CHECKING, Any
from lorattt.methods.zero_shot import ZeroShot
if TYPE_CHECKING:
    from decimal import Decimal

class Own(ZeroShot):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

class Typed(ZeroShot):
    def __init__(self, *, weight: "Decimal | None" = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
"""
    (tmp_path / "own_methods.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for kind in ("Own", "Typed"):
        args = ["--model", f"own_methods.{kind}", *ZERO[2:], *DEMO]
        assert cli("test", *args).code == 0
        assert "model.clip: expected keys below it" in cli("test", *args, "--model.clip", "null").err


def test_data_are_looked_for_before_weights_are_fetched(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_clip, "create_model", None)
    data = ["--data", "BenchmarkData", "--data.dataset", "dtd", "--data.data_root", "nowhere"]
    assert "data_root nowhere: no such folder" in refusal(cli("test", "--model", "ZeroShot", *data))
