"""Columns in the papers' order, means where all their columns are there, the best in bold, and published numbers."""

import math
from pathlib import Path

import pytest
from run_files import write_run

from lorattt.report.build import Report, build_report
from lorattt.report.layout import FAMILIES, Family, Published
from lorattt.report.tables import Cell, Table

FINE = ["flowers102", "dtd", "oxford_pets", "stanford_cars", "ucf101", "caltech101", "food101", "sun397"]
FINE += ["fgvc_aircraft", "eurosat"]
FAMILY = ["imagenet", "imagenet_a", "imagenet_v2", "imagenet_r", "imagenet_sketch"]


def _right(percent: int) -> list[bool]:
    """Of 20 images, so many percent."""
    return [5 * i < percent for i in range(20)]


def _report(folder: Path, **options: object) -> Report:
    return build_report([str(folder)], **options)  # type: ignore[arg-type]


def _table(report: Report, start: str) -> Table:
    return next(table for table in [*report.tables, *report.published] if table.title.startswith(start))


def _row(table: Table, label: str) -> list[str]:
    return [cell.number for cell in next(row for row in table.rows if row[0].text == label)[1:]]


def test_imagenet_family(tmp_path: Path) -> None:
    accuracy = {"imagenet": 70, "imagenet_a": 50, "imagenet_v2": 60, "imagenet_r": 75, "imagenet_sketch": 45}
    for name in reversed(FAMILY):  # found in another order than that of the columns
        write_run(tmp_path / f"x-{name}", dataset=name, right=_right(accuracy[name]), before=_right(40))
    write_run(tmp_path / "y", method="zero", dataset="imagenet_a", right=_right(55), before=_right(40))
    write_run(tmp_path / "z", method="zero", dataset="imagenet-val", right=_right(65), before=_right(40))
    table = _table(_report(tmp_path), "ImageNet and its variants")
    assert table.columns == ("Method", "ImageNet", "A", "V2", "R", "Sketch", "Average", "OOD Average")
    assert _row(table, "lora_ttt") == ["70.00", "50.00", "60.00", "75.00", "45.00", "60.00", "57.50"]
    # ImageNet's validation images have two names; a mean needs all of its columns.
    assert _row(table, "zero") == ["65.00", "55.00", "", "", "", "", ""]
    # imagenet and imagenet-val are two datasets to the row before adaptation, which has both.
    assert _row(table, "before adaptation")[:2] == ["40.00", "40.00"]
    best = {row[0].text: [cell.best for cell in row[1:]] for row in table.rows}
    assert best["zero"][:3] == [False, True, False]
    assert best["lora_ttt"] == [True, False, True, True, True, True, True]
    assert any("imagenet" not in note and "20 of 7,500 test images" in note for note in table.notes)


def test_fine_grained(tmp_path: Path) -> None:
    for place, name in enumerate(sorted(FINE)):
        write_run(tmp_path / name, dataset=name, right=_right(5 * place + 5))
    report = _report(tmp_path)
    table = _table(report, "Fine-grained")
    order = ["Flower102", "DTD", "Pets", "Cars", "UCF101", "Caltech101", "Food101", "SUN397", "Aircraft", "EuroSAT"]
    assert table.columns == ("Method", *order, "Average")
    values = [5.0 * sorted(FINE).index(name) + 5 for name in FINE]
    assert _row(table, "lora_ttt") == [f"{value:.2f}" for value in [*values, sum(values) / 10]]
    (tmp_path / "dtd" / "results.json").unlink()
    assert _row(_table(_report(tmp_path), "Fine-grained"), "lora_ttt")[1::9] == ["", ""]


def test_seeds(tmp_path: Path) -> None:
    """Mean and standard deviation of N - 1; of a mean of columns, over the seeds that all of them have."""
    for seed, percents in enumerate([(50, 70), (60, 75), (70, 95)]):
        for name, percent in zip(("demo-noise", "demo-blur"), percents, strict=True):
            write_run(tmp_path / f"{name}-{seed}", dataset=name, seed=seed, right=_right(percent))
    row = _table(_report(tmp_path), "Demo").rows[1]
    assert [cell.number for cell in row] == ["", "60.00", "80.00", "70.00"]
    deviations = [cell.deviation for cell in row[1:]]
    means = [60.0, 67.5, 82.5]
    spread = math.sqrt(sum((value - 70) ** 2 for value in means) / 2)
    assert deviations == pytest.approx([10.0, math.sqrt((100 + 25 + 225) / 2), spread])
    text = _report(tmp_path).markdown
    assert f"**60.00** ± 10.00 | **80.00** ± 13.23 | **70.00** ± {spread:.2f} |" in text


