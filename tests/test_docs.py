"""What README, docs and configurations tell the reader is true: commands run, programs run, links lead somewhere.

A command runs as printed, with arguments behind it that make it small, in a folder that has what the pages name:
``path/to/datasets``, ``photos/*.jpg``, ``runs`` and so on. What needs devices or packages that are not here is parsed.
A command of a kind that nobody knows here how to run is a failure, and so is a placeholder that stands for nothing
(``doc_pages.PLACEHOLDERS``).
"""

import importlib
import json
import re
import shutil
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

import pytest
import yaml
from torch.distributed.run import get_args_parser

from data import miniature
from doc_pages import (
    CONFIGS,
    PAGES,
    PROGRAMS,
    ROOT,
    Snippet,
    anchors_of,
    blocks_of,
    commands_of,
    header_commands,
    name_of,
    once,
    tokens_of,
    words_of,
)
from lorattt import demo
from lorattt.__main__ import main
from lorattt.callbacks.loggers import check_installed
from lorattt.cli import LorattCLI
from lorattt.data import catalogue
from lorattt.data.imagenet_family import imagenet_names
from lorattt.errors import UserError
from lorattt.methods.registry import METHODS
from lorattt.sweep import processes
from lorattt.sweep.command import main as sweep

Parse = Callable[[list[str]], dict[str, Any]]

# Variables that a line may set.
VARIABLES = {"PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WANDB_MODE"}
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
# Training splits that are written in full; of ImageNet's training images the first classes have several.
TO_FIT_ON = ("FewShotData", "FolderSourceData", "DemoSourceData")
FIRST_CLASSES = "[0, 1, 2]"


# --- links ------------------------------------------------------------------------------------------


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `a_b` & C, d!\n## Self-TPT\n## Self-TPT\n### Größe: 1.5\n", encoding="utf-8")
    assert anchors_of(page) == {"a_b--c-d", "self-tpt", "self-tpt-1", "größe-15"}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CHANGELOG.md"], ids=name_of)
def test_links(path: Path) -> None:
    for token, line in tokens_of(path):
        assert token.type not in ("html_block", "html_inline"), f"{name_of(path)}:{line}: HTML, whose links none checks"
        if token.type == "text":
            assert not re.search(r"\]\s?[(\[]", token.content), f"{name_of(path)}:{line}: a link that is none"
        for link in (token.attrGet("href"), token.attrGet("src")):
            if link is not None:
                _follow(path, str(link), f"{name_of(path)}:{line}: {link}")


def _follow(page: Path, link: str, where: str) -> None:
    parsed = urlparse(link)
    if parsed.scheme or parsed.netloc:
        assert parsed.scheme == "https", where
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parsed.netloc), where
        return
    target = (page.parent / parsed.path).resolve() if parsed.path else page
    assert target.is_relative_to(ROOT), f"{where}: outside the repository"
    assert target.exists(), f"{where}: no such file"
    if parsed.fragment:
        assert parsed.fragment in anchors_of(target), (
            f"{where}: no such heading; there are {sorted(anchors_of(target))}"
        )


@pytest.mark.parametrize(
    "text",
    ["[a](none.md)", "[a](#none)", "![a](none.png)", "<b>a</b>", "[a][none]", "[a](ftp://a.org)", "[a](https://)"],
)
def test_a_dead_link_is_found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n{text}\n", encoding="utf-8")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    with pytest.raises(AssertionError, match="page.md:2"):
        test_links(page)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_are_named(path: Path) -> None:
    """Those in backquotes, seen from the repository, the package, or among the configurations."""
    for token, line in tokens_of(path):
        named = token.type == "code_inline" and re.fullmatch(r"[a-z_]+(/[\w.-]+)+\.(py|md|yaml|toml)", token.content)
        if named and token.content.split("/")[0] not in ("path", "runs") and not Path(token.content).stem.isupper():
            places = [place / token.content for place in (ROOT, ROOT / "lorattt", ROOT / "lightning_configs")]
            assert any(place.exists() for place in places), f"{name_of(path)}:{line}: there is no {token.content}"


