"""Corruption error in tables, against a plain count of the runs' ``predictions.csv``."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from run_files import write_run

from lorattt.report.build import Report, build_report
from lorattt.report.command import main
from lorattt.report.layout import ALEXNET_CLEAN_ERROR, ALEXNET_ERRORS, corruption_layouts
from lorattt.report.runs import Corruption
from lorattt.report.tables import Table

# AlexNet's top-1 errors as published with ImageNet-C (mean over severities), and on clean images.
ALEXNET = {"gaussian_noise": 0.886428, "fog": 0.819324, "contrast": 0.853204, "frost": 0.826572, "snow": 0.866816}
CLEAN = 0.43478
ALL = ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]
ALL += ["snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"]


def _write(
    root: Path,
    kinds: Sequence[str],
    *,
    of: str = "imagenet",
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    method: str = "lora_ttt",
    seed: int = 0,
    worse: float = 0.0,
) -> None:
    """Runs on corrupted images, all wrong more often the higher the severity."""
    for place, kind in enumerate(kinds):
        for severity in severities:
            wrong = int(40 * (0.2 + 0.1 * severity + 0.02 * place + worse))
            write_run(
                root / f"{method}-{kind}-{severity}-{seed}",
                method=method,
                dataset=f"{of}-{kind}-{severity}",
                corruption={"name": kind, "severity": severity, "of": of},
                right=[image >= wrong for image in range(40)],
                before=[image < 2 for image in range(40)],
                seed=seed,
            )


def _error(root: Path, kind: str, method: str, when: str = "after", seed: int = 0) -> float:
    """Mean over the severities of the share of rows whose prediction is not the label."""
    errors = []
    for severity in range(1, 6):
        with (root / f"{method}-{kind}-{severity}-{seed}" / "predictions.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        errors.append(sum(row[f"prediction_{when}"] != row["label"] for row in rows) / len(rows))
    return sum(errors) / 5


def _table(report: Report) -> Table:
    (found,) = [table for table in report.tables if table.kind == "corruption"]
    return found


def _values(table: Table, label: str) -> dict[str, float | None]:
    row = next(row for row in table.rows if row[0].text == label)
    return {name: cell.value for name, cell in zip(table.columns[1:], row[1:], strict=True)}


def test_ce_of_imagenet(tmp_path: Path) -> None:
    kinds = ["contrast", "fog", "gaussian_noise"]
    _write(tmp_path, kinds)
    _write(tmp_path, kinds, method="zero", worse=0.05)
    table = _table(build_report([str(tmp_path)]))
    assert table.title == "Corruption error, ImageNet-C: CE %, ViT-B-16-quickgelu"
    assert table.columns == ("Method", "gaussian_noise", "fog", "contrast", "Mean CE")  # in ImageNet-C's order
    for method in ("lora_ttt", "zero"):
        ce = {kind: 100 * _error(tmp_path, kind, method) / ALEXNET[kind] for kind in kinds}
        expected = {**ce, "Mean CE": sum(ce.values()) / 3}
        assert _values(table, method) == pytest.approx(expected)
    best = {row[0].text: [cell.best for cell in row[1:]] for row in table.rows}
    assert best["lora_ttt"] == [True] * 4, "the smallest error is the best"
    assert best["zero"] == [False] * 4
    before = {kind: 100 * _error(tmp_path, kind, "zero", "before") / ALEXNET[kind] for kind in kinds}
    assert _values(table, "before adaptation")["fog"] == pytest.approx(before["fog"])
    notes = " ".join(table.notes)
    assert "is not the papers' mCE, which also counts shot_noise, impulse_noise, " in notes
    assert notes.count("ImageNet-C: 40 of 50,000 test images") == 1


def test_mce_with_all_corruptions_and_relative_to_clean_images(tmp_path: Path) -> None:
    _write(tmp_path, ALL)
    write_run(tmp_path / "clean", dataset="imagenet-val", right=[image >= 8 for image in range(40)])
    write_run(tmp_path / "other", method="mta", dataset="imagenet-val")  # no corrupted images: no row
    table = _table(build_report([str(tmp_path)]))
    assert [row[0].text for row in table.rows] == ["before adaptation", "lora_ttt"]
    assert table.columns == ("Method", "Clean error", *ALL, "mCE", "Relative mCE")
    values = _values(table, "lora_ttt")
    assert values["Clean error"] == pytest.approx(20)
    errors = {kind: _error(tmp_path, kind, "lora_ttt") for kind in ALL}
    relative = [(errors[kind] - 0.2) / (ALEXNET_ERRORS[kind] - CLEAN) for kind in ALL]
    assert values["Relative mCE"] == pytest.approx(100 * sum(relative) / 15)
    assert values["mCE"] == pytest.approx(100 * sum(errors[kind] / ALEXNET_ERRORS[kind] for kind in ALL) / 15)
    assert "is not the papers' mCE" not in " ".join(table.notes)


def test_alexnet_is_its_own_measure() -> None:
    """A model with AlexNet's errors has CE and relative CE of 100 %, however they are spread over the severities."""
    corrupted = {f"{kind}-{s}": Corruption(kind, s, "imagenet") for kind in ALEXNET_ERRORS for s in range(1, 6)}
    (layout,) = corruption_layouts({"imagenet": None, **corrupted})
    errors = {name: {0: 100 * ALEXNET_ERRORS[each.name] + 5 * (each.severity - 3)} for name, each in corrupted.items()}
    errors["imagenet"] = {0: 100 * ALEXNET_CLEAN_ERROR}
    values = {title: column.value(errors) for title, column in layout.columns}
    assert list(values) == ["Clean error", *ALL, "mCE", "Relative mCE"]
    found = {title: value and value.mean for title, value in values.items()}
    assert found.pop("Clean error") == pytest.approx(43.478)
    assert found == pytest.approx(dict.fromkeys(found, 100.0))


