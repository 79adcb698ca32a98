"""``lorattt predict`` on a user's own images: what it leaves behind, and every mistake."""

import csv
import json
import math
import os
import shlex
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from conftest import CPU, DEMO, LORA, ZERO, Cli, Run
from lorattt import demo
from lorattt.callbacks.base import method_name, methods_of
from lorattt.callbacks.merge import COLUMNS
from lorattt.callbacks.predictions import PredictionsWriter, top_classes
from lorattt.callbacks.run_folder import RunFolder
from lorattt.errors import UserError
from test_bad_input import refusal

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", "--model.views.number", "10"]
NAMES = ["red circle", "blue square", "green star"]


@pytest.fixture
def photos(cli: Cli) -> Path:
    """Folder ``photos`` where the command runs: six drawn images."""
    folder = Path("photos")
    folder.mkdir()
    for number in range(6):
        demo.draw(number, domain="contrast", severity=3, split="test")[0].save(folder / f"{number}.jpg", quality=95)
    return folder


def predict(*args: str, names: list[str] = NAMES, images: str = "photos/*.jpg") -> list[str]:
    data = ["--data", "ImagesData", "--data.images", images, "--data.class_names", json.dumps(names)]
    return ["predict", *LORA, *data, "--data.workers", "0", *CPU, *args]