# --- a folder that has what the pages name ------------------------------------------------------------


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, parse: Parse) -> Path:
    """Everything but the datasets, which are written when they are needed."""
    root = tmp_path_factory.mktemp("things")
    for place in ("photos", "path/to/images/cat", "path/to/images/dog", "path/to/datasets", "docs"):
        (root / place).mkdir(parents=True)
    for number in range(6):
        picture = demo.draw(number, domain="contrast", severity=3, split="test")[0]
        picture.save(root / "photos" / f"{number}.jpg")
        picture.save(root / "path/to/images" / ("cat", "dog")[number % 2] / f"{number}.png")
    rows = [f"images/{name}/{number}.png,{name}" for number in range(6) for name in [("cat", "dog")[number % 2]]]
    (root / "path/to/table.csv").write_text("\n".join(["path,label", *rows, ""]), encoding="utf-8")
    for wnid in list(imagenet_names())[:3]:
        miniature.put(root / "path/to/val" / wnid, "0.JPEG")
    (root / "names.txt").write_text("cat\ndog\n", encoding="utf-8")
    (root / "list.txt").write_text("photos\n", encoding="utf-8")
    shutil.copy(ROOT / "lightning_configs/demo/lora_ttt.yaml", root / "my.yaml")
    shutil.copy(demo.PROMPTS["demo-self-tpt"], root / "prompt.safetensors")
    shutil.copy(demo.PROMPTS["demo-self-tpt"], root / "path/to/prompt.safetensors")
    shutil.copy(demo.CHECKPOINT, root / "path/to/ViT-B-16.safetensors")
    _save_as_torch(root / "path/to/ViT-B-16.pt")
    speed = {"method": "mta", "end_to_end": {"images_per_second": 10.0}}
    settings = {"augmix": False, "dtype": "fp32", "views": 64}
    machine = {"machine": {"gpu": None, "cpu": "any"}, "settings": settings, "rows": [speed]}
    (root / "machine.json").write_text(json.dumps(machine), encoding="utf-8")
    for place in ("lightning_configs", "examples", "tests", "benchmarks"):
        (root / place).symlink_to(ROOT / place)
    (root / "data").symlink_to("path/to/datasets")
    _make_runs(root)
    (root / "runs/lora_ttt/dtd/000").mkdir(parents=True)  # of a run that died before its first batch
    shutil.copy(root / "my.yaml", root / "runs/lora_ttt/dtd/000/config.yaml")
    return root


def _save_as_torch(path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(demo.CHECKPOINT), path)


def _make_runs(root: Path) -> None:
    """Finished runs, one of them of corrupted images, and a fit."""
    configs, small = "lightning_configs/demo", [*CPU, "--trainer.enable_progress_bar=false", "--data.workers=0"]
    few = [*small, "--data.limit=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["lorattt"])
        _dataset(root / "path/to/datasets", "dtd", "test")
        for folder in ("runs/zero_shot_coop", "runs/zero_shot_sapt", "runs/zero_shot/demo-contrast/000"):
            main(["test", "-c", f"{configs}/zero_shot.yaml", "--data.domain=contrast", *few, f"--run.folder={folder}"])
        folder = "--run.folder=runs/lora_ttt/demo-contrast/000"
        main(["test", "-c", f"{configs}/lora_ttt.yaml", *few, "--model.views.number=10", folder])
        corrupted = ["-c", "lightning_configs/data/dtd.yaml", "--data.data_root=path/to/datasets"]
        corrupted += ["--data.corruption={name: contrast, severity: 3}"]
        main(["test", "-c", f"{configs}/zero_shot.yaml", *corrupted, *few])
        fit = ["--data.shots=1", "--data.val_shots=1", "--data.classes=new", "--trainer.max_epochs=1"]
        main(["fit", "-c", f"{configs}/coop.yaml", *small, *fit, "--run.folder=runs/coop/demo/000"])


def _dataset(root: Path, key: str, split: str) -> None:
    """A small copy of a benchmark, if it is not there yet."""
    done = root / f".{key}-{split}"
    if done.exists() or key.startswith("cifar"):
        return
    if key == "imagenet" and split == "train":
        for place, wnid in enumerate(imagenet_names()):
            numbers = range(3 if place < 3 else 1)
            miniature.put(root / "imagenet/images/train" / wnid, *(f"{wnid}_{n}.JPEG" for n in numbers))
    else:
        miniature.write(key, "coop", root, split=split)
    done.touch()


@pytest.fixture
def here(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in, with the examples on Python's path."""
    folder = tmp_path / "here"
    folder.mkdir()
    for each in things.iterdir():
        if each.name in ("runs", "docs"):
            shutil.copytree(each, folder / each.name)
        else:
            (folder / each.name).symlink_to(each)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["lorattt"])
    monkeypatch.syspath_prepend(ROOT / "examples")
    return folder


class _Parsed(BaseException):
    """Ends a command where its arguments are understood."""


@pytest.fixture(scope="module")
def parse() -> Iterator[Parse]:
    """The configuration that a command line makes; one parser for all, as it takes longer to make than to use."""
    held: list[Any] = []

    def stop(self: LorattCLI) -> NoReturn:
        held.append(self)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LorattCLI, "before_instantiate_classes", stop)
        patch.setattr("sys.argv", ["lorattt"])
        with pytest.raises(_Parsed):
            main(["test", "-c", str(ROOT / "lightning_configs/demo/zero_shot.yaml")])
    cli = held[0]
    made = {name: getattr(cli, name) for name in ("parser", "_subcommand_parsers", "_subcommand_method_arguments")}
    make = LorattCLI.setup_parser

    def setup_parser(self: LorattCLI, add_subcommands: bool, *arguments: Any) -> None:
        if add_subcommands:
            self.__dict__.update(made)
        else:
            make(self, add_subcommands, *arguments)

    def parsed(words: list[str]) -> dict[str, Any]:
        cli.parse_arguments(cli.parser, words)
        found: dict[str, Any] = cli.config[words[0]].as_dict()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LorattCLI, "setup_parser", setup_parser)
        yield parsed


