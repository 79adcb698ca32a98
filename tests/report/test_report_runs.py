"""Run folders read back, and every way in which they can be bad: one line that names the thing."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import COLUMNS, change_results, write_ranked, write_run

from lorattt.errors import UserError
from lorattt.report.build import build_report
from lorattt.report.measures import measure
from lorattt.report.predictions import read_predictions, read_top_k
from lorattt.report.rows import gather
from lorattt.report.runs import find_runs


def _refused(folder: Path | str, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        build_report([str(folder)])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_run(tmp_path: Path) -> None:
    write_run(tmp_path / "one", seed=3, n=12, corruption={"name": "fog", "severity": 2, "of": "dtd"})
    (run,) = find_runs([str(tmp_path / "one")])
    assert (run.method, run.dataset, run.seed, run.n, run.name) == ("lora_ttt", "demo-noise", 3, 12, None)
    assert run.corruption is not None
    assert (run.corruption.name, run.corruption.severity, run.corruption.of) == ("fog", 2, "dtd")
    assert run.config["seed_everything"] == 3
    predictions = run.predictions
    assert predictions.index.tolist() == list(range(12))
    assert predictions.path[1] == "demo-noise/000001.png"
    assert predictions.right("after").mean() == pytest.approx(run.measures["top1_after"])


def test_runs_are_found_once(tmp_path: Path) -> None:
    for name in ("b", "a/000", "a/001"):
        write_run(tmp_path / name, seed=len(name))
    (tmp_path / "fit").mkdir()  # a prompt's training, which has no results
    (tmp_path / "fit" / "config.yaml").write_text("model: {}")
    found = find_runs([str(tmp_path / "b"), str(tmp_path), str(tmp_path / "a" / "000" / "results.json")])
    assert [run.folder.relative_to(tmp_path).as_posix() for run in found] == ["b", "a/000", "a/001"]


def test_several_methods_of_one_run(tmp_path: Path) -> None:
    home = write_run(tmp_path / "run")
    config = (home / "config.yaml").read_text(encoding="utf-8")
    for file in home.iterdir():
        file.unlink()
    for method, other in (("zero", "mta"), ("mta", "zero")):
        write_run(home / method, method=method, shared_with=[other])  # in both formats
        (home / method / "config.yaml").unlink()
    (home / "config.yaml").write_text(config, encoding="utf-8")
    found = find_runs([str(home)])
    assert [(run.method, run.shared_with) for run in found] == [("mta", ("zero",)), ("zero", ("mta",))]
    assert all(run.config["seed_everything"] == 0 for run in found)
    (home / "journal.rank0.jsonl").write_text("{}\n")  # a device's file left behind: all methods are there
    assert len(find_runs([str(home)])) == 2
    (home / "mta" / "results.json").unlink()
    _refused(home, "no finished run", str(home), "--run.folder")


def test_a_method_alone_in_both_formats(tmp_path: Path) -> None:
    """In format 2 it has a folder below the configuration; in format 1 only one of a list had, the others as here."""
    write_run(tmp_path / "one", settings={"steps": 2}, format=1)
    write_run(tmp_path / "two" / "lora_ttt", settings={"steps": 2}, format=2, shared_with=[], seed=1)
    (tmp_path / "two" / "lora_ttt" / "config.yaml").rename(tmp_path / "two" / "config.yaml")
    found = find_runs([str(tmp_path)])
    assert [(run.home.name, run.folder.name, run.shared_with) for run in found] == [
        ("one", "one", ()),
        ("two", "lora_ttt", ()),
    ]
    for seed, run in enumerate(found):
        assert (run.config["seed_everything"], run.method_arguments["steps"]) == (seed, 2)
        assert len(run.predictions.index) == run.n
        (run.home / "journal.rank0.jsonl").write_text("{}\n")
    assert len(find_runs([str(tmp_path)])) == 2, "the journals were left behind: all results are there"
    (tmp_path / "two" / "lora_ttt" / "results.json").unlink()
    notes: list[str] = []
    assert len(find_runs([str(tmp_path)], notes)) == 1
    assert len(notes) == 1
    assert notes[0].startswith(f"{tmp_path / 'two'}: left out, as the run is not finished")


def test_names_that_users_give(tmp_path: Path) -> None:
    write_run(tmp_path / "coop")
    write_run(tmp_path / "a=b")
    assert [run.name for run in find_runs([f"CoOp = mine={tmp_path / 'coop'}".replace(" = mine", "")])] == ["CoOp"]
    assert [run.name for run in find_runs([str(tmp_path / "a=b")])] == [None]
    _refused(f"={tmp_path}", "NAME=FOLDER")


def test_sorted_by_index_and_labels_that_are_not_known(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", right=[True, False, True, True])
    file = folder / "predictions.csv"
    head, *rows = file.read_text(encoding="utf-8").splitlines()
    fields = rows[3].split(",")
    rows[3] = ",".join([*fields[:2], "", *fields[3:]])
    file.write_text("\n".join([head, *reversed(rows)]) + "\n", encoding="utf-8")
    (run,) = find_runs([str(folder)])
    assert run.predictions.label.tolist() == [0, 1, 2, -1]
    assert run.predictions.right("after").tolist() == [True, False, True]


def test_hostile_paths_are_read_as_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", n=3)
    file = folder / "predictions.csv"
    names = ['a,"b"\n,c', "=1+1;<x>", "\u05e9\u202e|"]
    text = file.read_text(encoding="utf-8")
    for i, name in enumerate(names):
        text = text.replace(f"demo-noise/{i:06d}.png", '"' + name.replace('"', '""') + '"')
    file.write_text(text, encoding="utf-8", newline="")
    (run,) = find_runs([str(folder)])
    assert run.predictions.path == names


def test_likelihood_from_results_and_brier_from_the_listed_classes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", n=20, classes=4)
    p = np.random.default_rng(0).dirichlet(np.ones(4), 20)
    labels = [i % 4 for i in range(20)]
    (run,) = find_runs([str(folder)])
    assert measure(run, 15)["after"].nll == 0.25
    assert measure(run, 15)["after"].brier is None
    write_ranked(folder, p, labels, k=4)
    found = measure(run, 15)["after"]
    assert found.nll == 0.25, "the run's own number, to all of its digits"
    truth = np.eye(4)[labels]
    assert found.brier == pytest.approx(float(((p - truth) ** 2).sum(1).mean()), abs=1e-5)
    write_ranked(folder, p, labels, k=2)  # not all classes are listed: not known from here
    assert measure(run, 15)["after"].brier is None


def test_no_runs(tmp_path: Path) -> None:
    _refused(tmp_path / "none", "no such folder")
    _refused(tmp_path, "no results.json")
    (tmp_path / "config.yaml").write_text("a: 1")
    _refused(tmp_path / "config.yaml", "is no folder")


def test_measures_of_answers_that_are_not_finite_are_null_in_the_file(tmp_path: Path) -> None:
    write_run(tmp_path)
    change_results(tmp_path, nll_before=0.25, nll_after=0.5)
    file = tmp_path / "results.json"
    file.write_text(file.read_text(encoding="utf-8").replace("0.25", "null"), encoding="utf-8")
    (found,) = find_runs([str(tmp_path)])
    assert math.isnan(found.measures["nll_before"])
    assert found.measures["nll_after"] == 0.5


@pytest.mark.parametrize("part", ["journal.rank0.jsonl", "journal.rank3.jsonl", "predictions.rank0.csv"])
@pytest.mark.parametrize("content", ["{}\n", ""], ids=["interrupted", "ended before its first image"])
def test_a_run_that_is_not_finished_is_left_out_with_a_line(tmp_path: Path, part: str, content: str) -> None:
    write_run(tmp_path / "done")
    new = tmp_path / "new"
    new.mkdir()
    (new / part).write_text(content)
    report = build_report([str(tmp_path)])
    assert [run.folder for run in report.runs] == [tmp_path / "done"]
    (note,) = report.notes
    assert note.startswith(f"{new}: left out")
    assert (f"--run.folder {new}." in note) == bool(content)
    assert note in json.loads(report.json)["notes"]
    # Named beside another, and alone.
    assert build_report([str(new), str(tmp_path / "done")]).notes == [note]
    _refused(new, "there is no finished run to report", str(new))


def test_some_methods_of_a_run_that_is_not_finished(tmp_path: Path) -> None:
    write_run(tmp_path / "done")
    write_run(tmp_path / "new" / "mta", method="mta", shared_with=["zero"])
    (tmp_path / "new" / "journal.rank0.jsonl").write_text("{}\n")
    report = build_report([str(tmp_path)])
    assert [run.method for run in report.runs] == ["lora_ttt"]
    assert "--run.folder" in report.notes[0]


def test_a_run_that_ends_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes its journal."""
    write_run(tmp_path / "one")
    (tmp_path / "one" / "journal.rank0.jsonl").write_text("{}\n")
    walk = os.walk

    def slow(folder: Path) -> Any:
        found = list(walk(folder))
        (tmp_path / "one" / "journal.rank0.jsonl").unlink()
        return found

    monkeypatch.setattr("lorattt.report.runs.os.walk", slow)
    assert len(find_runs([str(tmp_path)])) == 1


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"{", "damaged JSON"),
        (b"[]", "no object"),
        (b'{"method": "\xff"}', "not a text file in UTF-8"),
        (b"", "damaged JSON"),
        (b'{"method": "x"}', "has no dataset, backbone, n,"),
    ],
)
def test_damaged_results(tmp_path: Path, content: bytes, part: str) -> None:
    folder = write_run(tmp_path / "one")
    (folder / "results.json").write_bytes(content)
    _refused(folder, str(folder / "results.json"), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format": 3, "versions": {"lorattt": "9.9"}}, "format 3 of lorattt 9.9"),
        ({"format": "x"}, "format x"),
        ({"n": "40"}, "n is '40'"),
        ({"seed": True}, "seed is True"),
        ({"top1_after": "high"}, "top1_after is 'high'"),
        ({"corruption": {"name": "fog"}}, "corruption.severity, corruption.of"),
        ({"corruption": 3}, "corruption is 3, not an object"),
        ({"peak_memory_bytes": None}, "has no peak_memory_bytes"),
        ({"n": 41}, "has 40 images, results.json says 41"),
    ],
)
def test_results_of_another_version_or_edited(tmp_path: Path, change: dict[str, object], part: str) -> None:
    folder = write_run(tmp_path / "one")
    change_results(folder, **change)
    _refused(folder, str(folder), part)


