"""Sweeps: what runs, in which order and where; what a failure, a stop or a changed setting does; and the tables.

Most tests put a small script in the place of ``lorattt``, which notes how it was called and does what ``data.do`` says.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorattt.cli.dry import problem
from lorattt.errors import UserError
from lorattt.sweep import processes
from lorattt.sweep.command import main
from lorattt.sweep.plan import plan
from lorattt.sweep.processes import check
from lorattt.sweep.spec import read_sweep

ROOT = Path(__file__).parents[1]
PYTHON = [sys.executable, "-S", "-E"]
ALL_FINE = "import json, sys; print(json.dumps([None] * len(json.load(sys.stdin))))"
FAKE = """
import json, os, sys, time
if sys.argv[1] == "report":
    print("## Accuracy", *sys.argv[2:], sep="\\n")
    sys.exit(0)
given = dict(a[2:].split("=", 1) for a in sys.argv if a.startswith("--"))
folder, seed, do = given["run.folder"], int(given["seed_everything"]), given.get("data.do", "")
files = [b for a, b in zip(sys.argv, sys.argv[1:]) if a == "-c"]
journal = os.environ["JOURNAL"]
def note(what):
    seen = {k: os.environ.get(k) for k in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
    with open(journal, "a") as file:
        file.write(json.dumps({"what": what, "folder": folder, "time": time.monotonic(), "argv": sys.argv[1:], **seen,
                               "pid": os.getpid()}) + "\\n")
note("begin")
print("at work", flush=True)
if do == "error":
    print("lorattt: error: data.do: no good", file=sys.stderr)
    sys.exit(2)
if do == "crash":
    raise RuntimeError("broken")
if do == "killed":
    os.kill(os.getpid(), 9)
if do == "silent":
    sys.exit(0)
if do == "damaged":
    open(os.path.join(folder, "results.json"), "w").write('{"n": 3')
    sys.exit(0)
if do == "stop-after-work":
    open(os.path.join(folder, "journal.rank0.jsonl"), "w").write("{}\\n")
    sys.exit(3)
if do == "checkpoint" and not any(a.startswith("--ckpt_path") for a in sys.argv):
    import zipfile
    os.makedirs(os.path.join(folder, "checkpoints"))
    with zipfile.ZipFile(os.path.join(folder, "checkpoints", "last.ckpt"), "w") as file:
        file.writestr("a", "b")
    sys.exit(1)
if do in ("hang", "stubborn"):
    import signal, subprocess
    if do == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    with open(journal, "a") as file:
        file.write(json.dumps({"what": "child", "folder": folder, "pid": child.pid}) + "\\n")
    time.sleep(60)
meet = int(given.get("data.meet", 0))  # go on when so many have begun
deadline = time.monotonic() + 30
while sum('"begin"' in line for line in open(journal)) < meet:
    if time.monotonic() > deadline:
        sys.exit("nobody came")
    time.sleep(0.01)
if sys.argv[1] == "fit":
    open(os.path.join(folder, "prompt.safetensors"), "w").write(f"prompt of seed {seed}")
else:
    hits = (37 * len("".join(files)) + 11 * seed + sum(map(ord, given.get("data.domain", "") + str(given)))) % 50
    row = {"n": 50, "top1_before": 0.5, "top1_after": hits / 50, "images_per_second": 10.0 + seed}
    if do == "unlabelled":
        del row["top1_before"], row["top1_after"]
    for name in ("zeta", "alpha") if do == "several" else ("fake",):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        open(os.path.join(folder, name, "results.json"), "w").write(json.dumps(row))
note("end")
"""


def _keys(domain: str, do: str = "well", **more: Any) -> dict[str, Any]:
    return {"keys": {"data.domain": domain, "data.do": do}, **more}


@dataclass
class Bench:
    """An empty folder with two methods' files, and a sweep to be written into it."""

    folder: Path
    program: list[str]
    capsys: pytest.CaptureFixture[str]

    def write(self, **changes: Any) -> None:
        spec: dict[str, Any] = {
            "out": "out",
            "methods": {"one": "one.yaml", "two": "two.yaml"},
            "datasets": {"red": _keys("red"), "blue": _keys("blue")},
            "seeds": [1, 2],
        }
        spec.update(changes)
        Path("sweep.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")

    def sweep(self, *args: str) -> tuple[int, str, str]:
        self.capsys.readouterr()
        try:
            code = main(["sweep.yaml", *args])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def ok(self, *args: str) -> str:
        code, out, err = self.sweep(*args)
        assert (code, err) == (0, ""), out + err
        return out

    def refused(self, *args: str) -> str:
        """Refused in one line, and nothing was started."""
        before = len(self.notes())
        code, out, err = self.sweep(*args)
        assert code == 2, out
        assert err.startswith("lorattt: error: ")
        assert err.count("\n") == 1
        assert len(self.notes()) == before
        return err

    def notes(self) -> list[dict[str, Any]]:
        path = self.folder / "journal"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def begun(self) -> list[str]:
        return [note["folder"].removeprefix("out/") for note in self.notes() if note["what"] == "begin"]

    def reported(self, out: str) -> list[str]:
        """The runs whose tables were shown."""
        return [line for line in out.partition("## Accuracy\n")[2].splitlines() if "=out/" in line]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(processes, "PAUSE", 0.005)
    monkeypatch.setattr(processes, "CHECKER", [*PYTHON, "-c", ALL_FINE])
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE, encoding="utf-8")
    for name in ("one", "two"):
        text = "# a comment\nmodel:\n  class_path: M\n  init_args: {lr: 1.0}\ndata: {class_path: D}\n"
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")
    Path("fit.yaml").write_text("model: {class_path: F}\ndata: {class_path: D}\n", encoding="utf-8")
    made = Bench(tmp_path, [*PYTHON, str(fake)], capsys)
    monkeypatch.setattr(processes, "PROGRAM", made.program)
    made.write()
    return made


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Whether a process is at work: one that has ended may still wait for whoever started it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# What runs


