"""A run that died goes on in its folder: nothing lost, nothing done twice, the numbers of an undisturbed run."""

import csv
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from conftest import CPU, DEMO, LORA, ZERO, Cli, Run, only_method
from forked import Forks, environments
from lorattt.callbacks.journal import Journal, entries_at, journal_path, journals_in, read_journals
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.progress import RunProgress
from lorattt.callbacks.results import ResultsWriter, table_of
from lorattt.callbacks.resume import differences
from lorattt.callbacks.run_folder import LOCK_FILE, FolderLock, RunFolder
from lorattt.clip.load import ClipSpec
from lorattt.data.demo import DemoData
from lorattt.errors import UserError
from lorattt.methods.zero_shot import ZeroShot

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed here")
FILES = ("predictions.csv", "predictions.jsonl")
# What a run measures of its own course.
COURSE = ("resumed", "images_per_second", "peak_memory_bytes", "stages", "directory")
QUIET = ["--trainer.enable_progress_bar", "false"]


def demo(images: int, *args: str, command: str = "test", model: list[str] = LORA, batch_size: int = 2) -> list[str]:
    return [command, *model, *DEMO, "--data.images", str(images), "--data.batch_size", str(batch_size), *args]


def refusal(run: Run) -> str:
    """The one line of a run that was refused; other runs here have ended well."""
    lines = [line for line in run.err.splitlines() if "error" in line.lower()]
    assert run.code == 2, run.err
    assert len(lines) == 1, run.err
    assert lines[0].startswith("lorattt: error: ")
    return lines[0]


def results(folder: Path) -> dict[str, Any]:
    """Of a method, without what a run measures of its own course."""
    row = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {key: value for key, value in row.items() if key not in COURSE}


def resumed(folder: Path) -> int:
    """How many images were done before, the same for all methods of a run."""
    (count,) = {json.loads(file.read_text(encoding="utf-8"))["resumed"] for file in folder.glob("*/results.json")}
    return int(count)


def assert_same(folder: Path, reference: Path) -> None:
    """Byte for byte, and nothing else left behind."""
    names, expected = ({path.relative_to(place) for path in place.rglob("*")} for place in (folder, reference))
    assert names == expected
    for method in (file.parent for file in reference.glob("*/results.json")):
        for name in FILES:
            assert (folder / method.name / name).read_bytes() == (method / name).read_bytes(), name
        assert results(folder / method.name) == results(method)


def indices(folder: Path) -> list[int]:
    with (only_method(folder) / FILES[0]).open(newline="", encoding="utf-8") as file:
        return [int(row["index"]) for row in csv.DictReader(file)]


class FullDisk:
    """Lets a run write so many batches; then the disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
        self._left = batches
        append = Journal.append

        def limited(journal: Journal, entries: list[dict[str, Any]]) -> None:
            self._left -= 1
            if self._left < 0:
                raise UserError("the disk is full")
            append(journal, entries)

        self._patch = monkeypatch
        monkeypatch.setattr(Journal, "append", limited)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


@pytest.fixture
def die_after(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``die_after(n, *args)`` runs a command that ends with an error after n batches, within this process."""

    def run(batches: int, *args: str) -> Run:
        with monkeypatch.context() as patch, FullDisk(patch, batches):
            done = cli(*args)
        assert refusal(done) == "lorattt: error: the disk is full"
        return done

    return run


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    started = Forks(tmp_path_factory.mktemp("forks"), _PREPARE)
    yield started
    started.close()


# A run without the command line, which takes a second to read its words. Twenty of those would be long, and the
# moments would be moments of reading.
_PREPARE = """
from lightning.pytorch import Trainer
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.results import ResultsWriter
from lorattt.callbacks.run_folder import ConfigWriter, RunFolder
from lorattt.clip.load import ClipSpec
from lorattt.data.demo import DemoData
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.views.crops import ViewSpec

class Parser:
    def dump(self, config, **_):
        return config

method = LoRATTT(clip=ClipSpec("lorattt-demo", "demo"), views=ViewSpec(number=10))

def go(folder):
    observers = [RunFolder(folder=folder), PredictionsWriter(), ResultsWriter()]
    observers.append(ConfigWriter(Parser(), "{}", save_to_log_dir=False))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", devices=1, inference_mode=False, callbacks=observers, **quiet)
    trainer.test(method, DemoData(images=40, batch_size=2, workers=0), verbose=False)
"""


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run of ``demo(20, *QUIET, model=ZERO)``."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert forks.run([*demo(20, *QUIET, model=ZERO), "--run.folder", str(folder)], folder.parent).codes == [0]
    return folder


