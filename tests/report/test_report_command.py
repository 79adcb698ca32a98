"""``lorattt report`` from end to end: files, screen, mistakes, and that torch stays away."""

import csv
import json
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from run_files import change_results, write_run

from conftest import CPU, Cli
from lorattt import __main__ as entry
from lorattt import __version__
from lorattt.report.command import main

ROOT = Path(entry.__file__).parent.parent


def _python(*args: str, code: str) -> str:
    program = f"import sys; sys.argv[1:] = {list(args)!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("args", [("report", "--help"), ("--version",)])
def test_no_torch_for_what_needs_none(args: tuple[str, ...]) -> None:
    code = """
from lorattt.__main__ import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
heavy = {"torch", "lightning", "numpy", "PIL", "jsonargparse"} & set(sys.modules)
assert not heavy, heavy
"""
    assert "lorattt" in _python(*args, code=code)


def test_no_torch_for_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "a", dataset="imagenet")
    code = """
from lorattt.report.command import main
assert main(sys.argv[1:]) == 0
heavy = {"torch", "torchvision", "lightning", "open_clip"} & set(sys.modules)
assert not heavy, heavy
"""
    assert "written to" in _python(str(tmp_path), "--out", str(tmp_path / "out"), code=code)


def test_the_scripts_entry() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'lorattt = "lorattt.__main__:main"' in text
    done = subprocess.run(
        [sys.executable, "-m", "lorattt", "--version"], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.stdout == f"lorattt {__version__}\n"


def test_entry_passes_all_else_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str] | None] = []
    monkeypatch.setattr("lorattt.cli.main", seen.append)
    entry.main(["test", "--help"])
    monkeypatch.setattr("sys.argv", ["lorattt", "landscape"])
    entry.main()
    assert seen == [["test", "--help"], None]  # None: Lightning reads the process's own


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", right=[True, False, True, True])
    assert main([str(run)]) == 0
    out = tmp_path / "report"
    shown = capsys.readouterr().out
    names = {file.name for file in out.iterdir()}
    assert names == {"report.md", "tables.tex", "report.json", "report.html", "plots"}
    assert shown == f"{(out / 'report.md').read_text(encoding='utf-8')}\nwritten to {out}\n"
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (found["kind"], found["bins"], found["runs"][0]["after"]["top1"]) == ("lorattt report", 20, 0.75)
    assert main([str(run), "--bins", "3", "--no-plots"]) == 0  # our own report is written again
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["bins"] == 3


@pytest.mark.parametrize(
    ("form", "names"), [("markdown", {"report.md"}), ("latex", {"tables.tex"}), ("html", {"report.html"})]
)
def test_one_format(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, names: set[str]) -> None:
    write_run(tmp_path / "run")
    assert main([str(tmp_path / "run"), "--format", form, "--no-plots", "--out", str(tmp_path / "deep" / "out")]) == 0
    assert {file.name for file in (tmp_path / "deep" / "out").iterdir()} == names | {"report.json"}
    assert capsys.readouterr().out.startswith("%" if form == "latex" else "<!--")


def test_notes_are_told_where_latex_has_no_place_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "done")
    (tmp_path / "runs" / "new").mkdir()
    (tmp_path / "runs" / "new" / "journal.rank0.jsonl").write_text("{}\n")
    for form, stream in (("latex", 1), ("markdown", 0)):
        assert main([str(tmp_path / "runs"), "--no-plots", "--format", form]) == 0
        said = capsys.readouterr()
        assert said[stream].count("left out, as the run is not finished") == 1
        assert "not finished" not in said[1 - stream]


