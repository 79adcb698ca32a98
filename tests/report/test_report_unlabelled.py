"""Runs without labels: what a report says of them, counted once more from their files."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from run_files import change_results, write_run

from lorattt.report.build import build_report
from lorattt.report.command import main


def without_labels(folder: Path, **stated: object) -> Path:
    """A run as ``predict`` leaves it."""
    write_run(folder, dataset="images", **stated)  # type: ignore[arg-type]
    row = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    change_results(folder, **{key: None for key in row if key.endswith(("_before", "_after"))})
    rows = rows_of(folder)
    random = np.random.default_rng(0)
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        for each in rows:
            for when in ("before", "after"):
                each[f"entropy_{when}"] = f"{random.random():.6f}"
                each[f"name_{when}"] = f"class {each[f'prediction_{when}']}"
            table.writerow({**each, "label": ""})
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("n", "classes"), [(40, 5), (7, 3)])
def test_what_can_be_said(tmp_path: Path, n: int, classes: int) -> None:
    folder = without_labels(tmp_path / "one", n=n, classes=classes, fallbacks=2, skipped=1)
    rows = rows_of(folder)
    report = build_report([str(folder)])
    (found,) = json.loads(report.json)["unlabelled"]
    for when in ("before", "after"):
        assert found[when]["confidence"] == pytest.approx(sum(float(row[f"confidence_{when}"]) for row in rows) / n)
        assert found[when]["entropy"] == pytest.approx(sum(float(row[f"entropy_{when}"]) for row in rows) / n)
        assert found[when]["classes"] == len({row[f"prediction_{when}"] for row in rows})
    assert found["changed"] == sum(row["prediction_before"] != row["prediction_after"] for row in rows) / n
    before, after = (Counter(row[f"name_{when}"] for row in rows) for when in ("before", "after"))
    assert {name: (one, other) for name, one, other in found["classes"]} == {
        name: (before[name], after[name]) for name in before | after
    }
    assert [each[2] for each in found["classes"]] == sorted(after.values(), reverse=True)
    assert "Runs without labels" in report.markdown
    assert "Classes predicted" in report.latex
    assert report.rows == []


def test_beside_runs_with_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All formats: pages and plots of both kinds of runs, and of those without labels alone."""
    write_run(tmp_path / "runs" / "a")
    without_labels(tmp_path / "runs" / "b")
    without_labels(tmp_path / "runs" / "c", classes=7)  # the same method and dataset: told apart by their folders
    assert main([str(tmp_path / "runs"), "--images", "0", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "## Notes" not in shown
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="unlabelled">Runs without labels</h2>' in page
    for name in "bc":
        assert (
            f"lora_ttt ({tmp_path / 'runs' / name})"
            in json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["unlabelled"][
                "bc".index(name)
            ]["row"]
        )
    assert main([str(tmp_path / "runs" / "b"), "--images", "0", "--out", str(tmp_path / "alone")]) == 0
    page = (tmp_path / "alone" / "report.html").read_text(encoding="utf-8")
    assert "No run has labels: there is nothing to plot." in page
    assert "1 method, 1 dataset, 1 run, 40 predictions" in page
    assert capsys.readouterr().err == ""


def test_files_of_an_earlier_version_and_answers_that_are_not_finite(tmp_path: Path) -> None:
    folder = without_labels(tmp_path / "one", n=4)
    rows = rows_of(folder)
    rows[0] |= {"prediction_after": "", "name_after": "", "confidence_after": "nan", "entropy_after": "nan"}
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [key for key in rows[0] if key != "entropy_before"], extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    (found,) = json.loads(build_report([str(folder)]).json)["unlabelled"]
    assert (found["before"]["entropy"], found["after"]["entropy"], found["after"]["confidence"]) == (None, None, None)
    assert ["no finite answer", 0, 1] in found["classes"]
    assert found["after"]["classes"] == len({row["prediction_after"] for row in rows[1:]})
    assert main([str(folder), "--no-plots", "--images", "0"]) == 0
