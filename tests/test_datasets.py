"""Benchmarks through the command line: a run, what it leaves, ``lorattt data``, and every mistake in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import CPU, LORA, ZERO, Cli, Run
from data.miniature import SPLIT_FILES, write
from test_bad_input import refusal

DATA = ["--data", "BenchmarkData", "--data.workers", "0", "--data.batch_size", "4"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write("eurosat", "coop", tmp_path / "datasets")
    return tmp_path / "datasets"


def args(root: Path, *more: str, dataset: str = "eurosat") -> list[str]:
    return [*DATA, "--data.dataset", dataset, "--data.data_root", str(root), *CPU, *more]


def test_a_benchmark_runs_and_uses_its_own_prompt(cli: Cli, root: Path) -> None:
    run = cli("test", *ZERO, *args(root, "--model.templates", "dataset"))
    assert run.code == 0, run.err
    assert (run.results["dataset"], run.results["n"], run.results["corruption"]) == ("eurosat", 10, None)
    assert [int(row["label"]) for row in run.rows] == list(range(10))[::-1]
    assert not (run.folder / "images.tsv").exists()
    text = [entry["before"][0]["probability"] for entry in lines(run)]
    single = cli("test", *ZERO, *args(root))
    assert text != [entry["before"][0]["probability"] for entry in lines(single)]
    same = cli("test", *ZERO, *args(root, "--model.templates", "['a centered satellite photo of {}.']"))
    assert text == [entry["before"][0]["probability"] for entry in lines(same)]


def lines(run: Run) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run.method_folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_a_draw_is_kept_and_repeated(cli: Cli, root: Path) -> None:
    drawn = cli("test", *ZERO, *args(root, "--data.shots", "1", "--data.classes", "new"))
    assert drawn.code == 0, drawn.err
    listed = drawn.folder / "images.tsv"
    assert listed.is_file()
    again = cli("test", *ZERO, *args(root, "--data.items", str(listed), "--data.classes", "new"))
    assert again.code == 0, again.err
    assert again.rows == drawn.rows
    assert len(again.rows) == 5


def test_corruption_errors_of_runs(cli: Cli, root: Path) -> None:
    for severity in (1, 2):
        run = cli(
            "test",
            *ZERO,
            *args(root, "--data.corruption.name", "pixelate", "--data.corruption.severity", str(severity)),
        )
        assert run.code == 0, run.err
        assert run.results["corruption"] == {"name": "pixelate", "severity": severity, "of": "eurosat"}
    report = cli("report", "runs")
    assert report.code == 0, report.err
    assert "pixelate" in report.out
    assert "severity 1, 2" in report.out


def test_check_through_the_command_line(cli: Cli, root: Path) -> None:
    run = cli("data", "check", "--data_root", str(root), "--datasets", "eurosat", "dtd", "--json")
    assert run.code == 1
    assert [(row["dataset"], row["state"]) for row in json.loads(run.out)] == [
        ("eurosat", "incomplete"),
        ("dtd", "missing"),
    ]


def _json(root: Path) -> Path:
    return root / "eurosat" / SPLIT_FILES["eurosat"]


def _without_split_file(root: Path) -> None:
    _json(root).unlink()


def _broken_json(root: Path) -> None:
    _json(root).write_text(_json(root).read_text()[:-5])


def _outside(root: Path) -> None:
    content = json.loads(_json(root).read_text())
    content["test"][3][0] = "../../secret.jpg"
    _json(root).write_text(json.dumps(content))


def _too_few_classes(root: Path) -> None:
    content = json.loads(_json(root).read_text())
    _json(root).write_text(json.dumps({key: [item for item in part if item[1] < 9] for key, part in content.items()}))


def _half_an_image(root: Path) -> None:
    picture = root / "eurosat" / "2750" / "River" / "River_3.jpg"
    picture.write_bytes(picture.read_bytes()[:200])


def _text_as_image(root: Path) -> None:
    (root / "eurosat" / "2750" / "River" / "River_3.jpg").write_text("no picture")


def _broken_link(root: Path) -> None:
    picture = root / "eurosat" / "2750" / "River" / "River_3.jpg"
    picture.unlink()
    picture.symlink_to(root / "nowhere.jpg")


def _no_images(root: Path) -> None:
    shutil.rmtree(root / "eurosat" / "2750")


BROKEN = {
    "split file": (_without_split_file, [], ["split_zhou_EuroSAT.json"]),
    "JSON": (_broken_json, [], ["split_zhou_EuroSAT.json", "JSON"]),
    "path": (_outside, [], ["../../secret.jpg", "split_zhou_EuroSAT.json"]),
    "classes": (_too_few_classes, [], ["9 classes", "10"]),
    "half an image": (_half_an_image, [], ["River/River_3.jpg", "on_bad_image"]),
    "text as image": (_text_as_image, [], ["River/River_3.jpg", "no image of a known format"]),
    "broken link": (_broken_link, [], ["River/River_3.jpg", "No such file"]),
    "no images": (_no_images, [], ["eurosat", "no images"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_one_line(case: str, cli: Cli, root: Path) -> None:
    damage, more, parts = BROKEN[case]
    damage(root)
    line = refusal_or_partial(cli("test", *ZERO, *args(root, *more)))
    for part in parts:
        assert part in line


def refusal_or_partial(run: Run) -> str:
    """As of ``refusal``, but images before the bad one may have been written."""
    for written in run.cwd.rglob("predictions.csv"):
        raise AssertionError(f"{written} looks like a finished run")
    errors = [line for line in run.err.splitlines() if line.startswith("lorattt: error: ")]
    assert run.code == 2, run.err
    assert len(errors) == 1, run.err
    assert "Traceback" not in run.err
    return errors[0]


VALUES = {
    "dataset": (["--data.dataset", "eurosta"], ["eurosta", "eurosat"]),
    "split": (["--data.split", "tset"], ["split", "tset"]),
    "too many shots": (["--data.shots", "2"], ["has 1 image", "2"]),
    "no shots": (["--data.shots", "0"], ["0", "at least 1"]),
    "class": (["--data.classes", "[Rivers]"], ["Rivers", "River"]),
    "class number": (["--data.classes", "[10]"], ["10"]),
    "class twice": (["--data.classes", "[River, 8]"], ["given twice"]),
    "list": (["--data.items", "none.tsv"], ["none.tsv"]),
    "corruption": (["--data.corruption.name", "fogg", "--data.corruption.severity", "1"], ["fogg", "fog"]),
    "frost": (["--data.corruption.name", "frost", "--data.corruption.severity", "1"], ["frost", "photographs"]),
    "severity": (
        ["--data.corruption.name", "fog", "--data.corruption.severity", "6"],
        ["severity 6", "1, 2, 3, 4 or 5"],
    ),
    "place": (["--data.path", "nowhere"], ["nowhere"]),
    "pixels": (["--data.max_pixels", "0"], ["data.max_pixels 0"]),
    "class names": (["--model.class_names", "[a, b]"], ["model.class_names has 2", "10 classes"]),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_that_does_not_fit_is_one_line(case: str, cli: Cli, root: Path) -> None:
    more, parts = VALUES[case]
    line = refusal(cli("test", *ZERO, *args(root, *more)))
    for part in parts:
        assert part in line


def test_only_benchmarks_have_prompts_of_their_own(cli: Cli) -> None:
    line = refusal(cli("test", *LORA, "--data", "DemoData", "--model.templates", "dataset", *CPU))
    assert "model.templates dataset" in line
