"""Pictures in a report that is made in another folder than the runs were, whose paths are relative."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from run_files import change_results, write_run

from lorattt.data.images import UnreadableImageError
from lorattt.report.command import main
from lorattt.report.pictures import Pictures, data_of
from lorattt.report.runs import find_runs

RED, BLUE = (200, 10, 10), (10, 10, 200)
FOLDER = {"class_path": "lorattt.data.folder.ImageFolderData", "init_args": {"root": "photos"}}
LOOSE = {"class_path": "lorattt.data.loose.ImagesData", "init_args": {"images": "photos"}}


def project(
    root: Path, below: str, config: dict[str, Any], data: dict[str, Any], colour: tuple[int, ...] = RED
) -> Path:
    """A project with four images in ``photos``, and a run that was started in it; the run's folder."""
    run = write_run(root / below, dataset="photos", n=4)
    (root / "photos" / "photos").mkdir(parents=True, exist_ok=True)
    for number in range(4):
        Image.new("RGB", (8, 8), colour).save(root / "photos" / "photos" / f"{number:06d}.png")
    stated = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    (run / "config.yaml").write_text(yaml.safe_dump({**stated, "data": data, "run": config}), encoding="utf-8")
    if data is LOOSE:
        file = run / "predictions.csv"
        text = file.read_text(encoding="utf-8").replace("photos/", f"photos{os.sep}photos{os.sep}")
        file.write_text(text, encoding="utf-8")
    return run


def seen(folder: Path) -> tuple[int, ...]:
    (run,) = find_runs([str(folder)])
    found: Any = Pictures(run).read(run.predictions.path[2]).getpixel((3, 3))
    return tuple(found)


@pytest.mark.parametrize("data", [FOLDER, LOOSE], ids=["a folder", "loose images"])
@pytest.mark.parametrize(
    ("below", "config"),
    [
        ("runs/lora_ttt/photos/000", {"root": "runs", "folder": None}),
        ("deep/runs/lora_ttt/photos/000", {"root": "deep/runs"}),
        ("out/mine", {"root": "runs", "folder": "out/mine"}),
        ("mine", {"folder": "mine"}),
    ],
    ids=["root", "deep root", "folder", "one folder"],
)
def test_the_place_of_the_run_says_where_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], below: str, config: dict[str, Any]
) -> None:
    """Also of a project that was moved, and before what lies in the current folder under the same names."""
    project(tmp_path / "old", below, config, data)
    change_results(tmp_path / "old" / below, directory=str(tmp_path / "old"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    project(tmp_path / "here", below, config, data, BLUE)
    monkeypatch.chdir(tmp_path / "here")
    assert seen(tmp_path / "new" / below) == RED
    monkeypatch.chdir(tmp_path / "new")
    assert seen(Path(below)) == RED


@pytest.mark.parametrize("data", [FOLDER, LOOSE], ids=["a folder", "loose images"])
def test_the_results_say_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]
) -> None:
    """Of a run whose folder was named from the root of the disk, or was copied elsewhere."""
    run = project(tmp_path / "work", "out", {"folder": str(tmp_path / "work" / "out")}, data)
    change_results(run, directory=str(tmp_path / "work"))
    shutil.copytree(run, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert seen(tmp_path / "copy") == RED


@pytest.mark.parametrize("data", [FOLDER, LOOSE], ids=["a folder", "loose images"])
def test_pictures_that_are_not_there_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: dict[str, Any]
) -> None:
    run = project(tmp_path / "work", "out", {"folder": str(tmp_path / "work" / "out")}, data)
    shutil.rmtree(tmp_path / "work" / "photos")
    monkeypatch.chdir(tmp_path)
    assert main(["work/out", "--no-plots", "--format", "html"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("lorattt: no pictures of work/out: ")
    assert said.count("\n") == 1
    assert str(tmp_path) in said, "where they were looked for"
    assert main([str(run), "--no-plots", "--format", "html", "--images", "0"]) == 0
    assert capsys.readouterr().err == "", "none were asked for"


@pytest.mark.parametrize("stated", [7, None, "", ["x"]])
def test_results_that_do_not_say_it(tmp_path: Path, stated: object) -> None:
    """Of an earlier version, or edited."""
    folder = project(tmp_path / "work", "out", {"folder": str(tmp_path / "work" / "out")}, FOLDER)
    change_results(folder, directory=stated)
    (run,) = find_runs([str(folder)])
    with pytest.raises(UnreadableImageError, match="no folder photos of images"):
        Pictures(run).read("a.png")


def test_the_word_for_imagenets_names_is_no_file(tmp_path: Path) -> None:
    """A folder of that name may lie where the run was started: it is the data's root."""
    data = {**FOLDER, "init_args": {"root": "imagenet", "class_names": "imagenet"}}
    run = project(tmp_path, "runs/lora_ttt/photos/000", {"root": "runs"}, data)
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "names.txt").touch()
    (found,) = find_runs([str(run)])
    _, arguments = data_of(found)
    assert arguments == {"root": str(tmp_path / "imagenet"), "class_names": "imagenet"}
    stated = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    stated["data"]["init_args"]["class_names"] = "names.txt"
    (run / "config.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    (found,) = find_runs([str(run)])
    assert data_of(found)[1]["class_names"] == str(tmp_path / "names.txt")


def test_weights_and_prompts_are_resolved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the views, which load the run's model; names of weights and prompts are no files."""
    from lorattt.report import views

    run = project(tmp_path / "work", "runs/lora_ttt/photos/000", {"root": "runs"}, FOLDER)
    stated = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    own = {"clip": {"model": "lorattt-demo", "pretrained": "weights.pt"}, "prompt": {"file": "demo"}}
    stated["model"]["init_args"] |= own
    (run / "config.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    (tmp_path / "work" / "weights.pt").touch()
    monkeypatch.setattr("lorattt.methods.registry.build_method", lambda name, options, **shared: shared)
    (found,) = find_runs([str(run)])
    built = views._method(found)
    assert built["clip"].pretrained == str(tmp_path / "work" / "weights.pt")
    assert built["prompt"].file == "demo"