def test_bad_predictions(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", n=4)
    file = folder / "predictions.csv"
    text = file.read_text(encoding="utf-8")
    cases = {
        text.replace("label,", "", 1).replace("confidence_after,", "", 1): "has no column label, confidence_after",
        "": "has no column index",
        text[: text.rindex("0.5,a")]: "line 5: has",
        text.replace("\n1,", "\nx,"): "line 3: index is 'x'",
        text.replace("\n2,", "\n1,"): "image 1 occurs more than once",
        text.replace(",0.5,", ",,", 1).replace("demo-noise/000000.png,0", "demo-noise/000000.png,?"): "label is '?'",
        text[: text.rindex("\n3,") + 1]: "has 3 images, results.json says 4",
    }
    for content, part in cases.items():
        file.write_text(content, encoding="utf-8")
        _refused(folder, str(file), part)
    file.write_bytes(text.encode().replace(b"demo", b"\xe9\xff", 1))
    _refused(folder, str(file), "not a text file in UTF-8")
    file.unlink()
    _refused(folder, str(file), "is missing")


@pytest.mark.parametrize("line", ["{", "[]", '{"label": 1}', '{"label": 1, "before": [{"label": 1}]}', "\udcff"])
def test_bad_ranked_predictions(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "one", n=2)
    (folder / "predictions.jsonl").write_bytes(line.encode("utf-8", "surrogateescape") + b"\n")
    _refused(folder, "predictions.jsonl")


@pytest.mark.parametrize("content", ["a: [", "- 1", "x"])
def test_bad_configuration(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path / "one")
    (folder / "config.yaml").write_text(content)
    _refused(folder, str(folder / "config.yaml"))


def test_different_images_under_one_name(tmp_path: Path) -> None:
    write_run(tmp_path / "a", n=10)
    write_run(tmp_path / "b", method="zero", n=10)
    file = tmp_path / "b" / "predictions.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("demo-noise/000003", "other/000003").replace("/000007", "/7"), encoding="utf-8")
    _refused(tmp_path, "demo-noise with different images: 2 of 10 differ", "number 3 (demo-noise/000003.png)", "apart")
    write_run(tmp_path / "b", method="zero", n=10, classes=4)
    _refused(tmp_path, "with different labels: 6 of 10 differ, such as number 4")
    write_run(tmp_path / "b", method="zero", n=8, classes=4)
    _refused(tmp_path, "with different labels: 4 of 8 differ, such as number 4")


@pytest.mark.parametrize("kept", [range(0, 40, 5), range(1, 40, 2), [*range(20), 90]])
def test_a_short_trial_beside_a_full_run_is_left_out_with_a_line(tmp_path: Path, kept: Any) -> None:
    """As ``data.limit`` makes it, and as two limits of which neither holds the other's images."""
    write_run(tmp_path / "full", n=40)
    write_run(tmp_path / "other", method="zero", n=40)
    write_run(tmp_path / "trial", n=100)
    file = tmp_path / "trial" / "predictions.csv"
    head, *lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([head, *(lines[number] for number in kept)]) + "\n", encoding="utf-8")
    change_results(tmp_path / "trial", n=len(kept))
    report = build_report([str(tmp_path)])
    assert [run.folder.name for run in report.runs] == ["full", "other"]
    (note,) = [note for note in report.notes if "top-1" not in note]
    assert note.startswith(f"{tmp_path / 'trial'}: left out, as its {len(kept)} images of demo-noise are not the 40 of")
    assert [run.n for run in build_report([str(tmp_path / "trial")]).runs] == [len(kept)]