# --- what makes a command small -----------------------------------------------------------------------


def _kind(part: Any) -> str:
    return str(part["class_path"]).rpartition(".")[2]


def _small(command: str, config: dict[str, Any], datasets: Path) -> list[str]:
    """Arguments that make a command one of seconds on a CPU without any download; they come last, so they count."""
    model, data, added = config["model"]["init_args"], config["data"]["init_args"], [*CPU]
    if model["clip"]["model"] != demo.MODEL_NAME:
        added.append(f"--model.clip.model={demo.MODEL_NAME}")
        if not Path(model["clip"]["pretrained"]).exists():
            added.append("--model.clip.pretrained=demo")
    if model["clip"]["compile"]:
        added.append("--model.clip.compile=false")
    if "stage2_lr" in model:
        added.append("--model.steps=1")
    if model.get("views", {"number": 1})["number"] > 10:
        added.append("--model.views.number=10")
    if "workers" in data:
        added.append("--data.workers=0")
    kind = _kind(config["data"])
    if kind in TO_FIT_ON:
        added += ["--data.shots=1", "--data.val_shots=1", "--data.batch_size=8"]
        added += ["--data.classes=new"] if kind == "DemoSourceData" else []
        added += [f"--data.classes={FIRST_CLASSES}"] if kind == "FewShotData" else []
    elif "limit" in data:
        added.append("--data.limit=3")
    if kind in ("FewShotData", "BenchmarkData"):
        needed = ("train", "val") if kind == "FewShotData" else (data["split"],)
        for split in needed:
            if (data["dataset"], split) != ("imagenet", "val") or kind == "BenchmarkData":
                _dataset(datasets, data["dataset"], split)
    if command == "fit":
        added += ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"]
    return added


def _logs_elsewhere(config: dict[str, Any]) -> bool:
    """Whether it logs with a package that is not installed here."""
    loggers = config["trainer"]["logger"]
    try:
        for each in loggers if isinstance(loggers, list) else []:
            check_installed(each["class_path"])
    except UserError:
        return True
    return False


# --- commands by their programs -----------------------------------------------------------------------