def test_demo_domains_in_the_demos_order(tmp_path: Path) -> None:
    names = ("demo-source", "demo-noise", "demo-blur", "demo-clutter", "demo-shifted")
    names += ("demo-noise-synonyms", "demo-blur-synonyms")
    for name in (*sorted(names), "mine", "imagenet-16-shot"):
        write_run(tmp_path / name, dataset=name)
    report = _report(tmp_path)
    assert _table(report, "Demo").columns == ("Method", *names, "Mean")
    assert _table(report, "Other datasets").columns == ("Method", "imagenet-16-shot", "mine", "Mean")


def test_base_to_new(tmp_path: Path) -> None:
    for name, base, new in (("dtd", 80, 60), ("eurosat", 90, 30)):
        write_run(tmp_path / f"{name}-base", dataset=f"{name}-base", right=_right(base))
        write_run(tmp_path / f"{name}-new", dataset=f"{name}-new", right=_right(new))
    write_run(tmp_path / "other", method="zero", dataset="dtd-base", right=_right(50))
    write_run(tmp_path / "mine", dataset="mine-base")  # not divided by us: an ordinary dataset
    report = _report(tmp_path)
    table = _table(report, "Base to new classes, DTD")
    assert table.columns == ("Method", "Base", "New", "H")
    assert _row(table, "lora_ttt") == ["80.00", "60.00", f"{2 * 80 * 60 / 140:.2f}"]
    assert _row(table, "zero") == ["50.00", "", ""]
    mean = _table(report, "Base to new classes, mean of 2 datasets")
    assert _row(mean, "lora_ttt") == ["85.00", "45.00", f"{2 * 85 * 45 / 130:.2f}"]
    assert _table(report, "Other datasets").columns == ("Method", "mine-base")


def test_corruptions(tmp_path: Path) -> None:
    for place, (kind, severity) in enumerate([("fog", 5), ("shot_noise", 5), ("fog", 3), ("shot_noise", 3)]):
        write_run(
            tmp_path / str(place),
            dataset=f"cifar10-test-{kind}-{severity}",
            corruption={"name": kind, "severity": severity, "of": "cifar10-test"},
            right=_right(40 + 10 * place),
        )
    table = _table(_report(tmp_path), "CIFAR-10-C, severity 3, 5")
    assert table.columns == ("Method", "shot_noise", "fog", "Mean")
    assert _row(table, "lora_ttt") == ["60.00", "50.00", "55.00"]
    assert any("20 of 10,000" in note for note in table.notes)


def test_models_have_tables_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "a", right=_right(50))
    write_run(tmp_path / "b", right=_right(60), backbone="ViT-L-14", draw=1)
    report = _report(tmp_path)
    assert [table.title for table in report.tables if table.kind == "accuracy"] == [
        "Demo: top-1 %, ViT-B-16-quickgelu",
        "Demo: top-1 %, ViT-L-14",
    ]
    assert _table(report, "Measures").rows[1][0].text == "lora_ttt, ViT-L-14"
    assert {each.second for each in report.comparisons} == {"before adaptation"}


def test_before_adaptation(tmp_path: Path) -> None:
    write_run(tmp_path / "a", method="mta", right=_right(60), before=_right(40))
    write_run(tmp_path / "b", method="tpt", right=_right(50), before=_right(40))
    assert _table(_report(tmp_path), "Demo").rows[0][0].text == "before adaptation"
    write_run(tmp_path / "c", method="zero_shot", right=_right(40), before=_right(40))
    assert [row[0].text for row in _table(_report(tmp_path), "Demo").rows] == ["zero_shot", "mta", "tpt"]
    (tmp_path / "c" / "results.json").unlink()
    write_run(tmp_path / "b", method="tpt", right=_right(50), before=_right(45))
    table = _table(_report(tmp_path), "Demo")
    assert [row[0].text for row in table.rows] == ["mta", "tpt"]
    assert any("begin with different texts" in note for note in table.notes)


def test_the_best_are_all_bold(tmp_path: Path) -> None:
    for method, percent in (("mta", 60), ("tpt", 60), ("zero", 50)):
        write_run(tmp_path / method, method=method, right=_right(percent), before=_right(20))
    text = _report(tmp_path).markdown
    for line in ("| before adaptation | 20.00 |", "| mta | **60.00** |", "| tpt | **60.00** |", "| zero | 50.00 |"):
        assert line in text
    assert r"\textbf{60.00}" in _report(tmp_path).latex