def test_a_trial_of_each_method(tmp_path: Path) -> None:
    """Trials of the same images stay together where no run has more."""
    for place, method in enumerate(("mta", "zero")):
        write_run(tmp_path / method, method=method, n=6, draw=place)
    report = build_report([str(tmp_path)])
    assert ([run.n for run in report.runs], report.notes) == ([6, 6], [])


@pytest.mark.parametrize("where", ["path", "name", "line"])
def test_nul_bytes_are_one_line_on_every_python(tmp_path: Path, where: str) -> None:
    """As a power failure leaves them: Python 3.10's reader of CSV raises for them, later ones accept them."""
    folder = write_run(tmp_path / "one", n=4)
    file = folder / "predictions.csv"
    text = file.read_text(encoding="utf-8")
    damaged = {
        "path": text.replace("000002.png", "0000\0\0.png"),
        "name": text.replace(",a,b\n3,", ",\0,b\n3,"),
        "line": text[: text.index("\n2,") + 1] + "\0" * 200,
    }
    file.write_text(damaged[where], encoding="utf-8")
    _refused(folder, f"{file} is not a text file (it holds NUL bytes): restore the file, or run again")


@pytest.mark.parametrize("name", ["results.json", "predictions.jsonl", "config.yaml"])
def test_nul_bytes_in_other_files(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "one", n=4)
    (folder / name).write_bytes(b"\0" * 300)
    _refused(folder, str(folder / name), "damaged" if name == "predictions.jsonl" else "NUL bytes")


