"""Shared by all tests: the command line in process, small models, a folder of images.

- ``cli(*args)`` runs ``lorattt ARGS`` in an empty folder and returns a :class:`Run`.
- ``small_models`` registers ``small-vit`` and ``small-rn`` with open_clip, random weights (``pretrained: null``).
- ``clip`` is a CLIP with small towers, random weights, in double precision, one for each file of tests.
- ``images`` is a folder ``<root>/{cat,dog}/{0,1,2}.png``.
- Torch runs on one thread: the models are so small that more only wait for each other.
- ``DEMO`` and ``LORA`` are arguments for a run of seconds; later arguments override them.
"""

import csv
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorattt.__main__ import main
from lorattt.clip.model import Clip
from tiny_models import add_models, tiny_clip, wrapped

torch.set_num_threads(1)
# Pytest shows deprecations, which the command line does not; jsonargparse's would come once a process, in whichever
# test is the first to build a parser.
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
_MODELS = {
    "small-vit": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "small-rn": {"image_size": 32, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1], "head_width": 8},
}
CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
DEMO = ["--data", "DemoData", "--data.images", "6", "--data.batch_size", "4", "--data.workers", "0", *CPU]
LORA = ["--model", "LoRATTT", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
LORA += ["--model.views.number", "10"]
ZERO = ["--model", "ZeroShot", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]


def only_method(folder: Path) -> Path:
    """The folder of a run's only method."""
    (file,) = folder.glob("*/predictions.csv")
    return file.parent


@dataclass(frozen=True)
class Run:
    """What a command did: exit code, screen, and the folder it ran in."""

    code: int
    out: str
    err: str
    cwd: Path

    @property
    def folder(self) -> Path:
        """The newest run's folder; fails where there is none."""
        return max((path.parent for path in self.cwd.rglob("config.yaml")), key=lambda path: path.stat().st_mtime_ns)

    @property
    def method_folder(self) -> Path:
        """The folder of the newest run's only method."""
        return only_method(self.folder)

    def refused(self, *parts: str) -> None:
        """Fails unless the command ended with the one line of a user's mistake, with all of these parts."""
        assert self.code == 2, self.out
        assert self.err.startswith("lorattt: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        for part in parts:
            assert part in self.err

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.method_folder / "results.json").read_text(encoding="utf-8"))
        return found

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.method_folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


Cli = Callable[..., Run]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setattr("sys.argv", ["lorattt"])  # Lightning warns where pytest's own arguments are seen

    def run(*args: str) -> Run:
        capsys.readouterr()
        code = 0
        try:
            main(list(args))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err, cwd)

    return run


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    configs = {name: {"embed_dim": 16, "vision_cfg": vision, "text_cfg": _TEXT} for name, vision in _MODELS.items()}
    add_models(tmp_path_factory.mktemp("models"), configs)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return wrapped(tiny_clip())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            pixels = noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
