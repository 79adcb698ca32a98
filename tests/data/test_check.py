"""``lorattt data``: what is found, and what is missing."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import write

from lorattt.data.benchmark import BenchmarkData
from lorattt.data.catalogue import BENCHMARKS
from lorattt.data.check import check, table
from lorattt.data.command import main
from lorattt.errors import UserError

LAYOUTS = {"dtd": "tpt", "eurosat": "coop", "fgvc_aircraft": "torchvision"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three datasets, each in another layout."""
    for key, layout in LAYOUTS.items():
        write(key, layout, tmp_path / "all")
    return tmp_path / "all"


def test_an_empty_root_misses_all_and_says_where_to_get_them(tmp_path: Path) -> None:
    findings = check(tmp_path)
    assert [each.dataset for each in findings] == list(BENCHMARKS)
    for each in findings:
        assert each.state == "missing"
        assert each.images == each.listed == each.classes == 0
        assert each.fetch == BENCHMARKS[each.dataset].fetch
        assert each.note
        assert "\n" not in each.note + each.fetch


def test_what_is_there_is_counted_against_what_was_published(root: Path) -> None:
    findings = {each.dataset: each for each in check(root)}
    assert {key for key, each in findings.items() if each.state != "missing"} == set(LAYOUTS)
    for key, layout in LAYOUTS.items():
        each = findings[key]
        assert (each.state, each.layout) == ("incomplete", layout)  # one image a class is not what was published
        assert each.images == each.listed == each.classes == each.expected_classes == BENCHMARKS[key].classes
        assert each.expected == BENCHMARKS[key].counts["test"]
        assert f"{each.images} images where {each.expected} were published" in each.note


def test_complete_is_what_has_all_published_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS["eurosat"].counts, "test", 10)  # type: ignore[arg-type]
    (each,) = check(root, ["eurosat"])
    assert (each.state, each.note, each.images) == ("complete", "", 10)
    assert main(["check", "--data_root", str(root), "--datasets", "eurosat"]) == 0
    assert main(["check", "--data_root", str(root), "--datasets", "eurosat", "dtd"]) == 1


def test_missing_files_and_broken_links_are_counted_and_the_first_named(root: Path) -> None:
    pictures = sorted((root / "eurosat" / "2750").rglob("*.jpg"))
    absent = [picture for picture in pictures if "Forest" in picture.name or "River" in picture.name]
    absent[0].unlink()
    absent[1].unlink()
    absent[1].symlink_to(root / "nowhere.jpg")
    (each,) = check(root, ["eurosat"])
    assert (each.state, each.images, each.listed) == ("incomplete", 8, 10)
    # The split file of the miniature starts with the last class.
    assert "2 images are missing, the first is River/" in each.note


def test_another_place_and_another_folder_of_split_files(tmp_path: Path) -> None:
    write("eurosat", "coop", tmp_path / "here", splits=tmp_path / "lists")
    (tmp_path / "here" / "eurosat").rename(tmp_path / "satellite")
    (tmp_path / "empty").mkdir()
    options = ["--datasets", "eurosat", "--path", f"eurosat={tmp_path / 'satellite'}"]
    (each,) = check(tmp_path / "empty", ["eurosat"], paths={"eurosat": tmp_path / "satellite"})
    assert each.state == "missing"
    (each,) = check(
        tmp_path / "empty", ["eurosat"], paths={"eurosat": tmp_path / "satellite"}, splits=tmp_path / "lists"
    )
    assert each.images == 10
    assert main(["check", "--data_root", str(tmp_path / "empty"), *options, "--splits", str(tmp_path / "lists")]) == 1


def test_the_table_has_a_row_each_and_a_line_for_each_problem(root: Path) -> None:
    findings = check(root, ["dtd", "sun397"])
    lines = table(findings).splitlines()
    assert lines[0].split() == ["dataset", "state", "layout", "images", "expected", "classes", "names"]
    assert lines[1].split() == ["dtd", "incomplete", "tpt", "47", "1,692", "47", "of", "47", "published"]
    assert lines[2].split() == ["sun397", "missing", "-", "0", "19,850", "0", "of", "397", "-"]
    assert lines[4] == "0 of 2 complete"
    assert [line.split(":")[0].strip() for line in lines[5:]] == ["dtd", "sun397", "to get it"]