def _run(words: list[str], here: Path, parse: Parse) -> None:
    """Run or check one command."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        assert words[0].split("=")[0] in VARIABLES, f"{words[0]}: a variable that the test does not know"
        words = words[1:]
    assert words, "nothing is run"
    assert words[0] in RUNNERS, (
        f"{words[0]}: the test does not know how to run this: teach it, or mark the block as text"
    )
    RUNNERS[words[0]](words[1:], here, parse)


def _lorattt(words: list[str], here: Path, parse: Parse, *, only_parse: bool = False) -> None:
    command = words[0]
    if command in ("test", "validate", "predict", "fit", "landscape"):
        _lightning(words, here, parse, only_parse)
    elif command == "sweep":
        _plan(words[1:])
    elif command == "report":
        less = [] if "--images" in words else ["--images", "2"]
        assert _code([*words, *less, *([] if "--plots" in words else ["--no-plots"])]) == 0
        out = Path(words[words.index("--out") + 1]) if "--out" in words else None
        assert list(here.rglob("report.json")) if out is None else (out / "report.json").exists()
    elif command == "data":
        assert _code(words) in ((0, 1) if words[1] == "check" else (0,))  # 1: not all of the datasets are there
    else:
        assert words in (["--version"], ["--help"]), f"lorattt {command}: the test does not know this command"
        assert _code(words) == 0


def _plan(words: list[str]) -> None:
    """Plan a sweep; tests/test_sweep.py runs some, and parses the command lines of those that come with the package."""
    checker = [sys.executable, "-S", "-c", "import json, sys; print(json.dumps([None] * len(json.load(sys.stdin))))"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "CHECKER", checker)
        assert sweep([*words, *([] if "--dry-run" in words else ["--dry-run"])]) == 0


def _lightning(words: list[str], here: Path, parse: Parse, only_parse: bool) -> None:
    command = words[0]
    if any(word in ("--print_config", "--help") or word.endswith(".help") for word in words):
        assert _code(words) == 0
        return
    config = parse(words if command != "landscape" else ["fit", *(w for w in words[1:] if "--landscape." not in w)])
    if only_parse or _logs_elsewhere(config):
        return
    small = _small(command, config, here / "path/to/datasets")
    if command == "landscape":
        size = ["--landscape.points=3", "--landscape.images=2", "--landscape.views=8", "--landscape.views_kept=2"]
        small = [each for each in small if not each.startswith("--model.views")] + size
    before = set(here.rglob("config.yaml"))
    assert _code([*words, *small]) == 0
    folder = config["run"]["folder"]
    if folder is None:
        (made,) = set(here.rglob("config.yaml")) - before
        folder = made.parent
    left = {"fit": "prompt.safetensors", "landscape": "landscape.json"}.get(command, "*/results.json")
    assert list(Path(folder).glob(left))


def _code(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _python(words: list[str], here: Path, parse: Parse) -> None:
    if words[0] == "-m" and words[1].startswith("lorattt"):
        _lorattt([*words[1].split(".")[1:], *words[2:]], here, parse)
    elif words[0] == "-m" and words[1].startswith(("benchmarks.", "tools.")):
        _benchmark(words[1], words[2:])
    elif words[:2] == ["-m", "pytest"]:
        _pytest(words[2:], here, parse)
    else:
        assert (ROOT / words[0]).suffix == ".py", f"python {words[0]}: the test does not know this"
        compile((ROOT / words[0]).read_text(encoding="utf-8"), words[0], "exec")
        for word in words[1:]:
            assert word.startswith("-") or list(ROOT.glob(word)), f"{word} matches nothing"


def _benchmark(module: str, arguments: list[str]) -> None:
    """Its own parser takes the arguments; tests of their own run them in small."""
    taken: list[Any] = []

    def stop(self: ArgumentParser, *given: Any) -> NoReturn:
        taken.append(original(self, *given))
        raise _Parsed

    original = ArgumentParser.parse_args
    if "--project" in arguments:
        stop = original  # it only reads a file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        program = importlib.import_module(module)
        patch.setattr(ArgumentParser, "parse_args", stop)
        try:
            program.main()
        except _Parsed:
            assert taken


def _pip(words: list[str], here: Path, parse: Parse) -> None:
    """An installation of this project, with extras that it has, or of a package that one of them is for."""
    options = {"install", "-e", "-U", "--upgrade"}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    optional = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", optional, re.M)
    packages = re.findall(r'^  "(\w+)', optional.partition("\ndev = [")[0], re.M)
    assert words[0] == "install"
    for word in words:
        if word not in options and word not in packages:
            match = re.fullmatch(r"(\.|lorattt)(?:\[([\w,]+)\])?", word)
            assert match, f"pip install {word}: not this project"
            assert set((match[2] or extras[0]).split(",")) <= set(extras), f"{word}: the extras are {extras}"


def _pytest(words: list[str], here: Path, parse: Parse) -> None:
    for word in words:
        assert word.startswith("-") or (ROOT / word.partition("::")[0]).exists(), f"pytest {word}: no such file"
    assert '"pytest' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _torchrun(words: list[str], here: Path, parse: Parse) -> None:
    launch = get_args_parser().parse_args(words)
    assert (launch.module, launch.training_script) == (True, "lorattt")
    _lorattt(launch.training_script_args, here, parse, only_parse=True)


def _srun(words: list[str], here: Path, parse: Parse) -> None:
    begin = words.index("lorattt")
    assert all(word.startswith("-") for word in words[:begin])
    _lorattt(words[begin + 1 :], here, parse, only_parse=True)


def _bracket(words: list[str], here: Path, parse: Parse) -> None:
    """The exit code of a run that was warned, in a script for SLURM."""
    assert words == ["$?", "-eq", str(128 + signal.SIGUSR1), "]"]


def _scontrol(words: list[str], here: Path, parse: Parse) -> None:
    assert words == ["requeue", "$SLURM_JOB_ID"]


def _exit(words: list[str], here: Path, parse: Parse) -> None:
    assert words == []


def _export(words: list[str], here: Path, parse: Parse) -> None:
    assert all(re.fullmatch(r"[A-Z_]+=\S+", word) and word.split("=")[0] in VARIABLES for word in words), words


def _tensorboard(words: list[str], here: Path, parse: Parse) -> None:
    """Not installed here: that it may be, and that the folder is one of runs."""
    assert "tensorboard = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert words[0] == "--logdir"
    assert list((here / words[1]).rglob("config.yaml"))


def _wandb(words: list[str], here: Path, parse: Parse) -> None:
    """Not installed here either; and it would ask the network."""
    assert "wandb = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert words[0] in ("login", "sync")


RUNNERS: dict[str, Callable[[list[str], Path, Parse], None]] = {
    "lorattt": _lorattt,
    "python": _python,
    "pip": _pip,
    "pytest": _pytest,
    "torchrun": _torchrun,
    "srun": _srun,
    "[": _bracket,
    "scontrol": _scontrol,
    "exit": _exit,
    "export": _export,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def test_programs_are_known() -> None:
    assert set(PROGRAMS) == set(RUNNERS)


# --- what the pages say -------------------------------------------------------------------------------


def _parameters(snippets: Any) -> list[Any]:
    return [pytest.param(each, id=each.where) for each in once(snippets)]


@pytest.mark.parametrize("command", _parameters(each for page in PAGES for each in commands_of(page)))
def test_command(command: Snippet, here: Path, parse: Parse) -> None:
    text = f"{command.above} {command.text}" if command.text.startswith("-") else command.text
    for words in words_of(text):
        _run(words, here, parse)


@pytest.mark.parametrize(
    "text",
    [
        "make all",
        "lorattt tets -c my.yaml",
        "lorattt test -c none.yaml",
        "lorattt test -c my.yaml --model.lora.rnk 3",
        "lorattt test -c my.yaml --trainer.devices 4 --trainer.startegy ddp",
        "lorattt test ... --trainer.devices 4",
        "lorattt report nowhere",
        "lorattt data chek",
        "lorattt sweep my.yaml",
        "torchrun --nproc-per-node 2 -m lorattt test -c none.yaml",
        "torchrun --nprocs 2 -m lorattt test -c my.yaml",
        "python -m benchmarks.episodes --imags 3",
        "python -m benchmarks.none",
        "pip install -e '.[plot]'",
        "pip install matplotlb",
        "pip install lora-ttt",
        "LORATTT_SEED=3 lorattt test -c my.yaml",
    ],
)
def test_a_wrong_command_is_found(text: str, here: Path, parse: Parse) -> None:
    with pytest.raises((Exception, SystemExit)):  # each kind of command fails in its own way
        for words in words_of(text):
            _run(words, here, parse)


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_commands_of_a_configuration(path: Path, here: Path, parse: Parse) -> None:
    """Those in its header; that it can be parsed itself is known from tests/test_configs.py."""
    for command in header_commands(path):
        for words in words_of(command.text):
            try:
                if words[0] == "lorattt" and words[1] not in ("report", "sweep"):
                    _lorattt(words[1:], here, parse, only_parse=True)
                elif words[:2] != ["lorattt", "report"]:
                    _run(words, here, parse)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{command.where}: {command.text}") from error


@pytest.mark.parametrize("block", _parameters(each for page in PAGES for each in blocks_of(page, "python")))
def test_program(block: Snippet, here: Path) -> None:
    text = block.text.replace("ViT-B-16-quickgelu", demo.MODEL_NAME).replace("openai", "demo")
    kept = dict(catalogue.BENCHMARKS)  # to which a page may add
    try:
        exec(compile(text, block.where, "exec"), {"__name__": "snippet"})
    finally:
        catalogue.BENCHMARKS.clear()
        catalogue.BENCHMARKS.update(kept)


@pytest.mark.parametrize("block", _parameters(each for page in PAGES for each in blocks_of(page, "yaml")))
def test_configuration(block: Snippet, here: Path, parse: Parse) -> None:
    """A whole one runs, a part of one is parsed beside what it lacks, and a sweep is planned."""
    found = yaml.safe_load(block.text)
    Path("block.yaml").write_text(block.text, encoding="utf-8")
    if "methods" in found:
        _plan(["block.yaml"])
        return
    assert set(found) <= {"model", "data", "trainer", "run", "seed_everything"}, f"{block.where}: of no kind we know"
    words = ["-c", "lightning_configs/demo/zero_shot.yaml", "-c", "block.yaml"]
    kinds = [found[part]["class_path"] for part in ("model", "data") if "class_path" in found.get(part, {})]
    fits = any(kind in (*TO_FIT_ON, "CoOp", "SAPT", "SelfTPTTraining") for kind in kinds)
    _lightning(["fit" if fits else "test", *words], here, parse, only_parse={"model", "data"} - set(found) != set())


def test_examples_are_those_of_the_pages() -> None:
    """A page that shows a file of ``examples`` shows it as it is."""
    shown = {block.text for page in PAGES for block in blocks_of(page, "python", "yaml")}
    files = [path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".yaml")]
    assert files
    for path in files:
        assert path.read_text(encoding="utf-8") in shown, f"no page shows {name_of(path)} as it is"


# --- docs/configs.md ----------------------------------------------------------------------------------


def _key_table(page: Path) -> list[tuple[str, str]]:
    """Key and default of each row of the first table whose rows begin with a key."""
    rows = re.findall(r"^\| `([\w.]+)` \| `?([\w-]+)`? \|", page.read_text(encoding="utf-8"), re.M)
    return [(key, default) for key, default in rows if "." in key or key == "seed_everything"][:10]


def test_the_ten_keys(here: Path, parse: Parse) -> None:
    """The same in README and docs/configs.md, with the defaults that they say."""
    keys = _key_table(ROOT / "README.md")
    assert len(keys) == 10
    assert _key_table(ROOT / "docs" / "configs.md") == keys
    config = parse(["test", "--model", "LoRATTT", "--data", "ImageFolderData", "--data.root", "path/to/images"])
    for key, default in keys:
        found: Any = config
        for part in key.split("."):
            found = found[part]
            found = found["init_args"] if part in ("model", "data") and "init_args" in found else found
        told = {"all": None}.get(default, yaml.safe_load(default))
        assert found == told, key


def test_every_configuration_is_named() -> None:
    text = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
    for path in CONFIGS:
        if path.parent.name not in ("demo", "experiments"):  # a file for each method; a file for each control
            assert f"`{path.stem}`" in text, f"docs/configs.md does not name {name_of(path)}"


def test_the_methods_that_can_be_named() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    listed = re.search(r"`method` is one of (.*?), or the name of its class", text, re.DOTALL)
    assert listed
    assert re.findall(r"`(\w+)`", listed[1]) == list(METHODS)


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {token.attrGet("href") for token, _ in tokens_of(index)}
    for page in (ROOT / "docs").glob("*.md"):
        assert page == index or page.name in linked, f"docs/README.md does not link to {page.name}"