def lines_of(run: Run) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run.method_folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def skipped_of(run: Run) -> list[dict[str, str]]:
    with (run.folder / "skipped.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what a run leaves ------------------------------------------------------------------------------


def test_lines_and_rows_say_the_same(cli: Cli, photos: Path) -> None:
    run = cli(*predict("--run.top_k", "2", "--data.batch_size", "4"))
    assert run.code == 0, run.err
    assert run.folder == run.cwd / "runs" / "lora_ttt" / "images" / "000"
    assert {path.name for path in run.folder.iterdir()} == {"config.yaml", "lora_ttt", "metrics.csv"}
    left = {"results.json", "predictions.csv", "predictions.jsonl"}
    assert {path.name for path in (run.folder / "lora_ttt").iterdir()} == left
    lines = lines_of(run)
    assert tuple(run.rows[0]) == COLUMNS
    assert (
        [line["path"] for line in lines] == [row["path"] for row in run.rows] == [f"photos/{i}.jpg" for i in range(6)]
    )
    for number, (line, row) in enumerate(zip(lines, run.rows, strict=True)):
        assert set(line) == {"index", "path", "label", "before", "after", "fallback"}
        assert (line["index"], row["index"]) == (number, str(number))
        assert (line["label"], row["label"], line["fallback"]) == (None, "", False)
        for when in ("before", "after"):
            assert [set(entry) for entry in line[when]] == [{"class", "label", "probability"}] * 2
            first, second = line[when]
            assert str(first["label"]) == row[f"prediction_{when}"]
            assert first["class"] == row[f"name_{when}"] == NAMES[first["label"]]
            assert f"{first['probability']:.6f}" == row[f"confidence_{when}"]
            assert first["probability"] >= second["probability"]
    assert any(line["before"] != line["after"] for line in lines)


def test_all_classes_where_there_are_fewer_than_asked_for(cli: Cli, photos: Path) -> None:
    """And the screen, without labels."""
    run = cli(*predict("--data.batch_size", "2"))
    assert "3/3" in run.out
    assert "top-1" not in run.out
    assert "lora_ttt on images, lorattt-demo, 6 images" in run.out
    assert run.err == ""
    for line in lines_of(run):
        for when in ("before", "after"):
            assert sorted(entry["class"] for entry in line[when]) == sorted(NAMES)
            assert sum(entry["probability"] for entry in line[when]) == pytest.approx(1, abs=1e-5)


def test_lines_of_a_test_have_labels(cli: Cli) -> None:
    run = cli("test", *ZERO, *DEMO)
    assert run.code == 0, run.err
    lines = lines_of(run)
    assert [str(line["label"]) for line in lines] == [row["label"] for row in run.rows]
    assert all(len(line["after"]) == 5 for line in lines)
    in_first_five = [line["label"] in [entry["label"] for entry in line["after"]] for line in lines]
    assert run.results["top5_after"] == pytest.approx(sum(in_first_five) / 6)
    assert [row["name_after"] for row in run.rows] == [
        demo.CLASS_NAMES[int(row["prediction_after"])] for row in run.rows
    ]


def test_the_documented_command_replaces_the_demos_own_data(cli: Cli, photos: Path) -> None:
    """The configuration has ``images: 160`` for its own data: a number, where this data takes paths."""
    config = str(REPOSITORY / "lightning_configs" / "demo" / "lora_ttt.yaml")
    data = ["--data", "ImagesData", "--data.images", "photos/*.jpg", "--data.class_names", "[cat, dog]"]
    run = cli("predict", "-c", config, *data, "--model.views.number", "10", *CPU)
    assert run.code == 0, run.err
    assert (run.results["n"], run.results["dataset"]) == (6, "images")
    shown = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    assert shown["data"]["class_path"] == "lorattt.data.loose.ImagesData"
    assert shown["data"]["init_args"]["images"] == "photos/*.jpg"


@pytest.mark.parametrize("config", ["demo/predict.yaml", "data/images.yaml"])
def test_commands_of_the_configurations(config: str, cli: Cli, photos: Path) -> None:
    """The first command of the header, as it is written, with a small model."""
    path = REPOSITORY / "lightning_configs" / config
    header = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    start = next(number for number, line in enumerate(header) if line.startswith("lorattt "))
    run = cli(*_words("\n".join(header[start : start + 2])), *SMALL, *CPU)
    assert run.code == 0, run.err
    assert run.results["n"] == 6


def test_the_command_of_the_readme(cli: Cli, photos: Path) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    command = next(block for block in text.split("```") if "lorattt predict" in block)
    run = cli(*_words(command), *SMALL, *CPU)
    assert run.code == 0, run.err
    assert run.results["n"] == 6


def _words(command: str) -> list[str]:
    """A command of the documentation as arguments, with its files where they are."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "lorattt"
    return [str(REPOSITORY / word) if word.startswith("lightning_configs/") else word for word in words[1:]]


@pytest.mark.parametrize(("images", "order"), [("photos", "012345"), ("[photos/3.jpg, '@list.txt']", "350")])
def test_folders_and_lists(images: str, order: str, cli: Cli, photos: Path) -> None:
    Path("list.txt").write_text("photos/5.jpg\nphotos/0.jpg\nphotos/3.jpg\n", encoding="utf-8")
    run = cli(*predict(images=images))
    assert run.code == 0, run.err
    assert [row["path"] for row in run.rows] == [f"photos/{number}.jpg" for number in order]


def test_a_names_bytes_need_not_be_utf_8(cli: Cli, photos: Path) -> None:
    odd = photos / os.fsdecode(b"caf\xe9.jpg")
    try:
        (photos / "0.jpg").rename(odd)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    (photos / "1.jpg").rename(photos / "çé.jpg")
    run = cli(*predict())
    assert run.code == 0, run.err
    assert {"photos/caf\\udce9.jpg", "photos/çé.jpg"} < {row["path"] for row in run.rows}
    assert {str(odd), "photos/çé.jpg"} < {line["path"] for line in lines_of(run)}


# --- mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "names", "args", "parts"),
    [
        ("photos/9.jpg", NAMES, [], ["data.images 'photos/9.jpg'", "no such file or folder"]),
        ("photos/*.png", NAMES, [], ["data.images 'photos/*.png' matches no file", "check the pattern"]),
        ("photos", ["cat", "dog", "cat"], [], ["data.class_names has 'cat' more than once"]),
        ("photos", NAMES, ["--data.class_names", "cat"], ["data.class_names 'cat'", "a list such as '[cat, dog]'"]),
        ("photos", NAMES, ["--data.max_pixels", "0"], ["data.max_pixels 0: must be from 1"]),
        ("photos", NAMES, ["--run.top_k", "0"], ["run.top_k 0: must be at least 1"]),
    ],
)
def test_a_mistake_is_one_line(
    images: str, names: list[str], args: list[str], parts: list[str], cli: Cli, photos: Path
) -> None:
    line = refusal(cli(*predict(*args, names=names, images=images)))
    assert all(part in line for part in parts), line


def test_images_alone_cannot_be_tested(cli: Cli, photos: Path) -> None:
    line = refusal(cli(*["test", *predict()[1:]]))
    assert "so no labels to test against" in line


def _half(path: Path) -> str:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return "truncated"


def _text(path: Path) -> str:
    path.write_text("not an image, but a text", encoding="utf-8")
    return "it is no image of a known format"


def _broken_link(path: Path) -> str:
    path.unlink()
    path.symlink_to("nowhere.jpg")
    return "No such file or directory"


def _large(path: Path) -> str:
    """A PNG header of 20,000 x 20,000 pixels: they are not needed to refuse it."""
    Image.new("1", (8, 8)).save(path, "PNG")
    fields = b"IHDR" + struct.pack(">II", 20_000, 20_000) + path.read_bytes()[24:29]
    path.write_bytes(path.read_bytes()[:12] + fields + struct.pack(">I", zlib.crc32(fields)) + path.read_bytes()[33:])
    return "it has 20000 x 20000 pixels, more than data.max_pixels 100000000: make it smaller or raise that limit"


SPOILT = {"half": _half, "text": _text, "link": _broken_link, "large": _large}


@pytest.mark.parametrize("kind", SPOILT)
def test_an_image_that_cannot_be_read_ends_the_run_if_asked_to(kind: str, cli: Cli, photos: Path) -> None:
    reason = SPOILT[kind](photos / "2.jpg")
    line = refusal(cli(*predict("--data.on_bad_image", "error", "--data.batch_size", "2")))
    assert line.startswith("lorattt: error: cannot read image photos/2.jpg (")
    assert reason in line
    assert "data.on_bad_image to skip" in line


def test_images_that_cannot_be_read_are_left_out_and_listed(cli: Cli, photos: Path) -> None:
    reasons = {str(number): spoil(photos / f"{number}.jpg") for number, spoil in enumerate(SPOILT.values(), 1)}
    run = cli(*predict("--data.batch_size", "1"))
    assert run.code == 0, run.err
    assert [row["path"] for row in run.rows] == ["photos/0.jpg", "photos/5.jpg"]
    assert [line["index"] for line in lines_of(run)] == [0, 5]
    assert (run.results["n"], run.results["skipped"]) == (2, 4)
    bad = skipped_of(run)
    assert [(row["index"], row["path"]) for row in bad] == [(number, f"photos/{number}.jpg") for number in reasons]
    assert all(reasons[row["index"]] in row["reason"] for row in bad)
    assert "4 images could not be read" in run.out


def test_nothing_but_unreadable_images(cli: Cli, photos: Path) -> None:
    for path in photos.iterdir():
        _text(path)
    run = cli(*predict("--data.batch_size", "4"))
    assert run.code == 0, run.err
    assert (run.results["n"], run.results["skipped"], run.rows, lines_of(run)) == (0, 6, [], [])
    assert len(skipped_of(run)) == 6


# --- the writer alone -------------------------------------------------------------------------------


def outputs(indices: list[int], logits: list[list[float]]) -> dict[str, Any]:
    answer = {
        "before": torch.tensor(logits).flip(-1),
        "after": torch.tensor(logits),
        "fallback": torch.tensor([index == 1 for index in indices]),
    }
    return {
        "index": torch.tensor(indices, dtype=torch.long),
        "label": torch.tensor([2 if index == 3 else -1 for index in indices]),
        "path": [f'{index} "x",\n\u2028é.png' for index in indices],
        "skipped": [],
        "methods": {"mine": answer},
    }


def test_two_devices_and_what_stands_before_they_end(tmp_path: Path) -> None:
    module = SimpleNamespace(name="mine", class_names=["a", "b", "ç"])
    folder = RunFolder(top_k=2)
    folder.path = tmp_path
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), reduce=lambda counts, reduce_op: counts, broadcast=lambda problem: problem
    )
    writers = []
    for rank, batches in (
        (1, [([5], [[0.0, 0.0, 0.0]]), ([1], [[1.0, 2.0, 3.0]])]),
        (0, [([3, 0], [[3.0, 1.0, 2.0]] * 2)]),
    ):
        trainer: Any = SimpleNamespace(
            callbacks=[folder], global_rank=rank, world_size=2, is_global_zero=rank == 0, strategy=strategy
        )
        writer = PredictionsWriter()
        writer.on_run_start(trainer, module)
        for number, (indices, logits) in enumerate(batches, 1):
            writer.on_batch_end(outputs(indices, logits))
            # Flushed every batch: a run that dies leaves its lines.
            part = (tmp_path / f"journal.rank{rank}.jsonl").read_text(encoding="utf-8").split("\n")
            assert len(part) - 1 == number
        writers.append((writer, trainer))
    for writer, trainer in writers:
        writer.on_run_end(trainer, module)
        assert (tmp_path / "journal.rank0.jsonl").exists()  # until all files of the run are written
    for writer, trainer in writers:
        writer.teardown(trainer, Any, "predict")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"predictions.csv", "predictions.jsonl"}
    text = (tmp_path / "mine" / "predictions.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [line["index"] for line in lines] == [0, 1, 3, 5]
    assert [line["path"] for line in lines] == outputs([0, 1, 3, 5], [[0.0]])["path"]
    assert [line["label"] for line in lines] == [None, None, 2, None]
    assert [line["fallback"] for line in lines] == [False, True, False, False]
    assert [[entry["class"] for entry in line["after"]] for line in lines] == [
        ["a", "ç"],
        ["ç", "b"],
        ["a", "ç"],
        ["a", "b"],  # equal: the smaller number first
    ]
    assert lines[1]["before"][0]["label"] == 0
    assert lines[1]["after"][0]["probability"] == pytest.approx(1 / (1 + math.exp(-1) + math.exp(-2)), abs=1e-6)


def test_the_most_probable_classes_by_plain_python() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    logits[1, 5] = logits[1, 2] = 9.0
    for k in (1, 3, 7, 50):
        for row, ranked in zip(logits.tolist(), top_classes(logits, k), strict=True):
            total = sum(math.exp(x) for x in row)
            order = sorted(range(7), key=lambda label: (-row[label], label))[:k]
            assert [label for label, _ in ranked] == order
            assert [p for _, p in ranked] == pytest.approx([math.exp(row[label]) / total for label in order])


def test_logits_that_are_no_numbers_name_no_class(tmp_path: Path) -> None:
    strategy = SimpleNamespace(
        root_device=torch.device("cpu"), reduce=lambda counts, reduce_op: counts, broadcast=lambda problem: problem
    )
    trainer: Any = SimpleNamespace(
        callbacks=[], default_root_dir=str(tmp_path), global_rank=0, is_global_zero=True, strategy=strategy
    )
    writer, module = PredictionsWriter(), SimpleNamespace(name="mine", class_names=["a", "b"])
    writer.on_run_start(trainer, module)
    writer.on_batch_end(outputs([0], [[float("nan")] * 2]))
    part = (tmp_path / "journal.rank0.jsonl").read_text(encoding="utf-8")
    (line,) = json.loads(part)
    after = line["answers"]["mine"]["after"]
    assert (math.isnan(after["entropy"]), after["top"]) == (True, [])
    writer.on_run_end(trainer, module)
    text = (tmp_path / "mine" / "predictions.jsonl").read_text(encoding="utf-8")
    line = json.loads(text, parse_constant=pytest.fail)
    assert (line["before"], line["after"]) == ([], [])
    with (tmp_path / "mine" / "predictions.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    for when in ("before", "after"):
        assert [row[f"{key}_{when}"] for key in ("prediction", "name", "confidence", "entropy")] == [
            "",
            "",
            "nan",
            "nan",
        ]
    assert writer.totals.not_finite == {"mine": 1}


def test_the_name_of_a_methods_folder() -> None:
    class TPTOfMine2:
        pass

    assert method_name(SimpleNamespace(name="my method/2")) == "my-method-2"
    assert method_name(TPTOfMine2()) == "tpt_of_mine2"
    assert list(methods_of(TPTOfMine2())) == ["tpt_of_mine2"]


def test_top_k_must_leave_something() -> None:
    with pytest.raises(UserError, match=r"^run\.top_k 0: must be at least 1$"):
        RunFolder(top_k=0)
