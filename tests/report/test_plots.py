"""The numbers behind the plots against plain counts, and that pictures are made, the same each time."""

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_files import write_run

from lorattt.calibration import calibration_error
from lorattt.report import style
from lorattt.report.build import Report, build_report
from lorattt.report.command import main
from lorattt.report.curves import changes, coverage, reliability, sweep_curves
from lorattt.report.measures import risk_coverage_area
from lorattt.report.plots import draw_plots


def test_reliability_is_that_of_the_calibration_error() -> None:
    random = np.random.default_rng(0)
    right, confidence = random.random(500) < 0.6, random.random(500).round(6)
    confidence[:3] = (0.0, 1.0, 0.2)
    for bins in (1, 7, 15):
        sure, accuracy, share = reliability(right, confidence, bins)
        assert share.sum() == pytest.approx(1)
        assert (np.diff(sure) > 0).all()
        expected = calibration_error(right, confidence, bins)
        assert (share * np.abs(sure - accuracy)).sum() == pytest.approx(expected)


def test_coverage_against_plain_counting() -> None:
    random = np.random.default_rng(1)
    right, confidence = random.random(150) < 0.6, random.permutation(150) / 150
    shares, accuracy = coverage(right, confidence)
    for share, value in zip(shares, accuracy, strict=True):
        most = sorted(range(150), key=lambda place: -confidence[place])[: round(share * 150)]
        assert value == pytest.approx(np.mean([right[place] for place in most]))
    assert (shares[0], shares[-1]) == (pytest.approx(10 / 150), 1)
    assert accuracy[-1] == pytest.approx(right.mean())


def test_coverage_of_equal_confidence_has_no_order() -> None:
    right = np.array([True] * 6 + [False] * 6)
    _, accuracy = coverage(right, np.full(12, 0.5))
    assert accuracy == pytest.approx(0.5)
    assert risk_coverage_area(right, np.full(12, 0.5)) == pytest.approx(0.5)


def test_coverage_of_many_images_has_few_points() -> None:
    shares, _ = coverage(np.ones(50_000, dtype=bool), np.linspace(0, 1, 50_000))
    assert len(shares) <= 200
    assert shares[0] == pytest.approx(0.02)


def test_classes_won_and_lost(tmp_path: Path) -> None:
    before = [True, True, False, False, False, True]
    right = [True, False, True, True, False, False]
    write_run(tmp_path / "run", before=before, right=right, classes=3)  # labels 0 1 2 0 1 2
    report = build_report([str(tmp_path / "run")])
    names = report.runs[0].top_k.names
    names.clear()
    names.update({0: "cat", 1: "dog"})
    classes, pairs = changes(report.rows[0])
    assert [(each.name, each.won, each.lost) for each in classes] == [("class 2", 1, 1), ("cat", 1, 0), ("dog", 0, 1)]
    # Before, a wrong answer is the next class; after, the one after it.
    found = {each.name: (each.won, each.lost) for each in pairs}
    expected = {"class 2 \u2192 cat": (1, 0), "class 2 \u2192 dog": (0, 1), "cat \u2192 dog": (1, 0)}
    assert found == {**expected, "dog \u2192 cat": (0, 1)}