# --- killed -----------------------------------------------------------------------------------------


@posix
def test_killed_twenty_times_at_random_moments(forks: Forks, tmp_path: Path) -> None:
    """SIGKILL while it starts, between batches and within one."""
    whole = tmp_path / "whole"
    assert forks.run(None, tmp_path, before=f"go({str(whole)!r})").codes == [0]
    chance = random.Random(0)
    kills, runs, most = 0, 0, 0

    def moment() -> bool:
        """Wait for it: a while after the start, or a while after so many new bytes in the journal."""
        begun, before = time.monotonic(), _size(journal)
        bytes_to_see = chance.choice((-1, 1, 2, 800, 1600, 2400))
        pause = chance.uniform(0, 0.3 if bytes_to_see < 0 else 0.1)
        while bytes_to_see > 0 and _size(journal) < before + bytes_to_see:
            assert time.monotonic() < begun + 120
            if list(folder.glob("*/results.json")):
                break  # it had less left to do
            time.sleep(0.002)
        time.sleep(pause)
        return True

    while kills < 20:
        folder = tmp_path / f"killed{runs}"
        journal, before, killed = journal_path(folder, 0), 0, True
        while killed and kills < 20:
            ended = forks.run(None, tmp_path, before=f"go({str(folder)!r})", kill_when=moment)
            killed = ended.codes == [-9]
            if killed and not list(folder.glob("*/results.json")):
                kills += 1
                done = len(read_journals(folder).done)
                assert done >= before, "what was whole once stays"
                before, most = done, max(most, done)
            else:
                break
        if not list(folder.glob("*/results.json")):
            ended = forks.run(None, tmp_path, before=f"go({str(folder)!r})")
            assert ended.codes == [0], ended.err
            assert f"going on in {folder}: {before} images are done" in ended.out[0]
        runs += 1
        if (folder / LOCK_FILE).exists() or list(folder.glob("journal*")):
            continue  # killed when all was written; another test has that
        assert indices(folder) == list(range(40))
        assert resumed(folder) == before
        assert_same(folder, whole)
    assert most > 2


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


_KILL = "import os, signal\ndef die(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
_AT_REPLACE = """
replace, count = os.replace, 0
def counted(*args):
    global count
    count += 1
    if count == {n}: die()
    replace(*args)
os.replace = counted
"""
_AT_REMOVE = "import lorattt.callbacks.predictions as p\np.remove_journals = die\n"


@posix
@pytest.mark.parametrize(
    "where",
    # The files that take their names: config.yaml, predictions.jsonl, predictions.csv, results.json.
    [_AT_REPLACE.format(n=n) for n in (1, 2, 3, 4)] + [_AT_REMOVE],
    ids=["configuration", "first file", "second file", "results", "removal of the journal"],
)
def test_killed_while_files_take_their_places(where: str, forks: Forks, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    args = demo(20, *QUIET, model=ZERO)
    ended = forks.run([*args, "--run.folder", str(folder)], tmp_path, before=_KILL + where)
    assert ended.codes == [-9], ended.err
    ended = forks.run([*args, "--run.folder", str(folder)], tmp_path)
    assert ended.codes == [0], ended.err
    assert_same(folder, whole)


# --- a disk that is full ------------------------------------------------------------------------------


@posix
def test_a_write_that_fails_is_one_line_and_loses_nothing(forks: Forks, whole: Path, tmp_path: Path) -> None:
    """A file may not grow beyond a limit: the line that meets it is cut short, as on a full disk."""
    args = demo(20, *QUIET, model=ZERO)
    folder = tmp_path / "full"
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9001, resource.RLIM_INFINITY))\n"
    ended = forks.run([*args, "--run.folder", str(folder)], tmp_path, before=limit)
    assert ended.codes == [2]
    journal = journal_path(folder, 0)
    assert ended.err[0].splitlines()[-1] == (
        f"lorattt: error: cannot write {journal} ({os.strerror(errno.EFBIG)}): make room or fix the disk, then give "
        f"the same command with --run.folder {folder}; what was written is kept"
    )
    assert len(ended.err[0].splitlines()) == 1
    assert not journal.read_bytes().endswith(b"\n")
    done = len(read_journals(folder).done)
    assert 0 < done < 20
    ended = forks.run([*args, "--run.folder", str(folder)], tmp_path)
    assert ended.codes == [0], ended.err
    assert "unfinished lines are left out" in ended.out[0]
    assert resumed(folder) == done
    assert_same(folder, whole)