def test_costs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", dataset="demo-noise", n=40, images_per_second=20.0, fallbacks=2)
    write_run(tmp_path / "b", dataset="demo-blur", n=40, images_per_second=5.0, peak_memory_bytes=7 * 2**20, skipped=1)
    table = _table(_report(tmp_path), "Costs")
    assert _row(table, "lora_ttt") == ["2", "80", "8.0", "7", "2", "1"]  # 80 images in 2 + 8 seconds
    write_run(tmp_path / "c", dataset="demo-hue", n=40, images_per_second=0.0)  # all of an earlier attempt
    assert _row(_table(_report(tmp_path), "Costs"), "lora_ttt")[:3] == ["3", "120", "8.0"]
    write_run(tmp_path / "a", n=40, shared_with=["zero"])
    assert _table(_report(tmp_path), "Costs").rows[0][0].text == "lora_ttt *"


def test_differences(tmp_path: Path) -> None:
    first = [True] * 9 + [False] * 11
    second = [False] * 3 + [True] * 7 + [False] * 10
    write_run(tmp_path / "a", method="mta", right=first, before=second)
    write_run(tmp_path / "b", method="tpt", right=second, before=second)
    report = _report(tmp_path)
    found = {(each.first, each.second): each for each in report.comparisons}
    assert set(found) == {("mta", "before adaptation"), ("tpt", "before adaptation"), ("tpt", "mta")}
    pair = found["tpt", "mta"]
    assert (pair.images, pair.difference) == (20, pytest.approx(-10.0))
    assert [(test.won, test.lost, test.p) for test in pair.tests] == [(1, 3, 0.625)]
    assert pair.low < -10 < pair.high
    named = _report(tmp_path, baseline="tpt")
    assert [(each.first, each.second, each.difference) for each in named.comparisons] == [("mta", "tpt", 10.0)]
    assert [each.second for each in _report(tmp_path, baseline="before").comparisons] == ["before adaptation"] * 2


def test_differences_over_seeds(tmp_path: Path) -> None:
    """The interval is of the mean over seeds; McNemar's test is of each; a method with one run meets all seeds."""
    write_run(tmp_path / "z", method="zero_shot", right=_right(40), before=_right(40))
    for seed, percent in ((1, 50), (2, 70)):
        write_run(tmp_path / str(seed), method="mta", seed=seed, right=_right(percent), before=_right(40))
        write_run(tmp_path / f"t{seed}", method="tpt", seed=seed + 5, right=_right(percent), before=_right(40))
    report = _report(tmp_path)
    pair = next(each for each in report.comparisons if (each.first, each.second) == ("mta", "zero_shot"))
    assert pair.difference == pytest.approx(20.0)
    assert [(test.won, test.lost) for test in pair.tests] == [(2, 0), (6, 0)]
    assert "tpt and mta have no common seed on demo-noise: not compared." in report.markdown
    assert not any({each.first, each.second} == {"mta", "tpt"} for each in report.comparisons)


def test_many_methods_are_compared_with_a_baseline(tmp_path: Path) -> None:
    for place in range(7):
        write_run(tmp_path / str(place), method=f"m{place}", right=_right(50 + 5 * place), before=_right(40))
    report = _report(tmp_path)
    assert {each.second for each in report.comparisons} == {"before adaptation"}
    assert "--baseline" in report.markdown
    assert len(_report(tmp_path, baseline="m3").comparisons) == 6


@pytest.mark.parametrize(
    ("family", "each"),
    [(family, each) for family in FAMILIES for each in family.published if each.values],
    ids=lambda each: getattr(each, "method", ""),
)
def test_published_means_follow_from_their_rows(family: Family, each: Published) -> None:
    count = len(family.columns)
    assert len(each.values) == count + len(family.averages)
    means = [sum(each.values[first:count]) / (count - first) for first in family.averages.values()]
    assert each.values[count:] == pytest.approx(means, abs=0.0101)


def test_published_numbers_keep_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "demo")
    assert _report(tmp_path).published == []
    write_run(tmp_path / "in", dataset="imagenet_a", right=_right(60))
    report = _report(tmp_path)
    (table,) = report.published
    assert table.columns[1:8] == _table(report, "ImageNet").columns[1:]
    assert _row(table, "TPT")[:7] == ["68.98", "54.77", "63.45", "77.06", "47.94", "62.44", "60.81"]
    assert all(row[-1].text and row[-2].text for row in table.rows)
    for ours in report.tables:
        assert not any(cell == Cell(text="TLLA") for row in ours.rows for cell in row)
    assert _report(tmp_path, published=False).published == []
    text = report.markdown
    assert text.index("## Published numbers") > text.index("## Costs")