def test_sweep_curves_over_seeds_and_datasets(tmp_path: Path) -> None:
    for steps in (8, 1, 2):
        for seed in (0, 1):
            for dataset in ("dtd", "eurosat"):
                right = [number % 10 < 2 + steps // 2 + seed + (dataset == "dtd") for number in range(40)]
                where = tmp_path / f"{steps}-{seed}-{dataset}"
                write_run(where, dataset=dataset, seed=seed, right=right, settings={"lora": {"rank": steps}})
    (curve,) = sweep_curves(build_report([str(tmp_path)]).rows)
    assert (curve.key, curve.label, curve.values) == ("lora.rank", "lora_ttt", [1.0, 2.0, 8.0])
    assert [each.mean for each in curve.after] == pytest.approx([30, 40, 70])
    assert [each.deviation for each in curve.after] == pytest.approx([50**0.5] * 3)


def test_sweep_curves_hold_all_else_equal(tmp_path: Path) -> None:
    for steps, rate, share in ((1, 0.1, 4), (2, 0.1, 5), (4, 0.1, 6), (1, 0.5, 7), (2, 0.5, 8)):
        right = [number % 10 < share for number in range(40)]
        write_run(tmp_path / f"{steps}-{rate}", right=right, settings={"steps": steps, "lr": rate})
    curves = {(each.key, each.label): each for each in sweep_curves(build_report([str(tmp_path)]).rows)}
    first = curves["steps", "lora_ttt (lr=0.1)"]
    assert (first.values, [each.mean for each in first.after]) == ([1.0, 2.0, 4.0], pytest.approx([40, 50, 60]))
    assert first.before == pytest.approx([60, 60, 60])
    assert [each.mean for each in curves["steps", "lora_ttt (lr=0.5)"].after] == pytest.approx([70, 80])
    assert curves["lr", "lora_ttt (steps=1)"].values == [0.1, 0.5]
    assert ("lr", "lora_ttt (steps=4)") not in curves


def _all_kinds(folder: Path) -> Report:
    for method, shift in (("zero_shot", 0), ("mta", 1), ("_x$1$ <&>", 2)):
        for dataset in ("dtd", "eurosat"):
            before = [number % 5 < 3 for number in range(40)]
            right = [number % 5 < 3 + (number % 7 < shift) - (number % 11 < shift) for number in range(40)]
            write_run(folder / f"{shift}{dataset}", method=method, dataset=dataset, before=before, right=right)
    for steps in (1, 2):
        write_run(folder / f"tpt{steps}", method="tpt", dataset="dtd", settings={"steps": steps}, draw=steps)
    return build_report([str(folder)])


def test_pictures(tmp_path: Path) -> None:
    report = _all_kinds(tmp_path / "runs")
    pictures = {picture.name: picture for picture in draw_plots(report)}
    expected = {"accuracy-fine-grained-datasets", "coverage-fine-grained-datasets", "speed", "reliability"}
    expected |= {"classes-mta", "classes-x-1", "classes-tpt-steps-1", "classes-tpt-steps-2", "sweep-steps"}
    assert set(pictures) == expected
    for picture in pictures.values():
        image = Image.open(io.BytesIO(picture.png)).convert("RGB")
        assert image.width == round(style.WIDTH * 200)
        # The margin is empty: nothing is cut off at the edge.
        pixels = np.asarray(image)
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert (edge == 255).all(), picture.name
        text = picture.svg.decode()
        assert not re.search(r"<(script|image|foreignObject|a )", text)
        assert not re.search(r"""(?:href|src)=["'](?!#)""", text), "a picture refers to itself alone"
        assert "<dc:date>" not in text
        assert picture.title
        assert picture.about


def test_pictures_are_the_same_each_time(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    report = build_report([str(tmp_path / "run")])
    assert draw_plots(report) == draw_plots(report)


def test_methods_look_different_without_colour() -> None:
    shapes = [(look["marker"], str(look["linestyle"])) for look in map(style.look, range(14))]
    assert len(set(shapes)) == 14
    looks = [tuple(map(str, style.look(place).values())) for place in range(42)]
    assert len(set(looks)) == 42


def test_settings_of_the_user_are_left_alone(tmp_path: Path) -> None:
    import matplotlib

    before = matplotlib.rcParams["font.size"], matplotlib.rcParams["text.parse_math"]
    with style.plot_settings():
        assert matplotlib.rcParams["text.parse_math"] is False
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["text.parse_math"]) == before


def test_names_in_pictures() -> None:
    assert style.plot_text("a\nb\u202e") == "a b[U+202E]"
    assert not style.plot_text("_hidden").startswith("_")
    assert len(style.plot_text("x" * 500)) <= 44


def test_confidence_that_is_not_finite(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", n=12)
    text = (run / "predictions.csv").read_text()
    (run / "predictions.csv").write_text(re.sub(r"(0,[^,]*,0,\d,\d),[^,]*,[^,]*", r"\1,nan,nan", text, count=1))
    report = build_report([str(run)])
    assert np.isnan(report.runs[0].predictions.confidence["after"]).sum() == 1
    assert any(picture.name == "reliability" for picture in draw_plots(report))


def _hide_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(write_run(tmp_path / "run"))
    _hide_matplotlib(monkeypatch)
    assert main([run, "--images", "0"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no plots: matplotlib is not installed" in said
    assert "pip install" in said
    assert not (tmp_path / "report" / "plots").exists()
    assert "matplotlib is not installed" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert main([run, "--plots"]) == 2
    assert "matplotlib is not installed" in capsys.readouterr().err


def test_speeds_far_apart_have_plain_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    rc_file = matplotlib.rc_file

    def with_words(file: Path) -> None:
        rc_file(file)
        matplotlib.rcParams["svg.fonttype"] = "none"  # so that the words are in the file

    monkeypatch.setattr(matplotlib, "rc_file", with_words)
    for method, speed in (("mta", 1.5), ("tpt", 130.0)):
        write_run(tmp_path / method, method=method, images_per_second=speed)
    report = build_report([str(tmp_path)])
    (picture,) = [each for each in draw_plots(report) if each.name == "speed"]
    words = re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg.decode())
    assert {"2", "10", "100", "images a second"} <= set(words)
    assert not [word for word in words if "$" in word or "\\" in word]


def test_plots_as_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = str(write_run(tmp_path / "run")), tmp_path / "report"
    assert main([run, "--format", "markdown", "--plots"]) == 0
    names = {file.name for file in (out / "plots").iterdir()}
    assert {"speed.png", "speed.svg"} <= names
    assert {name.rpartition(".")[0] for name in names if name.endswith("png")} == {
        name.rpartition(".")[0] for name in names if name.endswith("svg")
    }
    # An older report's plot goes, somebody else's file stays.
    (out / "plots" / "old.png").write_bytes((out / "plots" / "speed.png").read_bytes())
    (out / "plots" / "mine.png").write_bytes(_png())
    assert main([run, "--format", "markdown", "--plots"]) == 0
    assert {file.name for file in (out / "plots").iterdir()} == names | {"mine.png"}
    (out / "plots" / "speed.png").write_bytes(_png())
    capsys.readouterr()
    assert main([run, "--format", "markdown", "--plots"]) == 2
    assert "speed.png: is not a report of lorattt" in capsys.readouterr().err


def _png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, format="PNG")
    assert struct.unpack(">I", content.getvalue()[16:20]) == (2,)
    return content.getvalue()


def test_plots_are_not_drawn_where_they_are_not_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    run, out = str(write_run(tmp_path / "run")), tmp_path / "report"
    assert main([run, "--no-plots", "--images", "0"]) == 0
    assert {file.name for file in out.iterdir()} == {"report.md", "tables.tex", "report.json", "report.html"}
    assert "No plots were asked for" in (out / "report.html").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""