@posix
@pytest.mark.parametrize("kilobytes", [12, 36])
def test_a_small_disk(kilobytes: int, forks: Forks, whole: Path, tmp_path: Path) -> None:
    """A file system in memory that is full: while images are classified, or while files are merged."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        args = demo(20, *QUIET, model=ZERO)
        folder = disk / "run"
        ended = forks.run([*args, "--run.folder", str(folder)], tmp_path)
        assert ended.codes == [2]
        assert ended.err[0].startswith("lorattt: error: cannot write "), ended.err
        assert os.strerror(errno.ENOSPC) in ended.err[0]
        assert len(ended.err[0].splitlines()) == 1
        done = len(read_journals(folder).done)
        assert done > 0
        assert (done == 20) == (kilobytes == 36)
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        ended = forks.run([*args, "--run.folder", str(folder)], tmp_path)
        assert ended.codes == [0], ended.err
        assert resumed(folder) == done
        assert_same(folder, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- other numbers of devices ---------------------------------------------------------------------------


_STOP = """
from lorattt.callbacks.journal import Journal, UserError
append, left = Journal.append, {left}
def limited(journal, entries):
    global left
    if not left: raise UserError('enough')
    left -= 1
    append(journal, entries)
Journal.append = limited
"""


@posix
def test_two_devices_then_one_then_two(forks: Forks, tmp_path: Path) -> None:
    """Batches of one image, so that the numbers are the same to the last digit; one image is left for two devices."""
    args = demo(11, *QUIET, batch_size=1)
    two = [*args, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert forks.run([*args, "--run.folder", str(whole)], tmp_path).codes == [0]

    def both_wrote() -> bool:
        until = time.monotonic() + 120
        while not all(_size(journal_path(folder, rank)) for rank in range(2)):
            assert time.monotonic() < until
            time.sleep(0.002)
        return True

    ended = forks.run([*two, "--run.folder", str(folder)], tmp_path, envs=environments(2), kill_when=both_wrote)
    assert ended.codes == [-9, -9], ended.err
    first = set(read_journals(folder).done)
    assert 2 <= len(first) < 10
    stop = _STOP.format(left=10 - len(first))
    ended = forks.run([*args, "--run.folder", str(folder)], tmp_path, before=stop)
    assert ended.codes == [2]
    assert ended.err[0] == "lorattt: error: enough\n"
    assert len(read_journals(folder).done) == 10
    assert len(journals_in(folder)) == 2
    ended = forks.run([*two, "--run.folder", str(folder)], tmp_path, envs=environments(2))
    assert ended.codes == [0, 0], ended.err
    assert "".join(ended.out).count("written to") == 1
    assert resumed(folder) == 10
    assert_same(folder, whole)


@posix
@pytest.mark.parametrize("command", ["test", "predict"])
def test_fewer_images_than_devices(command: str, forks: Forks, tmp_path: Path) -> None:
    args = demo(1, *QUIET, command=command, model=ZERO)
    whole, folder = tmp_path / "whole", tmp_path / "two"
    assert forks.run([*args, "--run.folder", str(whole)], tmp_path).codes == [0]
    two = [*args, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--run.folder", str(folder)]
    ended = forks.run(two, tmp_path, envs=environments(2))
    assert ended.codes == [0, 0], ended.err
    assert_same(folder, whole)


# --- images that cannot be read ---------------------------------------------------------------------------


def _folder(root: Path, *args: str) -> list[str]:
    data = ["--data", "ImageFolderData", "--data.root", str(root), "--data.workers", "0", "--data.batch_size", "1"]
    return ["test", *LORA, *data, *CPU, *args]


def test_a_corrupt_image_in_the_middle(cli: Cli, images: Path) -> None:
    assert cli(*_folder(images, "--run.folder", "whole")).code == 0
    bad = images / "dog" / "0.png"
    content = bad.read_bytes()
    bad.write_bytes(content[:100])
    args = _folder(images, "--run.folder", "run")
    assert "cannot read image dog/0.png" in refusal(cli(*args))
    assert sorted(read_journals(Path("run")).done) == [0, 1, 2]
    assert "cannot read image dog/0.png" in refusal(cli(*args))
    bad.write_bytes(content)
    run = cli(*args)
    assert run.code == 0, run.err
    assert "going on in run: 3 images are done" in run.out
    assert_same(Path("run"), Path("whole"))


def test_images_that_were_left_out_are_tried_again_and_last(cli: Cli, die_after: Any, images: Path) -> None:
    bad = [images / "cat" / "1.png", images / "dog" / "0.png"]
    contents = bad[0].read_bytes()
    for path in bad:
        path.write_bytes(b"no image")
    args = _folder(images, "--data.on_bad_image", "skip", "--run.folder")
    die_after(5, *args, "run")
    bad[0].write_bytes(contents)
    run = cli(*args, "run")
    assert "going on in run: 3 images are done, 2 that could not be read are tried again" in run.out
    assert cli(*args, "whole").code == 0
    assert_same(Path("run"), Path("whole"))
    assert (Path("run") / "skipped.csv").read_bytes() == (Path("whole") / "skipped.csv").read_bytes()
    assert results(Path("run", "lora_ttt"))["skipped"] == 1


# --- several methods, predict, and the screen ---------------------------------------------------------------


def test_several_methods(cli: Cli, die_after: Any, tmp_path: Path) -> None:
    clip = {"model": "lorattt-demo", "pretrained": "demo"}
    settings = {"methods": ["zero_shot", "mta"], "clip": clip, "views": {"number": 8}}
    config = tmp_path / "several.yaml"
    config.write_text(json.dumps({"model": {"class_path": "Several", "init_args": settings}}), encoding="utf-8")
    args = ["test", "-c", str(config), *DEMO, "--data.batch_size", "2", "--run.folder"]
    assert cli(*args, "whole").code == 0
    die_after(2, *args, "run")
    assert cli(*args, "run").code == 0
    assert resumed(Path("run")) == 4
    assert_same(Path("run"), Path("whole"))
    assert {path.name for path in Path("run").iterdir()} == {"config.yaml", "metrics.csv", "zero_shot", "mta"}
    again = cli(*args, "run")
    assert again.code == 0
    assert "by a run that is finished: nothing to do" in again.out
    assert again.out.index("zero_shot ") < again.out.index("mta ")


def test_predict_with_workers(cli: Cli, die_after: Any) -> None:
    args = demo(6, "--data.workers", "1", command="predict", model=ZERO)
    assert cli(*args, "--run.folder", "whole").code == 0
    die_after(2, *args, "--run.folder", "run")
    run = cli(*args, "--run.folder", "run")
    assert run.code == 0, run.err
    assert resumed(Path("run")) == 4
    assert_same(Path("run"), Path("whole"))
    # The bar begins with what is done.
    assert "2/3" in run.out
    assert "3/3" in run.out
    assert "1/3" not in run.out


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_nothing_is_left_but_to_merge(command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    args = demo(4, "--run.folder", "run", command=command, model=ZERO)

    def fail(*_: object) -> None:
        raise UserError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("lorattt.callbacks.predictions.merge", fail)
        assert "not now" in refusal(cli(*args))
    run = cli(*args)
    assert (run.code, run.err) == (0, "")
    assert (resumed(Path("run")), run.results["images_per_second"]) == (4, 0)
    assert "speed not known: an earlier attempt classified all images, peak memory" in run.out
    assert indices(Path("run")) == list(range(4))


SEVERAL = ["--model", "Several", "--model.methods", "[zero_shot, zero]", *ZERO[2:], "--model.views.number", "4"]


@pytest.mark.parametrize("model", [ZERO, SEVERAL], ids=["one method", "several methods"])
def test_a_run_that_ended_right_after_its_summary_keeps_its_speed(
    model: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = demo(4, "--run.folder", "run", model=model)

    def fail(folder: Path) -> None:
        if list(folder.rglob("results.json")):
            raise UserError("not now")

    with monkeypatch.context() as patch:
        patch.setattr("lorattt.callbacks.predictions.remove_journals", fail)
        first = cli(*args)
        assert "not now" in refusal(first)
    files = sorted(Path("run").rglob("results.json"))
    assert len(files) == (1 if model is ZERO else 2)
    written = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    assert all(row["images_per_second"] > 0 for row in written)
    if model is SEVERAL:  # it ended between the two
        files[1].unlink()
    run = cli(*args)
    assert (run.code, run.err) == (0, "")
    for path, row in zip(files, written, strict=True):
        again = json.loads(path.read_text(encoding="utf-8"))
        assert again == row
    (speed,) = re.findall(r"[\d.]+ images/s(?= for all methods together, peak|, peak)", first.out)
    assert f"\n{speed}" in run.out
    assert " 0.0 images/s" not in run.out
    assert not journals_in(Path("run"))


@pytest.mark.parametrize("content", [b"\0" * 300, b"[]", b"{}"])
def test_damaged_results_of_a_finished_run_are_one_line(cli: Cli, content: bytes) -> None:
    args = demo(2, "--run.folder", "run", model=ZERO)
    assert cli(*args).code == 0
    Path("run", "zero_shot", "results.json").write_bytes(content)
    line = refusal(cli(*args))
    assert line.startswith("lorattt: error: run/zero_shot/results.json: damaged (")
    assert "name another run.folder, or remove this one" in line


def test_the_bar_begins_with_the_accuracy_of_what_is_done(
    cli: Cli, die_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = demo(6)
    die_after(2, *args, "--run.folder", "run")
    seen: list[tuple[int, int, int]] = []
    count = RunProgress.count

    def noted(bar: RunProgress, *rest: Any) -> None:
        count(bar, *rest)
        seen.append((bar._labelled, bar._before, bar._after))

    monkeypatch.setattr(RunProgress, "count", noted)
    run = cli(*args, "--run.folder", "run")
    hits = [sum(row[f"prediction_{when}"] == row["label"] for row in run.rows) for when in ("before", "after")]
    assert seen == [(6, *hits)]
    assert "2/3" in run.out
    assert "1/3" not in run.out


def test_a_finished_run_is_shown_again(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    args = demo(6, "--run.folder", "run", model=ZERO)
    first = cli(*args)
    content = {path: path.read_bytes() for path in Path("run").rglob("*.*")}

    def fail(*_: object, **__: object) -> None:
        pytest.fail("the model is loaded")

    monkeypatch.setattr("lorattt.methods.base.load_clip", fail)
    again = cli(*args, "--data.batch_size", "3", "--trainer.devices", "1")
    assert (again.code, again.err) == (0, "")
    shown = first.out[first.out.index("zero_shot on demo-noise") :].strip()
    assert again.out.strip() == f"{shown} by a run that is finished: nothing to do"
    assert {path: path.read_bytes() for path in Path("run").rglob("*.*")} == content


def test_results_without_an_interval_are_shown(cli: Cli) -> None:
    """An earlier version's, which lack the keys, and one image's, where they are null."""
    args = demo(6, "--run.folder", "run", model=ZERO)
    assert "+0.00   (95 %: +0.00 to +0.00)\n" in cli(*args).out
    file = Path("run", "zero_shot", "results.json")
    row = json.loads(file.read_text(encoding="utf-8"))
    ends = ("top1_change_low", "top1_change_high")
    earlier = {key: value for key, value in row.items() if key not in ends}
    for without in (earlier, {**row, **dict.fromkeys(ends)}):
        file.write_text(json.dumps(without), encoding="utf-8")
        again = cli(*args)
        assert (again.code, "+0.00\n" in again.out, "95 %" in again.out) == (0, True, False), again.err
        known, unknown = table_of([row, without], Path("run")).splitlines()[5:7]
        assert known == f"{unknown} (+0.00 to +0.00)"
    file.write_text(json.dumps({**row, ends[0]: "low"}), encoding="utf-8")
    assert "results.json: damaged (TypeError)" in refusal(cli(*args))


# --- what a run may not go on with ----------------------------------------------------------------------------


def test_another_configuration_is_refused_by_key(cli: Cli, die_after: Any) -> None:
    args = demo(6)
    die_after(1, *args, "--run.folder", "run")
    for finished in (False, True):
        line = refusal(cli(*args, "--run.folder", "run", "--model.steps", "2", "--seed_everything", "3"))
        assert "run.folder run holds a run of another configuration (" in line
        assert "seed_everything: 0 there, 3 now; " in line
        assert "model.steps: 1 there, 2 now" in line
        assert "name another run.folder, or remove this one" in line
        line = refusal(cli(*demo(6, "--run.folder", "run", model=ZERO)))
        assert "model: lorattt.methods.lora_ttt.LoRATTT there, lorattt.methods.zero_shot.ZeroShot now" in line
        if not finished:
            # Batches, workers and the like may change, since predictions do not depend on them.
            run = cli(*args, "--run.folder", "run", "--data.batch_size", "3", "--model.chunk", "7", *QUIET)
            assert run.code == 0, run.err
            assert resumed(Path("run")) == 2
            assert indices(Path("run")) == list(range(6))


def test_keys_that_count() -> None:
    there = {
        "trainer": {"precision": None, "devices": 1},
        "model": {"class_path": "A", "init_args": {"names": ["x" * 80], "options": {"b": {"chunk": 1}}}},
        "data": {"init_args": {"batch_size": 1, "workers": 1, "prefetch": 1, "on_bad_image": "skip", "limit": None}},
        "run": {"root": "a", "folder": "a", "resume": True, "top_k": 5},
        "verbose": True,
    }
    here: dict[str, Any] = json.loads(json.dumps(there))
    here["trainer"]["devices"] = 2
    here["model"]["init_args"]["options"]["b"]["chunk"] = 2
    here["data"]["init_args"] = {"batch_size": 2, "workers": 2, "on_bad_image": "error", "limit": None}
    here["run"] = {"root": "b", "top_k": 5}
    here["verbose"] = False
    here["model"]["init_args"]["unknown_to_earlier_versions"] = None
    assert differences(there, here) == []
    here["trainer"]["precision"] = "bf16-mixed"
    here["model"]["init_args"]["names"] = ["y" * 80]
    here["data"]["init_args"]["limit"] = 7
    here["run"]["top_k"] = 6
    here["more"] = {}
    assert differences(there, here) == [
        "trainer.precision: null there, bf16-mixed now",
        f'model.names: ["{"x" * 55}... there, ["{"y" * 55}... now',
        "data.limit: null there, 7 now",
        "run.top_k: 5 there, 6 now",
        "more: absent there, {} now",
    ]


def test_resume_may_be_switched_off(cli: Cli, die_after: Any) -> None:
    args = demo(6, "--run.folder", "run", model=ZERO)
    die_after(1, *args)
    assert "already holds journal.rank0.jsonl of a run that did not end" in refusal(cli(*args, "--run.resume", "false"))
    assert cli(*args).code == 0
    assert "already holds zero_shot/results.json" in refusal(cli(*args, "--run.resume", "false"))


def test_images_that_have_changed_are_refused(cli: Cli, die_after: Any, images: Path) -> None:
    args = _folder(images, "--run.folder", "run")
    die_after(2, *args)
    (images / "cat" / "0.png").rename(images / "cat" / "00.png")
    line = refusal(cli(*args))
    assert "pets has changed since the run began: image 0 was cat/0.png and is cat/00.png" in line
    (images / "cat" / "00.png").rename(images / "cat" / "0.png")
    assert cli(*args).code == 0


def test_a_damaged_configuration_is_no_configuration(cli: Cli, die_after: Any) -> None:
    args = demo(6, "--run.folder", "run", model=ZERO)
    die_after(1, *args)
    for content in (b"\xff", b"a: ["):
        (Path("run") / "config.yaml").write_bytes(content)
        assert "already holds journal.rank0.jsonl" in refusal(cli(*args))
    (Path("run") / "config.yaml").unlink()
    assert "already holds journal.rank0.jsonl" in refusal(cli(*args))


def test_from_python_nothing_is_gone_on_with(tmp_path: Path) -> None:
    """Nobody compares configurations there."""
    journal = Journal(journal_path(tmp_path, 0))
    journal.append([{"index": 0, "path": "a", "reason": "b"}])
    journal.close()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RunFolder(folder=str(tmp_path)), PredictionsWriter(), ResultsWriter()],
    )
    with pytest.raises(UserError, match=r"already holds journal\.rank0\.jsonl"):
        trainer.test(ZeroShot(clip=ClipSpec("lorattt-demo", "demo")), DemoData(images=2, workers=0), verbose=False)
    assert {path.name for path in tmp_path.iterdir()} == {"journal.rank0.jsonl"}


# --- one run at a time ------------------------------------------------------------------------------------------


_HOLD = """
import fcntl, sys
file = open("run/run.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 7 on host")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