@pytest.mark.parametrize("change", [{"index": []}, {"label": 2**40}, {"probability": 1e9}, {"probability": math.inf}])
def test_values_out_of_range_in_the_lines(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "one", n=4)
    write_ranked(folder, np.full((4, 2), 0.5), [0, 1, 0, 1], k=2)
    file = folder / "predictions.jsonl"
    first, *rest = file.read_text(encoding="utf-8").splitlines()
    line = json.loads(first)
    (line if "index" in change else line["before"][0]).update(change)
    file.write_text("\n".join([json.dumps(line), *rest]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"predictions.jsonl line 1: damaged"):
        read_top_k(read_predictions(folder / "predictions.csv"), file)


def test_share_of_right_predictions(tmp_path: Path) -> None:
    found = read_predictions(write_run(tmp_path / "one", n=8) / "predictions.csv")
    right = [int(p) == int(label) for p, label in zip(found.prediction["after"], found.label, strict=True)]
    assert found.top1("after") == sum(right) / 8
    assert math.isnan(replace(found, label=np.full_like(found.label, -1)).top1("after"))


def test_bins_are_those_of_the_runs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")  # of a version that did not write them down, and had 20
    assert (build_report([str(tmp_path)]).bins, build_report([str(tmp_path)]).notes) == (20, [])
    asked = build_report([str(tmp_path)], bins=15)
    assert asked.bins == 15
    assert "ECE is of 15 bins here, of 20 in the runs' own results.json" in asked.notes[0]
    (run,) = find_runs([str(folder)])
    stated = {f"ece_{when}": found.ece for when, found in measure(run, 30).items()}
    change_results(folder, ece_bins=30, **stated)
    report = build_report([str(tmp_path)])
    assert (report.bins, report.notes) == (30, [])
    assert "ECE with 30 bins" in report.markdown
    change_results(folder, ece_after=0.5)  # edited
    assert "ECE after is" in build_report([str(tmp_path)]).notes[0]
    write_run(tmp_path / "two", method="zero")
    assert "of 20 bins here, of 20, 30 in" in build_report([str(tmp_path)]).notes[0]
    change_results(folder, ece_bins=0)
    _refused(folder, "ece_bins is 0, not a number of bins")


def test_no_message_quotes_without_a_bound(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    change_results(folder, seed="9" * 5000)
    with pytest.raises(UserError) as caught:
        find_runs([str(folder)])
    assert len(str(caught.value)) < 200 + len(str(folder))
    write_run(tmp_path / "one")
    file = folder / "predictions.csv"
    file.write_text(file.read_text(encoding="utf-8").replace("\n3,", "\n" + "x" * 5000 + ","), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        build_report([str(folder)])
    assert len(str(caught.value)) < 200 + len(str(folder))


def test_rows_by_the_settings_that_tell_runs_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "1", settings={"steps": 1, "lr": 0.1, "chunk": 8})
    write_run(tmp_path / "2", settings={"steps": 2, "lr": 0.1, "chunk": 64}, draw=5)
    write_run(tmp_path / "3", settings={"steps": 2, "lr": 0.1}, seed=1)
    # Another dataset with another setting: as papers do, still the same row.
    write_run(tmp_path / "4", settings={"steps": 2, "lr": 0.5}, dataset="dtd")
    rows, _ = gather(find_runs([str(tmp_path)]))
    assert [(row.label, {name: sorted(seeds) for name, seeds in row.runs.items()}) for row in rows] == [
        ("lora_ttt (steps=1)", {"demo-noise": [0]}),
        ("lora_ttt (steps=2)", {"demo-noise": [0, 1], "dtd": [0]}),
    ]


def test_a_prompt_of_each_seed_is_one_row(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), method="zero_shot", seed=seed, settings={"prompt": {"file": f"coop-{seed}"}})
    rows, _ = gather(find_runs([str(tmp_path)]))
    assert [sorted(row.runs["demo-noise"]) for row in rows] == [[0, 1, 2]]


def test_the_same_run_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name)
    rows, notes = gather(find_runs([str(tmp_path)]))
    assert len(rows[0].runs["demo-noise"]) == 1
    assert "counted once" in notes[0]
    write_run(tmp_path / "b", draw=9)
    _refused(tmp_path, "two runs of lora_ttt on demo-noise with seed 0", "NAME=FOLDER")
    rows, _ = gather(find_runs([f"one={tmp_path / 'a'}", f"other={tmp_path / 'b'}"]))
    assert [row.label for row in rows] == ["one", "other"]


def test_columns_of_the_writer() -> None:
    """What the callbacks write is what these tests write."""
    from lorattt.callbacks import merge

    assert list(merge.COLUMNS) == COLUMNS