def test_all_runs_in_order_and_their_tables(bench: Bench) -> None:
    out = bench.ok()
    expected = [f"{m}/{d}/seed-{s}" for s in (1, 2) for m in ("one", "two") for d in ("red", "blue")]
    assert bench.begun() == expected
    lines = out.splitlines()
    for number, name in enumerate(expected, 1):
        assert any(line.endswith(f"start  {name}, {number} of 8") for line in lines)
        row = json.loads(Path("out", name, "fake", "results.json").read_text())
        done = next(line for line in lines if f"done   {name}: " in line)
        speed = row["images_per_second"]
        assert f"top-1 50.00 -> {100 * row['top1_after']:.2f} %, {speed:.1f} images/s, 0:00:0" in done
        assert "at work" in Path("out", name, "log.txt").read_text()
    assert "8 of 8 runs are finished" in out
    in_order = [f"{m}/{d}/seed-{s}" for s in (1, 2) for m in ("one", "two") for d in ("red", "blue")]
    assert bench.reported(out) == [f"{name.split('/')[0]}=out/{name}" for name in in_order]
    assert "--out\nout/report\n" in out


def test_arguments_of_a_run(bench: Bench) -> None:
    Path("extra.yaml").write_text("trainer: {max_epochs: 1}\n")
    bench.write(
        methods={
            "one": {"config": "one.yaml", "keys": {"model.lr": 0.005, "model.names": ["a b", "c"], "model.x": None}}
        },
        datasets={"red": {"config": ["extra.yaml"], "keys": {"data": "Other", "data.domain": "{seed}"}}},
        keys={"model.lr": 7, "data.root": "/d", "data.flip": True, "data.draw": "{seed}"},
        seeds=[3],
    )
    bench.ok("--key", "data.root=/my data", "--key", "data.more=[1, 2]")
    argv = bench.notes()[0]["argv"]
    assert argv[:5] == ["test", "-c", "one.yaml", "-c", "extra.yaml"]
    assert argv[5] == "--data=Other"  # a class before its keys
    assert set(argv[6:]) == {
        "--model.lr=0.005",
        '--model.names=["a b", "c"]',
        "--model.x=null",
        "--data.domain=3",
        "--data.root=/my data",
        "--data.more=[1, 2]",
        "--data.flip=true",
        "--data.draw=3",
        "--seed_everything=3",
        "--run.folder=out/one/red/seed-3",
    }
    assert len(argv) == 16


def test_dry_run_lists_commands_and_leaves_nothing(bench: Bench) -> None:
    out = bench.ok("--dry-run", "--only", "two/red")
    commands = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(commands) == 2
    assert shlex.split(commands[0])[: len(bench.program)] == bench.program
    assert commands[1].endswith("--run.folder=out/two/red/seed-2")
    assert not bench.notes()
    assert not Path("out").exists()


def test_seeds_of_a_method_and_of_the_whole(bench: Bench) -> None:
    bench.write(methods={"one": {"config": "one.yaml", "seeds": [7]}, "two": "two.yaml"}, datasets={"red": "one.yaml"})
    bench.ok()
    assert bench.begun() == ["one/red/seed-7", "two/red/seed-1", "two/red/seed-2"]


def test_skip_and_only(bench: Bench) -> None:
    bench.write(skip=[{"method": "t*", "dataset": "red"}, {"seed": 2, "dataset": "blue"}])
    assert "3 of 4 runs are finished" in bench.ok("--only", "*/blue", "--only", "one/red/seed-2")
    assert bench.begun() == ["one/blue/seed-1", "two/blue/seed-1", "one/red/seed-2"]
    # The rest is not a failure, and joins what is there.
    out = bench.ok()
    assert "1 runs to do, 3 of 4 finished before" in out
    assert bench.begun()[3:] == ["one/red/seed-1"]


def test_grid(bench: Bench) -> None:
    bench.write(
        methods={"one": {"config": "one.yaml", "grid": {"model.rank": [4, 8]}}, "two": "two.yaml"},
        datasets={"red": _keys("red")},
        grid={"model.views.number": [16, None]},
        seeds=[1],
    )
    out = bench.ok()
    names = [f"one,views.number={v},rank={r}/red/seed-1" for v in (16, "null") for r in (4, 8)]
    assert bench.begun() == [*names, "two,views.number=16/red/seed-1", "two,views.number=null/red/seed-1"]
    argv = bench.notes()[2]["argv"]
    assert {"--model.views.number=16", "--model.rank=8"} <= set(argv)
    # A row for each point of the grid, also of keys by which the report tells no runs apart.
    assert bench.reported(out)[1] == "one,views.number 16,rank 8=out/one,views.number=16,rank=8/red/seed-1"


def test_long_values_of_a_grid_are_folders_too(bench: Bench) -> None:
    long = [f"{'folder/' * 40}{name}" for name in "ab"]
    bench.write(methods={"one": {"config": "one.yaml", "grid": {"model.file": long}}}, datasets={"red": "one.yaml"})
    bench.ok()
    folders = {path.parts[1] for path in Path("out").glob("*/red/seed-*/fake/results.json")}
    assert len(folders) == 2
    assert max(map(len, folders)) <= 80