def test_json_has_the_same_numbers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data_root", str(root), "--datasets", "dtd", "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row["dataset"] == "dtd"
    assert row["images"] == 47
    assert row["folder"] == str(root / "DTD" / "images")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data_root", "none"], ["data_root none", "no such folder"]),
        (["--datasets", "eurosta"], ["eurosta", "eurosat"]),
        (["--path", "eurosat"], ["--path eurosat", "KEY=FOLDER"]),
        (["--path", "eurosta=x"], ["eurosta", "eurosat"]),
    ],
    ids=str,
)
def test_mistakes_are_one_line(
    arguments: list[str], parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = [] if "--data_root" in arguments else ["--data_root", str(tmp_path)]
    assert main(["check", *root, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lorattt: error: ")
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


def test_corruption_errors_are_in_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corruption-error", "runs", "--json"]) == 2
    error = "lorattt: error: data corruption-error: the report has it: lorattt report RUNS\n"
    assert capsys.readouterr() == ("", error)


def test_unknown_dataset_for_the_function_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eurosta"):
        check(tmp_path, ["eurosta"])


# --- lists ---


def split_file(root: Path) -> tuple[Path, dict[str, list[list[str | int]]]]:
    file = root / "eurosat" / "split_zhou_EuroSAT.json"
    return file, json.loads(file.read_text())


def test_images_that_a_list_has_twice_are_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS["eurosat"].counts, "test", 12)  # type: ignore[arg-type]
    file, content = split_file(root)
    first, second = content["test"][2], content["test"][5]
    content["test"] += [first, [second[0], 0, content["train"][0][2]]]
    file.write_text(json.dumps(content))
    (each,) = check(root, ["eurosat"])
    assert each.state == "incomplete"
    assert each.note.startswith(
        f"2 images are listed more than once and count each time, the first is {first[0]}; 1 of "
    )
    assert f"have several labels, the first is {second[0]} with 0 and {second[1]}" in each.note
    with pytest.warns(UserWarning, match="eurosat: 2 images are listed more than once"):
        BenchmarkData("eurosat", str(root), workers=0)


@pytest.mark.parametrize("change", ["name", "order", "space"])
def test_class_names_that_are_not_the_published_ones_are_reported(change: str, root: Path) -> None:
    file, content = split_file(root)
    for entries in content.values():
        for entry in entries:
            if change == "order":
                entry[1] = 9 - int(entry[1])
            elif entry[1] == 4:
                entry[2] = "Factory" if change == "name" else f"{entry[2]} "
    file.write_text(json.dumps(content))
    (each,) = check(root, ["eurosat"])
    assert each.state == "incomplete"
    assert "are not the published ones, 'Annual Crop Land' to 'Sea or Lake', or are in another order" in each.note
    (other,) = check(root, ["dtd"])
    assert (each.names, other.names) == ("other", "published")
    assert "published ones" not in other.note
    with pytest.warns(UserWarning, match="eurosat: its class names"):
        BenchmarkData("eurosat", str(root), workers=0)


def test_names_that_nobody_published_are_not_compared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "eurosat", replace(BENCHMARKS["eurosat"], names_sha1=""))
    (each,) = check(root, ["eurosat"])
    assert each.names == "not known"
    assert "published ones" not in each.note


def test_images_that_are_missing_are_reported_before_a_run(root: Path) -> None:
    (root / "eurosat" / "2750" / "River" / "River_3.jpg").unlink()
    with pytest.warns(
        UserWarning, match=r"eurosat: of the 10 listed images that were looked for, 1 are missing, .*River"
    ):
        BenchmarkData("eurosat", str(root), workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BenchmarkData("dtd", str(root), workers=0)