def test_latex_is_balanced(tmp_path: Path) -> None:
    for place, method in enumerate(("a_b", "c%d", "[e]", "-- {")):
        write_run(tmp_path / str(place), method=method, dataset="imagenet_a", settings={"steps": place})
    assert main([str(tmp_path), "--no-plots", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "tables.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") >= 4
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    for block in text.split(r"\begin{tabular}{")[1:]:
        kinds = block[: block.index("}")]
        for line in block.splitlines():
            if line.endswith(r"\\"):
                assert line.replace(r"\&", "").count("&") == len(kinds) - 1, line
    assert any(line.startswith("{[}e{]} & ") for line in rows)


@pytest.mark.parametrize("name", ["report.md", "tables.tex", "report.json", "report.html"])
@pytest.mark.parametrize("content", ["mine", "{}", "[1]", "\udcff"])
def test_other_files_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    run = write_run(tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert main([str(run), "--no-plots", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{out / name}: is not a report of lorattt" in error
    assert [file.name for file in out.iterdir()] == [name]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(write_run(tmp_path / "run"))
    (tmp_path / "file").write_text("")
    cases = {
        (str(tmp_path / "none"),): "no such folder",
        (run, "--bins", "0"): "--bins 0: must be from 1",
        (run, "--baseline", "tpt"): "--baseline tpt: no run is of it; there are lora_ttt, and before",
        (run, "--out", str(tmp_path / "file")): "cannot be written",
    }
    for args, part in cases.items():
        assert main([*args, "--no-plots"]) == 2
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1
    for bad in ([], [run, "--bins", "x"], [run, "--format", "pdf"], [run, "--basel", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(bad)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_beside_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert main(["mine=runs", "--no-plots"]) == 0
    assert (tmp_path / "report" / "report.md").exists()
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert main([".", "--no-plots"]) == 0
    assert (tmp_path / "runs" / "a" / "report" / "report.md").exists()


def test_hostile_names_change_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<img src=x>|**a**\n\\input{x} \u202e"
    write_run(tmp_path / "run")
    change_results(tmp_path / "run", method=hostile, dataset=hostile, backbone=hostile)
    assert main([str(tmp_path / "run"), "--no-plots", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "<img" not in text.replace(r"\<img", "")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace(r"\|", "").count("|") for line in tables[:4]}
    assert widths == {3}
    tex = (tmp_path / "out" / "tables.tex").read_text(encoding="utf-8")
    assert r"\input" not in tex
    assert "\u202e" not in tex + text
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["runs"][0]["method"] == hostile


def test_a_real_run(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of a run on the demo against a plain count of its ``predictions.csv``."""
    options = ["--model", "Several", "--model.methods", "[zero_shot, mean_of_views]", "--model.views.number", "10"]
    options += ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    data = ["--data", "DemoData", "--data.images", "16", "--data.workers", "0", "--data.domain", "contrast"]
    run = cli("test", *options, *data, *CPU)
    assert run.code == 0, run.err
    assert main(["runs", "--no-plots"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((run.cwd / "report" / "report.json").read_text(encoding="utf-8"))
    assert [each["method"] for each in found["runs"]] == ["mean_of_views", "zero_shot"]
    shown = next(line for line in printed.splitlines() if line.startswith("| mean"))
    for each in found["runs"]:
        with (run.cwd / each["folder"] / "predictions.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        stated = json.loads((run.cwd / each["folder"] / "results.json").read_text(encoding="utf-8"))
        for when in ("before", "after"):
            right = [row["label"] == row[f"prediction_{when}"] for row in rows]
            assert each[when]["top1"] == pytest.approx(sum(right) / 16)
            assert each[when]["top1"] == pytest.approx(stated[f"top1_{when}"])
            assert each[when]["nll"] == stated[f"nll_{when}"]
            classes = defaultdict(list)
            for row, good in zip(rows, right, strict=True):
                classes[row["label"]].append(good)
            shares = [sum(goods) / len(goods) for goods in classes.values()]
            assert each[when]["per_class"] == pytest.approx(sum(shares) / len(shares))
            gaps = defaultdict(float)
            for row, good in zip(rows, right, strict=True):
                confidence = float(row[f"confidence_{when}"])
                gaps[math.ceil(confidence * 20)] += confidence - good
            assert each[when]["ece"] == pytest.approx(sum(map(abs, gaps.values())) / 16)
            assert each[when]["ece"] == stated[f"ece_{when}"]
        if each["method"] == "mean_of_views":
            assert shown == f"| mean\\_of\\_views | {_bold(each, found)} |"


def _bold(each: dict[str, dict[str, float]], found: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    mine = 100 * each["after"]["top1"]
    return f"**{mine:.2f}**" if mine >= max(100 * other["after"]["top1"] for other in found["runs"]) else f"{mine:.2f}"