@posix
def test_two_runs_in_one_folder(cli: Cli, die_after: Any) -> None:
    args = demo(6, "--run.folder", "run", model=ZERO)
    die_after(1, *args)
    with subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        before = journal_path(Path("run"), 0).read_bytes()
        line = refusal(cli(*args))
        assert "run.folder run is in use by another run (process 7 on host)" in line
        assert journal_path(Path("run"), 0).read_bytes() == before
        other.kill()
    assert (Path("run") / LOCK_FILE).exists(), "a run that was killed leaves the file, which is no lock"
    run = cli(*args)
    assert run.code == 0, run.err
    assert not (Path("run") / LOCK_FILE).exists()


def test_a_lock_is_released_once_and_taken_again(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


@posix
def test_a_killed_run_is_free_while_its_workers_live(tmp_path: Path) -> None:
    ready, write = os.pipe()
    run = os.fork()
    if run == 0:
        lock = FolderLock(tmp_path)
        if os.fork() == 0:  # a loader's worker
            os.write(write, b"%d\n" % os.getpid())
        time.sleep(60)
        os._exit(int(lock is None))  # held until here
    worker = int(os.read(ready, 20))
    try:
        with pytest.raises(UserError, match=f"in use by another run \\(process {run} on "):
            FolderLock(tmp_path)
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        FolderLock(tmp_path).release()
    finally:
        os.kill(worker, signal.SIGKILL)


# --- the journal alone --------------------------------------------------------------------------------------------


def entry(index: int, *, label: int | None = 1) -> dict[str, Any]:
    side = {"entropy": 0.1, "top": [[index % 2, 0.25]]}
    answer = {"before": {**side, "top": [[1, 0.5]]}, "after": side, "scores": None, "fallback": False}
    return {"index": index, "path": f"é{index}\ud800\n", "label": label, "answers": {"mine": answer}}


def test_a_journal_cut_anywhere_keeps_its_whole_batches(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 0)
    journal = Journal(path)
    ends = []
    for batch in ([0, 1, 2], [3], [4, 5]):
        journal.append([entry(index) for index in batch])
        ends += [path.stat().st_size] * len(batch)
    journal.close()
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        found = read_journals(tmp_path)
        assert list(found.done) == [index for index, end in enumerate(ends) if end <= length]
        assert [each["index"] for each in entries_at(found.done.values())] == list(found.done)
        if length % 97 == 0:
            Journal(path).close()  # cuts off what is not whole
            assert path.stat().st_size == max((end for end in ends if end <= length), default=0)
    path.write_bytes(content)
    assert [each["path"] for each in entries_at(read_journals(tmp_path).done.values())] == [
        entry(index)["path"] for index in range(6)
    ]


def test_damage_in_the_middle_costs_its_batch(tmp_path: Path) -> None:
    path = journal_path(tmp_path, 0)
    journal = Journal(path)
    for batch in ([0, 1], [2, 3], [4, 5], [6]):
        journal.append([entry(index) for index in batch])
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    for damage, kept, dropped in (
        ({1: b"\0" * len(lines[1])}, [0, 1, 6], 1),  # swallows the line behind it
        ({1: lines[1][:9] + b"\0\n"}, [0, 1, 4, 5, 6], 1),
        ({1: b""}, [0, 1, 4, 5, 6], 0),
        ({0: lines[0].replace(b'"path"', b'"pith"', 1)}, [2, 3, 4, 5, 6], 1),
        ({2: b"[]\n"}, [0, 1, 2, 3, 6], 1),
        ({2: b"7\n", 3: b"[{}]\n"}, [0, 1, 2, 3], 2),
        ({2: b"[[]]\n", 3: b"{}\n"}, [0, 1, 2, 3], 2),
    ):
        path.write_bytes(b"".join(damage.get(number, line) for number, line in enumerate(lines)))
        found = read_journals(tmp_path)
        assert sorted(found.done) == kept
        assert found.dropped == dropped
        assert [each["index"] for each in entries_at(found.done[index] for index in kept)] == kept


@pytest.mark.parametrize("a_line", ["batch", "image"])
def test_an_unfinished_run_of_an_earlier_version_is_refused(a_line: str, cli: Cli, die_after: Any) -> None:
    """Its journal gave the only method no name; the oldest had a line per image."""
    args = demo(6, "--run.folder", "run", model=ZERO)
    die_after(2, *args)
    path = journal_path(Path("run"), 0)
    text = path.read_text(encoding="ascii").replace('"answers": {"zero_shot":', '"answers": {"":')
    if a_line == "image":
        text = "".join(json.dumps(each) + "\n" for line in text.splitlines() for each in json.loads(line))
    path.write_text(text, encoding="ascii")
    assert refusal(cli(*args)) == (
        "lorattt: error: run.folder run holds an unfinished run of an earlier version of lorattt: finish it with that "
        "version, or name another run.folder"
    )
    assert path.read_text(encoding="ascii") == text


def test_a_finished_run_of_an_earlier_version_is_shown_again(cli: Cli) -> None:
    """The only method's files were in the run's folder."""
    args = demo(6, "--run.folder", "run", model=ZERO)
    first = cli(*args)
    for file in Path("run", "zero_shot").iterdir():
        file.rename(Path("run", file.name))
    Path("run", "zero_shot").rmdir()
    again = cli(*args)
    assert (again.code, again.err) == (0, "")
    shown = first.out[first.out.index("zero_shot on demo-noise") :].strip()
    assert again.out.strip() == f"{shown} by a run that is finished: nothing to do"


def test_journals_of_all_devices_count_and_a_later_reading_wins(tmp_path: Path) -> None:
    for rank, entries in (
        (0, [entry(4), {"index": 2, "path": "c", "reason": "x"}, {"index": 7, "path": "d", "reason": "y"}]),
        (3, [entry(2, label=None), entry(9)]),
    ):
        journal = Journal(journal_path(tmp_path, rank))
        journal.append(entries)
        journal.close()
    Journal(journal_path(tmp_path, 1)).close()
    found = read_journals(tmp_path)
    assert (sorted(found.done), sorted(found.bad), found.dropped) == ([2, 4, 9], [7], 0)
    assert [found.done[index].right for index in (2, 4, 9)] == [None, (True, False), (True, True)]
    assert journals_in(tmp_path) == [journal_path(tmp_path, 0), journal_path(tmp_path, 3)]


def test_numbers_that_are_none_come_back() -> None:
    writer = PredictionsWriter()
    logits = torch.tensor([[float("nan")] * 3, [1e4, 0.0, -1e4]])
    sides = json.loads(json.dumps(writer._sides(logits)))
    assert [side["entropy"] for side in sides] == pytest.approx([float("nan"), 0.0], nan_ok=True)
    assert sides[1]["top"] == [[0, 1.0]]


def test_journals_reach_the_disk_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 30 s or a batch; not at every batch, which a fast run would feel."""
    now, synced = [0.0], []
    monkeypatch.setattr("lorattt.callbacks.journal.time.monotonic", lambda: now[0])
    monkeypatch.setattr("lorattt.callbacks.journal.os.fsync", lambda _: synced.append(now[0]))
    journal = Journal(journal_path(tmp_path, 0))
    for now[0] in (1.0, 29.0, 31.0, 32.0, 60.0, 61.0, 200.0):
        journal.append([entry(int(now[0]))])
    assert synced == [31.0, 61.0, 200.0]
    journal.close()
    assert len(synced) == 4
