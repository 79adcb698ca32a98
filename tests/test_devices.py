"""Runs on several processes give the files of a run on one, byte for byte."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from forked import Forks, environments

METHODS = ("lora_ttt", "tlla", "tpt", "self_tpt")
# One image at a time: a matrix product over another number of images is rounded otherwise.
ARGS = ["test", "--data", "DemoData", "--data.classes", "new", "--data.batch_size", "1", "--data.workers", "0"]
ARGS += ["--model", "Several", "--model.methods", f"[{','.join(METHODS)}]"]
ARGS += ["--model.options", json.dumps({"tlla": {"views_kept": 3}, "self_tpt": {"ensemble": True, "stage2_lr": 0.2}})]
ARGS += ["--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo", "--model.views.number", "10"]
ARGS += ["--model.prompt.file", "demo-self-tpt", "--trainer.accelerator", "cpu"]
ARGS += ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    server = Forks(tmp_path_factory.mktemp("screen"))
    yield server
    server.close()


@pytest.mark.parametrize("images", [7, 101])
def test_several_processes_give_the_files_of_one(images: int, forks: Forks, tmp_path: Path) -> None:
    args = [*ARGS, "--data.images", str(images)]
    folders = {count: tmp_path / str(count) for count in (1, 2, 3)}
    for count, folder in folders.items():
        spread = ["--trainer.devices", str(count), *(["--trainer.strategy", "ddp"] if count > 1 else [])]
        envs = environments(count) if count > 1 else None
        ended = forks.run([*args, *spread, "--run.folder", str(folder)], tmp_path, envs=envs)
        assert ended.codes == [0] * count, ended.err
    for method in METHODS:
        whole = (folders[1] / method / "predictions.jsonl").read_bytes()
        assert whole.count(b"\n") == images
        for count in (2, 3):
            assert (folders[count] / method / "predictions.jsonl").read_bytes() == whole, (method, count)
            one, other = (json.loads((folders[n] / method / "results.json").read_text("utf-8")) for n in (1, count))
            same = {key for key in one if key.startswith(("top", "ece", "nll", "n", "fallbacks"))}
            assert {key: one[key] for key in same} == {key: other[key] for key in same}