def test_values_that_would_share_a_folder_are_refused(bench: Bench) -> None:
    bench.write(grid={"model.text": ["a/b", "a b"]})
    assert "would have one folder" in bench.refused()


# Going on


def test_what_is_finished_is_not_run_again(bench: Bench) -> None:
    bench.ok()
    before = bench.notes()
    out = bench.ok()
    assert bench.notes() == before
    assert "0 runs to do, 8 of 8 finished before" in out
    assert len(bench.reported(out)) == 8
    Path("out/two/red/seed-1/fake/results.json").unlink()
    assert "start  two/red/seed-1, begun before, 1 of 1" in bench.ok()
    assert bench.begun()[8:] == ["two/red/seed-1"]


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("error", "data.do: no good"),
        ("crash", "ended with exit code 1; its last line: RuntimeError: broken"),
        ("killed", "ended by signal 9 (SIGKILL), as when memory runs out; its last line: at work"),
        ("silent", "out/one/blue/seed-1 has no results.json"),
        ("damaged", "out/one/blue/seed-1/results.json is damaged"),
    ],
)
def test_a_failure_ends_nothing_else(bench: Bench, do: str, reason: str) -> None:
    bench.write(datasets={"blue": _keys("blue", do), "red": _keys("red")}, seeds=[1])
    Path("two.yaml").write_text(Path("two.yaml").read_text() + "trainer: {accelerator: cpu}\n")
    code, out, err = bench.sweep("--only", "one")
    assert (code, err) == (1, "")
    assert bench.begun() == ["one/blue/seed-1", "one/red/seed-1"]
    assert f"failed one/blue/seed-1: {reason}" in out
    assert f"Failed:\n- one/blue/seed-1: {reason}" in out
    assert "(out/one/blue/seed-1/log.txt)\n" in out
    assert bench.reported(out) == ["one=out/one/red/seed-1"]


def test_a_failed_run_is_tried_again_with_its_fixed_key(bench: Bench) -> None:
    """Nothing of it is lost, so nobody needs to say --redo."""
    bench.write(datasets={"blue": _keys("blue", "error")}, seeds=[1], methods={"one": "one.yaml"})
    assert bench.sweep()[0] == 1
    assert bench.sweep()[0] == 1  # tried again as it is
    bench.write(datasets={"blue": _keys("blue", "well")}, seeds=[1], methods={"one": "one.yaml"})
    bench.ok()
    assert len(bench.begun()) == 3


def test_only_the_last_attempt_is_blamed(bench: Bench) -> None:
    bench.write(datasets={"blue": _keys("blue", "stop-after-work")}, seeds=[1], methods={"one": "one.yaml"})
    Path("out/one/blue/seed-1").mkdir(parents=True)
    bench.sweep()
    log = Path("out/one/blue/seed-1/log.txt")
    log.write_text("lorattt: error: of an earlier attempt\n")
    out = bench.sweep()[1]
    assert "ended with exit code 3; its last line: at work" in out
    assert log.read_text() == "lorattt: error: of an earlier attempt\nat work\n"


def test_damaged_results_are_told_before_anything_runs(bench: Bench) -> None:
    bench.ok("--only", "one/red")
    Path("out/one/red/seed-2/results.json").write_text("{")
    assert "out/one/red/seed-2/results.json is damaged" in bench.refused()


def test_other_settings_are_told_key_by_key(bench: Bench) -> None:
    bench.write(keys={"model.lr": 0.5})
    bench.ok()
    bench.write(keys={"model.lr": 0.25, "model.steps": 2})
    told = bench.refused()
    assert "out/one/red/seed-1" in told
    assert "model.lr is 0.25, was 0.5; model.steps is 2, was not given" in told
    assert "--redo" in told
    out = bench.ok("--keep")
    assert "0 runs to do" in out
    assert len(bench.reported(out)) == 8
    out = bench.ok("--redo", "--only", "one/red")
    assert bench.begun()[8:] == ["one/red/seed-1", "one/red/seed-2"]
    assert "--model.lr=0.25" in bench.notes()[-1]["argv"]
    # The others are of other settings: the tables have none of them.
    assert "2 of 8 runs are finished" in out
    assert bench.reported(out) == ["one=out/one/red/seed-1", "one=out/one/red/seed-2"]
    assert "0 runs to do" in bench.ok("--only", "one/red")


def test_settings_within_a_file_count_and_its_comments_do_not(bench: Bench) -> None:
    bench.ok()
    text = Path("two.yaml").read_text()
    Path("two.yaml").write_text(text.replace("a comment", "another one"))
    assert "0 runs to do" in bench.ok()
    Path("two.yaml").write_text(text.replace("lr: 1.0", "lr: 2.0"))
    assert "two.yaml: model.init_args.lr is 2.0, was 1.0" in bench.refused()
    assert "0 runs to do" in bench.ok("--only", "one")


def test_settings_without_effect_do_not_count(bench: Bench) -> None:
    bench.ok()
    bench.write(keys={"data.workers": 4, "data.init_args.batch_size": 2, "model.chunk": 3, "trainer.strategy": "ddp"})
    assert "0 runs to do" in bench.ok("--devices", "0,1")
    bench.write(keys={"trainer.precision": "bf16-true", "run.top_k": 3})
    assert 'trainer.precision is "bf16-true", was not given; run.top_k is 3, was not given' in bench.refused()


