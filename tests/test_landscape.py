"""The landscape's numbers against plain loops, and what the command writes and refuses."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import Tensor

from conftest import CPU, Cli
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.landscape import LandscapeSpec, axes, landscape, summarise
from lorattt.prompts.class_prompts import ClassPrompts, neighbour_features
from lorattt.report.landscape import Panel, draw_landscape

NAMES = ["red circle", "blue star", "a large green square"]
SPEC = LandscapeSpec(images=2, views=8, views_kept=3, radius=4.5, points=5, rho=2.5)
SCALE = torch.tensor(4.0)
CLIP = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
SMALL = ["--landscape.images", "3", "--landscape.views", "6", "--landscape.views_kept", "2", "--landscape.points", "3"]
SOURCE = ["--data", "DemoSourceData", "--data.shots", "1", "--data.val_shots", "0", "--data.classes", "new", *CPU]
FIT = ["landscape", "--model", "SAPT", *CLIP, "--model.crop.scale", "[0.5, 1.0]", *SOURCE, *SMALL]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(ClipSpec("lorattt-demo", "demo"))


def _unit(*shape: int, seed: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn.float(), dim=-1)


def _entropy(logits: list[float]) -> float:
    total = math.fsum(math.exp(value) for value in logits)
    return -math.fsum(math.exp(value) / total * (value - math.log(total)) for value in logits)


@pytest.mark.parametrize("class_specific", [False, True])
def test_the_grid_equals_a_plain_loop(clip: Clip, class_specific: bool) -> None:
    prompts = ClassPrompts(clip, NAMES, "end", 4, class_specific=class_specific)
    words = clip.model.token_embedding(clip.tokenizer(["a photo of a"]))[0, 1:5].detach()
    context = words.expand(3, -1, -1).clone() if class_specific else words
    # Near the texts, so that entropies are neither 0 nor those of chance.
    text = prompts.features(context)
    views = F.normalize(text[torch.arange(16) % 3].view(2, 8, -1) + 2 * _unit(2, 8, 128, seed=1), dim=-1)
    labels = torch.tensor([0, 2])
    found = landscape(prompts, context, views, SCALE, SPEC, images=views[:, 0], labels=labels, seed=3)
    assert found.loss is not None
    bank = neighbour_features(prompts, context, directions=10, radius=2.5, seed=3)
    scale, keep = float(SCALE), []
    for image in range(2):
        worst = [max(_entropy((scale * view @ t.T).tolist()) for t in bank) for view in views[image]]
        order = sorted(range(8), key=lambda number, worst=worst: worst[number])
        keep.append(set(order[:3]))
    u, v = axes(context, 3)
    coordinates = [-4.5, -2.25, 0.0, 2.25, 4.5]
    assert pytest.approx(coordinates) == SPEC.coordinates
    for i, a in enumerate(coordinates):
        for j, b in enumerate(coordinates):
            text = prompts.features(context + (a * u + b * v).float())
            losses, kept, dropped = [], [], []
            for image in range(2):
                logits = (scale * views[image] @ text.T).tolist()
                top = logits[0]
                losses.append(math.log(math.fsum(map(math.exp, top))) - top[int(labels[image])])
                for number, row in enumerate(logits):
                    (kept if number in keep[image] else dropped).append(_entropy(row))
            assert float(found.loss[i, j]) == pytest.approx(np.mean(losses), abs=1e-4)
            assert float(found.kept[i, j]) == pytest.approx(np.mean(kept), abs=1e-4)
            assert float(found.dropped[i, j]) == pytest.approx(np.mean(dropped), abs=1e-4)
    assert float(found.loss.max() - found.loss.min()) > 1e-3
    assert float(found.kept[2, 2]) < float(found.dropped[2, 2])
    without = landscape(prompts, context, views, SCALE, SPEC, seed=3)
    assert without.loss is None
    assert torch.equal(without.kept, found.kept)


def test_directions_are_orthonormal_and_not_those_of_the_ranking() -> None:
    context = torch.zeros(4, 16)
    found = axes(context, 0).flatten(1)
    assert torch.allclose(found @ found.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert torch.equal(axes(torch.zeros(7, 4, 16), 0).flatten(1), found)
    assert not torch.allclose(axes(context, 1).flatten(1), found)


def test_summary_by_hand() -> None:
    """Of 5 x 5 places 2.25 apart, those at most 2.5 away are the middle and its four neighbours."""
    values = torch.arange(25.0).view(5, 5)
    expected = {"at_prompt": 12.0, "worst_within_rho": 17.0, "increase": 5.0}
    assert summarise(values, SPEC) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "landscape.images 0"),
        ({"views_kept": 64}, "landscape.views_kept 64 of 64 views"),
        ({"radius": 0.0}, "landscape.radius 0.0"),
        ({"radius": float("nan")}, "landscape.radius nan"),
        ({"points": 20}, "landscape.points 20: must be odd"),
        ({"rho": 2.0}, "landscape.rho 2.0: must be from 0 to landscape.radius, 1.0"),
    ],
)
def test_refuses_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LandscapeSpec(**options)


def test_the_command_writes_picture_and_numbers(cli: Cli) -> None:
    run = cli(*FIT, "--seed_everything", "5")
    assert run.code == 0, run.err
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "landscape.png", "landscape.json"}
    assert run.folder.relative_to(run.cwd).as_posix() == "runs/sapt/demo-source-new-1-shot/000"
    with Image.open(run.folder / "landscape.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * picture.height
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 100
    numbers = json.loads((run.folder / "landscape.json").read_text())
    titles = ["cross-entropy of training crops", "entropy of the 2 kept views", "entropy of the 4 dropped views"]
    assert list(numbers["grids"]) == titles
    assert (numbers["seed"], numbers["images"], numbers["prompt"]) == (5, 3, "a photo of a")
    for title, grid in numbers["grids"].items():
        assert np.asarray(grid).shape == (3, 3)
        assert grid[1][1] == numbers["summary"][title]["at_prompt"]
        assert f"{grid[1][1]:.4f}" in run.out
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["landscape"]["points"] == 3


def test_a_method_and_test_images(cli: Cli) -> None:
    """Plain views in place of training crops; the same configuration is that of test."""
    demo = ["--data", "DemoData", "--data.images", "4", "--data.domain", "blur", *CPU]
    run = cli("landscape", "--model", "TLLA", *CLIP, *demo, *SMALL)
    assert run.code == 0, run.err
    grids = json.loads((run.folder / "landscape.json").read_text())["grids"]
    assert "cross-entropy of plain views" in grids
    assert len(grids) == 3


def test_images_without_labels_have_no_loss(cli: Cli, images: Path) -> None:
    given = ["--data", "ImagesData", "--data.images", str(images / "cat"), "--data.class_names", "[red circle, star]"]
    run = cli("landscape", "--model", "TPT", *CLIP, *given, "--data.workers", "0", *CPU, *SMALL)
    assert run.code == 0, run.err
    assert list(json.loads((run.folder / "landscape.json").read_text())["grids"]) == [
        "entropy of the 2 kept views",
        "entropy of the 4 dropped views",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*FIT, "--landscape.points", "4"], "landscape.points 4: must be odd"),
        ([*FIT, "--model.prompt.file", "gone.safetensors"], "gone.safetensors: no such file"),
        ([*FIT, "--model.templates", "single"], "templates: no such key"),
        (["landscape", "--model", "MTA", *CLIP, "--model.templates", "openai-7", *SOURCE], "have no vectors to move"),
        (["landscape", "--model", "lightning.pytorch.demos.boring_classes.BoringModel", *SOURCE], "it has no prompt"),
        ([*FIT, "--model.class_names", "[a, b]"], "model.class_names has 2 names, the data has 16 classes"),
        ([*FIT, "--run.folder", "taken"], "taken"),
    ],
)
def test_one_clear_line(args: list[str], message: str, cli: Cli) -> None:
    Path("taken").mkdir()
    Path("taken", "results.json").write_text("{}")
    run = cli(*args)
    run.refused(message)


def test_without_matplotlib_there_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = cli(*FIT)
    assert (run.code, run.err.count("\n")) == (2, 1)
    assert "need it: pip install matplotlib" in run.err
    assert not list(run.cwd.rglob("config.yaml"))


def test_its_help_names_it(cli: Cli) -> None:
    run = cli("landscape", "--help")
    assert run.code == 0
    assert run.out.startswith("usage: lorattt landscape ")
    assert "--landscape.points" in run.out
    assert "lorattt landscape" in " ".join(cli("--help").out.split())


def test_a_flat_landscape_is_drawn(tmp_path: Path) -> None:
    flat = [Panel("flat", "nats", [[0.5] * 3] * 3)]
    draw_landscape(flat, [-1.0, 0.0, 1.0], tmp_path / "flat.png", title="nothing", rho=0.0)
    with Image.open(tmp_path / "flat.png") as picture:
        assert picture.width > 300


def test_the_first_direction_is_horizontal(tmp_path: Path) -> None:
    """Values that rise along the first direction alone: the picture is brighter at the right, not at the top."""
    rising = [[float(i)] * 5 for i in range(5)]
    draw_landscape([Panel("rising", "nats", rising)], [-1, -0.5, 0, 0.5, 1], tmp_path / "r.png", title="", rho=0.0)
    with Image.open(tmp_path / "r.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    middle = pixels[pixels.shape[0] // 2 + 25]  # beside the mark
    yellow = np.flatnonzero((middle[:, 0] > 200) & (middle[:, 1] > 200) & (middle[:, 2] < 90))
    violet = np.flatnonzero((abs(middle - [68, 1, 84]) < 25).all(1))
    assert violet.min() < yellow.min()