def test_other_datasets_have_errors_that_are_relative_to_nothing(tmp_path: Path) -> None:
    _write(tmp_path, ["fog", "saturate"], of="cifar10-test")
    table = _table(build_report([str(tmp_path)]))
    assert table.title == "Corruption error, CIFAR-10-C: top-1 error %, ViT-B-16-quickgelu"
    assert table.columns == ("Method", "fog", "saturate", "Mean error")
    errors = {kind: 100 * _error(tmp_path, kind, "lora_ttt") for kind in ("fog", "saturate")}
    assert _values(table, "lora_ttt") == pytest.approx({**errors, "Mean error": sum(errors.values()) / 2})
    assert "Not relative to AlexNet" in table.notes[0]


@pytest.mark.parametrize("of", ["imagenet-base", "imagenet-new", "imagenet_a"])
def test_alexnet_is_for_the_thousand_classes_of_imagenet(tmp_path: Path, of: str) -> None:
    _write(tmp_path, ["fog"], of=of)
    table = _table(build_report([str(tmp_path)]))
    assert "top-1 error %" in table.title
    assert _values(table, "lora_ttt")["fog"] == pytest.approx(100 * _error(tmp_path, "fog", "lora_ttt"))


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    _write(tmp_path, ["fog", "saturate"])
    _write(tmp_path, ["snow"], severities=(1, 3, 5))
    table = _table(build_report([str(tmp_path)]))
    assert table.columns == ("Method", "fog", "Mean CE")
    assert "Left out, as not all severities from 1 to 5 are there: snow." in table.notes
    assert "Left out, as AlexNet's errors are not published: saturate." in table.notes


@pytest.mark.parametrize(("kinds", "severities"), [(["saturate"], (1, 2, 3, 4, 5)), (["fog"], (1, 2, 3, 4))])
def test_no_table_without_a_whole_corruption(tmp_path: Path, kinds: list[str], severities: tuple[int, ...]) -> None:
    _write(tmp_path, kinds, severities=severities)
    assert [table.kind for table in build_report([str(tmp_path)]).tables][:2] == ["accuracy", "measures"]


def test_seeds_and_a_method_that_lacks_a_severity(tmp_path: Path) -> None:
    for seed, worse in enumerate((0.0, 0.1, 0.05)):
        _write(tmp_path, ["fog"], seed=seed, worse=worse)
    _write(tmp_path, ["fog"], method="zero", severities=(1, 2))
    table = _table(build_report([str(tmp_path)]))
    row = next(row for row in table.rows if row[0].text == "lora_ttt")
    each = [100 * _error(tmp_path, "fog", "lora_ttt", seed=seed) / ALEXNET["fog"] for seed in range(3)]
    mean = sum(each) / 3
    assert row[1].value == pytest.approx(mean)
    assert row[1].deviation == pytest.approx((sum((value - mean) ** 2 for value in each) / 2) ** 0.5)
    assert _values(table, "zero") == {"fog": None, "Mean CE": None}


def test_in_all_files_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "runs", ["fog"])
    assert main([str(tmp_path / "runs"), "--no-plots", "--out", str(tmp_path / "out")]) == 0
    assert "## Corruption error" in capsys.readouterr().out
    ce = 100 * _error(tmp_path / "runs", "fog", "lora_ttt") / ALEXNET["fog"]
    texts = {name: (tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("tables.tex", "report.html")}
    for text in texts.values():
        assert f"{ce:.2f}" in text
        assert "Corruption error, ImageNet" in text
    found = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    table = next(table for table in found["tables"] if table["kind"] == "corruption")
    assert table["rows"][-1][-1]["value"] == pytest.approx(ce)