def test_unfinished_work_of_other_settings_is_kept(bench: Bench) -> None:
    bench.write(datasets={"blue": _keys("blue", "stop-after-work")}, seeds=[1])
    assert bench.sweep("--only", "one")[0] == 1
    part = Path("out/one/blue/seed-1/journal.rank0.jsonl")
    bench.write(datasets={"blue": _keys("blue", "well")}, seeds=[1])
    told = bench.refused("--only", "one", "--keep")  # there is nothing finished to keep
    assert "--redo runs it again from the start" in told
    assert part.exists()
    bench.ok("--only", "one", "--redo")
    assert not part.exists()


@pytest.mark.parametrize("redo", [[], ["--redo"]], ids=str)
def test_folders_of_others_are_not_touched(bench: Bench, redo: list[str]) -> None:
    mine = Path("out/one/red/seed-1/notes.txt")
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert "holds files that no sweep made" in bench.refused(*redo)
    assert mine.read_text() == "mine"


def test_several_methods_of_a_run(bench: Bench) -> None:
    several = "model: {class_path: Several, init_args: {methods: [zeta, alpha]}}\ndata: {class_path: D}\n"
    Path("one.yaml").write_text(several)
    bench.write(methods={"all": "one.yaml"}, datasets={"red": _keys("red", "several")}, seeds=[1])
    out = bench.ok()
    # In the order of the file, not by name.
    assert re.search(r"top-1 50.00 -> zeta [\d.]+, alpha [\d.]+ %, 11.0 images/s", out)
    assert "0 runs to do" in bench.ok()


def test_results_are_whole_when_the_journals_are_gone(bench: Bench) -> None:
    """A sweep that was killed has not noted the end of its run; the run's own files tell."""
    bench.ok("--only", "one/red")
    folder = Path("out/one/red/seed-1")
    command = folder / "command.json"
    command.write_text(command.read_text().replace('"finished": true', '"finished": false'))
    assert "0 runs to do" in bench.ok("--only", "one/red")
    (folder / "journal.rank0.jsonl").write_text("{}\n")
    assert "1 runs to do" in bench.ok("--only", "one/red")
    assert bench.begun()[2:] == ["one/red/seed-1"]
    assert "0 runs to do" in bench.ok("--only", "one/red")


def test_images_without_labels(bench: Bench) -> None:
    bench.write(command="predict", datasets={"red": _keys("red", "unlabelled")}, seeds=[1])
    out = bench.ok()
    assert bench.notes()[0]["argv"][0] == "predict"
    assert "done   one/red/seed-1: 50 images, 11.0 images/s" in out


def test_a_report_that_fails_is_no_failure_of_a_run(bench: Bench) -> None:
    bench.write(seeds=[1], datasets={"red": "one.yaml"})
    fake = bench.folder / "fake.py"
    fake.write_text(fake.read_text().replace('print("## Accuracy"', 'sys.exit("lorattt: error: no") or print("a"'))
    out = bench.ok()
    assert "no tables: lorattt: error: no\n" in out
    numbers = "one/red/seed-1: top-1 50.00 -> "  # in place of the tables
    assert out.count(numbers) == 1 + out.count(f"done   {numbers}")


# Fits


def _with_fit(**fit: Any) -> dict[str, Any]:
    return {"one": {"config": "one.yaml", "fit": {"config": "fit.yaml", **fit}}, "two": "two.yaml"}


def test_fits_once_for_each_seed(bench: Bench) -> None:
    bench.write(methods=_with_fit(keys={"data.draw_seed": "{seed}"}))
    bench.ok()
    begun = bench.begun()
    assert begun[:3] == ["fit/one/seed-1", "one/red/seed-1", "one/blue/seed-1"]
    assert [name for name in begun if name.startswith("fit")] == ["fit/one/seed-1", "fit/one/seed-2"]
    argv = {note["folder"]: note["argv"] for note in bench.notes()}
    assert argv["out/fit/one/seed-2"][:3] == ["fit", "-c", "fit.yaml"]
    assert "--data.draw_seed=2" in argv["out/fit/one/seed-2"]
    assert not any("data.domain" in text for text in argv["out/fit/one/seed-2"])
    prompts = [text for text in argv["out/one/blue/seed-2"] if "prompt" in text]
    assert prompts == ["--model.prompt.file=out/fit/one/seed-2/prompt.safetensors"]
    assert not any("prompt" in text for text in argv["out/two/blue/seed-2"])
    assert "0 runs to do" in bench.ok()
    # A prompt that nobody waits for is not made again; one that somebody does is.
    Path("out/fit/one/seed-1/prompt.safetensors").unlink()
    assert "0 runs to do" in bench.ok()
    Path("out/one/red/seed-1/fake/results.json").unlink()
    bench.ok()
    assert bench.begun()[len(begun) :] == ["fit/one/seed-1", "one/red/seed-1"]


def test_a_failed_fit_fails_its_tests_alone(bench: Bench) -> None:
    bench.write(methods=_with_fit(keys={"data.do": "error"}), seeds=[1])
    code, out, _ = bench.sweep()
    assert code == 1
    assert bench.begun() == ["fit/one/seed-1", "two/red/seed-1", "two/blue/seed-1"]
    assert "failed one/blue/seed-1: its fit fit/one/seed-1 failed: data.do: no good" in out
    assert out.count("data.do: no good") == 6  # when it happens, and at the end
    bench.write(methods=_with_fit(keys={"data.do": "well"}), seeds=[1])
    bench.ok()
    assert bench.begun()[3:] == ["fit/one/seed-1", "one/red/seed-1", "one/blue/seed-1"]


def test_a_fit_goes_on_from_its_checkpoint(bench: Bench) -> None:
    bench.write(methods=_with_fit(keys={"data.do": "checkpoint"}), seeds=[1])
    assert bench.sweep()[0] == 1
    bench.ok()
    argv = next(n["argv"] for n in bench.notes()[-6:] if n["folder"] == "out/fit/one/seed-1")
    assert "--ckpt_path=out/fit/one/seed-1/checkpoints/last.ckpt" in argv


def test_a_changed_fit_changes_its_tests(bench: Bench) -> None:
    bench.write(methods=_with_fit(keys={"model.rho": 1}), seeds=[1])
    bench.ok()
    bench.write(methods=_with_fit(keys={"model.rho": 2}), seeds=[1])
    assert "out/one/red/seed-1 was made with other settings: fit model.rho is 2, was 1" in bench.refused()
    bench.ok("--redo")
    assert bench.begun()[5:] == ["fit/one/seed-1", "one/red/seed-1", "one/blue/seed-1"]
    # A batch is a step there, but not in a test.
    bench.write(methods=_with_fit(keys={"model.rho": 2, "data.batch_size": 4}), seeds=[1])
    assert "fit data.batch_size is 4, was not given" in bench.refused()


def test_sources(bench: Bench) -> None:
    bench.write(
        methods=_with_fit(),
        datasets={
            "red-base": _keys("red", source="red"),
            "red-new": _keys("new", source="red"),
            "blue": _keys("blue", source="blue"),
        },
        sources={name: {"keys": {"data.dataset": name}} for name in ("red", "blue")},
        seeds=[1],
    )
    bench.ok("--only", "one")
    names = [
        "fit/one/red/seed-1",
        "one/red-base/seed-1",
        "one/red-new/seed-1",
        "fit/one/blue/seed-1",
        "one/blue/seed-1",
    ]
    assert bench.begun() == names
    argv = {note["folder"]: note["argv"] for note in bench.notes()}
    assert "--data.dataset=blue" in argv["out/fit/one/blue/seed-1"]
    assert "--model.prompt.file=out/fit/one/red/seed-1/prompt.safetensors" in argv["out/one/red-new/seed-1"]


# Several at a time


def _spans(bench: Bench) -> list[tuple[float, float, str | None]]:
    begin = {note["folder"]: note for note in bench.notes() if note["what"] == "begin"}
    end = {note["folder"]: note for note in bench.notes() if note["what"] == "end"}
    return [(begin[key]["time"], end[key]["time"], begin[key]["CUDA_VISIBLE_DEVICES"]) for key in begin]


def test_one_run_on_each_device(bench: Bench) -> None:
    bench.write(devices=[0, "2,3"], keys={"data.meet": 2})
    bench.ok()
    spans = _spans(bench)
    assert len(spans) == 8
    assert {device for *_, device in spans} == {"0", "2,3"}
    for place, (begin, end, device) in enumerate(spans):
        for other_begin, other_end, other in spans[place + 1 :]:
            if other == device:
                assert other_begin >= end or begin >= other_end, "two runs on one device"
    assert any(a[0] < b[1] and b[0] < a[1] for a in spans for b in spans if a[2] != b[2]), "never two at a time"
    for note in bench.notes():
        wanted = "--trainer.devices=2" if note["CUDA_VISIBLE_DEVICES"] == "2,3" else "--trainer.devices=1"
        assert {wanted, "--trainer.accelerator=gpu"} <= set(note["argv"])


def test_devices_are_those_that_may_be_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    Path("two.yaml").write_text(Path("two.yaml").read_text() + "trainer: {accelerator: cpu}\n")
    bench.write(devices=[1], seeds=[1], datasets={"red": "one.yaml"})
    bench.ok()
    assert {note["CUDA_VISIBLE_DEVICES"] for note in bench.notes()} == {"GPU-abc"}
    # A file that names its accelerator, as two.yaml does, is believed.
    assert ["--trainer.accelerator=gpu" in note["argv"] for note in bench.notes()[::2]] == [True, False]
    assert "no GPU 2: CUDA_VISIBLE_DEVICES=5,GPU-abc leaves 2 to see" in bench.refused("--devices", "2")


def test_jobs_share_the_processor(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    bench.write(jobs=2, keys={"data.meet": 2}, seeds=[1])
    bench.ok()
    spans = _spans(bench)
    assert max(sum(begin <= moment < end for begin, end, _ in spans) for moment, *_ in spans) == 2
    assert {note["OMP_NUM_THREADS"] for note in bench.notes()} == {"6"}


def test_a_device_does_not_wait_for_the_fit_of_another(bench: Bench) -> None:
    bench.write(methods=_with_fit(keys={"data.meet": 3}), seeds=[1], devices=[0, 1])
    bench.ok()
    begun = bench.begun()
    assert set(begun[:3]) == {"fit/one/seed-1", "two/red/seed-1", "two/blue/seed-1"}
    spans = {note["folder"]: note["time"] for note in bench.notes() if note["what"] == "end"}
    starts = {note["folder"]: note["time"] for note in bench.notes() if note["what"] == "begin"}
    assert starts["out/one/red/seed-1"] > spans["out/fit/one/seed-1"]


# Stopping


def _in_background(bench: Bench) -> "subprocess.Popen[str]":
    # A suite that a shell started in its background has Ctrl-C ignored, and its children would inherit that.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from lorattt.sweep import command, processes; "
        f"processes.PROGRAM, processes.CHECKER = {processes.PROGRAM!r}, {processes.CHECKER!r}; "
        "sys.exit(command.main(['sweep.yaml']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def _pids(bench: Bench) -> list[int]:
    return [note["pid"] for note in bench.notes() if note["what"] in ("begin", "child")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_runs(bench: Bench, number: int) -> None:
    bench.write(
        methods={"one": "one.yaml"},
        datasets={"red": _keys("red", ""), "blue": _keys("blue", "hang")},
        seeds=[1, 2],
        jobs=2,
    )
    process = _in_background(bench)
    try:
        _wait(lambda: sum(note["what"] == "child" for note in bench.notes()) == 2)
        process.send_signal(number)
        out = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopping: ending the runs at work" in out
    assert "stopped: the same command goes on; `lorattt report out` shows what is finished" in out
    for pid in _pids(bench):
        _wait(lambda pid=pid: not _alive(pid))
    begun = len(bench.begun())
    for path in Path("out").glob("one/blue/*/command.json"):
        assert json.loads(path.read_text())["finished"] is False
    bench.write(
        methods={"one": "one.yaml"}, datasets={"red": _keys("red", ""), "blue": _keys("blue", "well")}, seeds=[1, 2]
    )
    bench.ok()
    assert set(bench.begun()[begun:]) == {"one/blue/seed-1", "one/blue/seed-2"}


def test_a_second_ctrl_c_waits_for_nothing(bench: Bench) -> None:
    bench.write(methods={"one": "one.yaml"}, datasets={"blue": _keys("blue", "stubborn")}, seeds=[1])
    process = _in_background(bench)
    try:
        _wait(lambda: any(note["what"] == "child" for note in bench.notes()))
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert time.monotonic() - started < processes.PATIENCE
    for pid in _pids(bench):
        _wait(lambda pid=pid: not _alive(pid))


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
def test_a_folder_belongs_to_one_sweep_and_to_the_runs_it_leaves(bench: Bench) -> None:
    bench.write(methods={"one": "one.yaml"}, datasets={"blue": _keys("blue", "hang")}, seeds=[1])
    process = _in_background(bench)
    try:
        _wait(lambda: any(note["what"] == "child" for note in bench.notes()))
        assert "another sweep, or a run that it left, is at work" in bench.refused()
        process.kill()
        process.communicate()
        assert "another sweep, or a run that it left, is at work" in bench.refused()
    finally:
        process.kill()
        for pid in _pids(bench):
            os.kill(pid, signal.SIGKILL)
    _wait(lambda: not any(map(_alive, _pids(bench))))
    bench.write(methods={"one": "one.yaml"}, datasets={"blue": _keys("blue", "well")}, seeds=[1])
    bench.ok()


# What is wrong with the file


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": {}}, "dataset: no such key; did you mean 'datasets'?"),
        ({"methods": None}, "methods: expected names"),
        ({"methods": {"one": False}}, "methods.one: expected a file, or"),
        ({"skip": ""}, "skip: expected"),
        ({"methods": {"one": "gone.yaml"}}, "methods.one: no such file gone.yaml"),
        ({"methods": {"a/b": "one.yaml"}}, "methods: 'a/b' is no name"),
        ({"methods": {True: "one.yaml"}}, "methods: 'True' is no name"),
        ({"methods": {"fit": "one.yaml"}}, "methods.fit: the sweep has a folder of that name"),
        ({"methods": {"one": "fake.py"}}, "fake.py"),
        ({"methods": {"one": "empty.yaml"}}, "methods.one: empty.yaml is no configuration"),
        ({"methods": {"one": "typing.yaml"}}, "typing.yaml: modle: no such key; did you mean 'model'?"),
        ({"methods": {"one": "broken.yaml"}}, "broken.yaml, line 2: "),
        ({"methods": {"one": "latin.yaml"}}, "latin.yaml is not a text file in UTF-8"),
        ({"methods": {"one": "nodata.yaml"}}, "methods.one on datasets.red: no data"),
        ({"methods": {"one": {"confg": "one.yaml"}}}, "methods.one.confg: no such key; did you mean 'config'?"),
        (
            {"methods": {"one": {"config": "one.yaml", "model.lr": 1}}},
            "methods.one.model.lr: no such key; put it under",
        ),
        ({"methods": {"one": {"keys": {"modle.lr": 1}}}}, "methods.one.keys.modle: no such key; did you mean 'model'?"),
        (
            {"methods": {"one": ["one.yaml"]}},
            "methods.one: expected a file, or {config: FILE or a list of files, keys:",
        ),
        ({"methods": {"one": {"config": [3]}}}, "methods.one.config: expected a file or a list of files, got [3]"),
        ({"methods": {"one": {"model": "M"}}}, "methods.one.model: no such key; put it under keys"),
        ({"methods": {"one": {"config": "one.yaml", "seeds": 3}}}, "methods.one.seeds: expected a list"),
        (
            {"methods": {"one": {"config": "one.yaml", "fit": "gone.yaml"}}},
            "methods.one.fit: no such file gone.yaml",
        ),
        (
            {"methods": {"one": {"config": "one.yaml", "fit": "fit.yaml", "keys": {"model.prompt.file": "x"}}}},
            "model.prompt.file is that of its fit",
        ),
        ({"methods": {"ONE": "one.yaml", "one": "one.yaml"}}, "would have one folder"),
        ({"datasets": {"red": {"config": "one.yaml", "source": "r"}}}, "datasets.red.source: no source r"),
        ({"seeds": [1, 1]}, "a seed is given twice"),
        ({"seeds": [True]}, "seeds: expected a list of whole numbers"),
        ({"seeds": []}, "seeds: expected a list of whole numbers"),
        ({"keys": {"run.folder": "x"}}, "keys.run.folder: given by the sweep"),
        ({"keys": {"seed_everything": 1}}, "keys.seed_everything: given by the sweep; use seeds"),
        ({"keys": {"--model.lr": 1}}, "is no key: write it as"),
        ({"keys": {"model": {"lr": 1}}}, "write its keys with dots, such as model.lr: VALUE"),
        ({"keys": ["model.lr"]}, "keys: expected keys such as"),
        ({"grid": {"model.lr": 1}}, "grid.model.lr: expected a list of values"),
        ({"grid": {"model.lr": [1, 1]}}, "grid.model.lr: a value is given twice"),
        (
            {"grid": {"model.a": [1]}, "methods": {"one": {"config": "one.yaml", "grid": {"model.a": [2]}}}},
            "methods.one.grid.model.a: it is in the grid of all methods",
        ),
        ({"skip": [{"method": "thre"}]}, "skip: no method thre"),
        ({"skip": [{"methods": "one"}]}, "skip: methods: no such key; did you mean 'method'?"),
        ({"skip": {"method": "one"}}, "skip: expected a list"),
        ({"skip": [{"method": "*"}]}, "skip leaves nothing to run"),
        ({"command": "fit"}, "command 'fit': use test, validate, predict"),
        ({"devices": 2}, "devices: expected a list of GPUs"),
        ({"devices": [-1]}, "devices: '-1' is no GPU"),
        ({"devices": [0], "jobs": 2}, "devices and jobs: give one of them"),
        ({"devices": [0], "keys": {"trainer.devices": 1}}, "keys: trainer.devices follows from devices"),
        ({"jobs": 0}, "jobs 0: expected"),
        ({"out": ""}, "out '': expected a folder"),
        ({"out": "one.yaml"}, "out one.yaml: cannot be made"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_bad_files(bench: Bench, changes: dict[str, Any], message: str) -> None:
    Path("empty.yaml").write_text("")
    Path("typing.yaml").write_text("modle: {class_path: M}\n")
    Path("broken.yaml").write_text("model:\n\t- a\n")
    Path("latin.yaml").write_bytes("model: é\n".encode("latin-1"))
    Path("nodata.yaml").write_text("model: {class_path: M}\n")
    bench.write(**changes)
    told = bench.refused()
    assert message in told
    assert "sweep.yaml" in told or "out" in told


def test_bad_texts_and_arguments(bench: Bench) -> None:
    path = Path("sweep.yaml")
    path.write_text("methods: {one: one.yaml, one: two.yaml}\ndatasets: {red: one.yaml}\n")
    assert "sweep.yaml, line 1: one is given twice" in bench.refused()
    path.write_text("methods: {one: one.yaml}\n")
    assert "sweep.yaml: datasets is missing" in bench.refused()
    path.write_text("- a\n")
    assert "expected keys such as methods" in bench.refused()
    bench.write()
    assert "--only one/rde: no such run; did you mean 'one/red'" in bench.refused("--only", "one/rde")
    assert "--only one/red/seed-1/x: no such run" in bench.refused("--only", "one/red/seed-1/x")
    assert "--key model.lr: write it as KEY=VALUE" in bench.refused("--key", "model.lr")
    assert "--key.modle: no such key; did you mean 'model'?" in bench.refused("--key", "modle.lr=1")
    path.unlink()
    assert "sweep.yaml cannot be read (No such file or directory)" in bench.refused()


# The whole


def test_neither_torch_nor_lightning_is_imported() -> None:
    """So that it starts at once, and no run can take it along."""
    modules = "'torch', 'lightning', 'numpy'"
    code = f"import sys, lorattt.sweep.command; print([name for name in ({modules}) if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "lightning_configs" / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_the_files_that_come_with_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete, with a header like every configuration."""
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(path.relative_to(ROOT))
    runs = plan(sweep)
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert any(line.startswith(f"#   lorattt sweep lightning_configs/sweeps/{path.name}") for line in header)
    assert any("Reproduces" in line for line in header)
    assert all("http" not in line and "/home" not in line for line in lines)
    fits = {run.needs.name for run in runs if run.needs}
    if fits:
        assert f"# {len(fits)} fits and {len(runs)} runs" in "\n".join(header)
    assert str(sweep.out) == f"runs/{'sweep_demo' if path.stem == 'demo' else path.stem}"
    chosen = {part: run for run in reversed(runs) for part in run.name.split("/")[:2]}
    for run in [*chosen.values(), *(run.needs for run in chosen.values() if run.needs)]:
        assert problem(run.arguments) is None, run.name


def test_two_runs_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the real commands: what the table says is what the runs' own files say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = {"keys": {"model": "ZeroShot", "model.clip.model": "lorattt-demo", "model.clip.pretrained": "demo"}}
    small = {"data.images": 6, "data.batch_size": 4, "data.workers": 0, "trainer.accelerator": "cpu"}
    spec = {
        "methods": {"zero_shot": model},
        "datasets": {
            "noise": {"keys": {"data": "DemoData", "data.domain": "noise"}},
            "bad": {"keys": {"data": "DemoData", "data.domain": "x"}},
        },
        "keys": {**small, "trainer.devices": 1},
        "out": "out",
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    assert main(["sweep.yaml"]) == 1
    out = capsys.readouterr().out
    row = json.loads(Path("out/zero_shot/noise/seed-0/zero_shot/results.json").read_text())
    assert row["n"] == 6
    assert row["dataset"] == "demo-noise"
    assert (
        f"done   zero_shot/noise/seed-0: top-1 {100 * row['top1_before']:.2f} -> {100 * row['top1_after']:.2f} %" in out
    )
    assert "failed zero_shot/bad/seed-0: data.domain 'x': use source, noise" in out
    assert f"| zero\\_shot | {100 * row['top1_after']:.2f} |" in out.partition("### Demo")[2]
    assert "## Costs" in Path("out/report/report.md").read_text(encoding="utf-8")
    assert (Path("out/zero_shot/noise/seed-0/zero_shot") / "predictions.csv").exists()
    assert "0 runs to do" in (main(["sweep.yaml", "--only", "*/noise"]), capsys.readouterr().out)[1]


# --- command lines that cannot be parsed ------------------------------------------------------------------


def _sweep_of(**keys: Any) -> None:
    model = {"model": "ZeroShot", "model.clip.model": "lorattt-demo", "model.clip.pretrained": "demo"}
    spec = {
        "methods": {"zero_shot": {"keys": model}, "mta": {"keys": {**model, "model": "MTA", **keys}}},
        "datasets": {
            "noise": {"keys": {"data": "DemoData"}},
            "fog": {"keys": {"data": "DemoData", "data.images": 6}},
        },
        "seeds": [1, 2],
        "out": "out",
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")


def test_a_wrong_key_is_found_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    _sweep_of(**{"model.mta.outr": 3})
    assert main(["sweep.yaml", "--dry-run"]) == 2
    printed = capsys.readouterr()
    said = "mta/noise/seed-1: model.mta.outr: no such key; did you mean model.mta.outer?"
    assert printed.err == f"lorattt: error: {said} (1 more of 4 are wrong as well)\n"
    monkeypatch.setattr(processes, "CHECKER", [*PYTHON, "-c", ALL_FINE.replace("None", "'no'")])
    assert main(["sweep.yaml"]) == 2
    assert capsys.readouterr().err == "lorattt: error: zero_shot/noise/seed-1: no (3 more of 4 are wrong as well)\n"
    assert not list(tmp_path.rglob("command.json"))


def test_each_method_and_dataset_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _sweep_of()
    last = "import json, sys; t = json.load(sys.stdin); print(json.dumps([' '.join(t[-1])] * len(t)))"
    checker = [*PYTHON, "-c"]
    monkeypatch.setattr(processes, "CHECKER", [*checker, last])
    runs = plan(read_sweep(Path("sweep.yaml")))
    with pytest.raises(
        UserError, match=r"^zero_shot/noise/seed-1: test .*fog/seed-1 \(3 more of 4 are wrong as well\)$"
    ):
        check(runs)
    monkeypatch.setattr(processes, "CHECKER", [*checker, ALL_FINE])
    check(runs)
    monkeypatch.setattr(processes, "CHECKER", [*checker, "raise ValueError('broken')"])
    with pytest.raises(UserError, match=r"^the command lines cannot be checked: ValueError: broken$"):
        check(runs)


def test_texts_of_a_sweep_arrive_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of words without quotes, true, false, null and decimal numbers are what they seem, and all others are texts."""
    monkeypatch.chdir(tmp_path)
    words = ["no", "on", "1_000", "2024-01-01", "12:30", "0x10", "007", "1e3", ".inf", "a b"]
    numbers = {"8": 8, "-1": -1, "0.5": 0.5, "5.0e-3": 0.005, "true": True, "null": None}
    lines = [f"      data.k{place}: {word}" for place, word in enumerate([*words, *numbers])]
    text = "methods: {a: {keys: {model: ZeroShot}}}\ndatasets:\n  d:\n    keys:\n      data: DemoData\n" + "\n".join(
        lines
    )
    Path("sweep.yaml").write_text(text + "\nout: out\n", encoding="utf-8")
    (run,) = plan(read_sweep(Path("sweep.yaml")))
    found = [word.split("=", 1)[1] for word in run.arguments if word.startswith("--data.k")]
    assert found[: len(words)] == words
    assert [json.loads(word) for word in found[len(words) :]] == list(numbers.values())


@pytest.mark.parametrize("text", ["1_000", "2024-01-01", "no", "1e3", "007", "it's", "a: b", "# a", "@a", " a "])
def test_a_key_of_the_command_line_arrives_as_it_was_typed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _sweep_of()
    monkeypatch.setattr(processes, "CHECKER", [*PYTHON, "-c", ALL_FINE])
    assert main(["sweep.yaml", "--dry-run", "--key", f"data.root={text}"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert commands
    assert all(f"--data.root={text}" in words for words in commands)


def test_the_check_of_a_command_line_leaves_the_runs_folder_to_the_sweep(tmp_path: Path) -> None:
    """With --redo the folder of another run is cleared later; a warning before an error is not part of it."""
    run = ["test", "-c", str(ROOT / "lightning_configs" / "demo" / "zero_shot.yaml"), "--run.folder", str(tmp_path)]
    (tmp_path / "config.yaml").write_text("model: {class_path: Another}\n", encoding="utf-8")
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")
    assert problem(run) is None
    found = problem([*run, "--model.templatez", "single"])
    assert found
    assert "templatez" in found
    assert not found.startswith("lorattt: ")
