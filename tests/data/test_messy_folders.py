"""Folders as they come off disks, phones and servers: what counts as a class, what as an image, and what is said."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorattt.data.few_shot import FolderSourceData
from lorattt.data.folder import ImageFolder
from lorattt.data.images import IMAGE_ENDINGS, read_image
from lorattt.data.loose import find_images
from lorattt.data.walk import look_below
from lorattt.errors import UserError


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif path.suffix.lower() in IMAGE_ENDINGS:
            Image.new("RGB", (4, 3)).save(path, "PNG")
        else:
            path.write_bytes(b"x")
    return root


def said(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, and what it says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = call()
    return found, [str(each.message) for each in caught]


def refused(root: Path, *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        ImageFolder(root, *args)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(root), "ROOT")


# --- empty class folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [None, ["ant", "bee", "cat"]])
def test_an_empty_class_folder_is_named(names: list[str] | None, tmp_path: Path) -> None:
    put(tmp_path, "ant/1.jpg", "bee/", "cat/1.jpg")
    assert refused(tmp_path, names).startswith(
        "data.root ROOT: class folder 'bee' holds no image that is read (nothing"
    )


def test_a_class_folder_of_files_that_are_not_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, "ant/1.jpg", "cat/1.avif", "cat/2.AVIF", "cat/3.heic", "cat/4", "eel/deep/")
    message = refused(tmp_path)
    assert (
        "class folders 'cat', 'eel' hold no image that is read ('cat' has 2 .avif, 1 without an ending, 1 .heic;"
        in message
    )
    assert "images are files of JPEG, PNG" in message
    with pytest.raises(UserError, match="class folders 'cat', 'eel' hold no image"):
        FolderSourceData(str(tmp_path))


def test_a_link_to_a_class_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    put(tmp_path, "ant/1.jpg", "bee/1.jpg")
    os.symlink(tmp_path / "gone", tmp_path / "cat")
    assert "class folder 'cat' holds no image" in refused(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "ant/1.jpg", "bee/1.jpg")
    scan = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "bee cannot be read (Permission denied)" in refused(tmp_path)


def test_folders_beside_images_without_classes_are_told(tmp_path: Path) -> None:
    folder, (told,) = said(lambda: ImageFolder(put(tmp_path, "1.jpg", "later/")))
    assert folder.class_names == []
    assert "its folders ('later') hold no image, and are no classes" in told


# --- endings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".dib", ".mpo", ".apng", ".pbm", ".PNM", ".tif", ".WebP"])
def test_every_ending_of_a_format_that_is_read_counts(ending: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(tmp_path / "cat" / f"1{ending}")
    folder, told = said(lambda: ImageFolder(tmp_path))
    assert (len(folder), told) == (1, [])
    assert folder.read(0).size == (16, 16)


def test_pillows_own_table_is_the_list_of_endings() -> None:
    """Whatever Pillow would write with this ending is a format that is read."""
    for ending in IMAGE_ENDINGS:
        assert Image.registered_extensions()[ending] in (
            "JPEG",
            "MPO",
            "PNG",
            "WEBP",
            "BMP",
            "DIB",
            "GIF",
            "TIFF",
            "PPM",
        )
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"} <= set(IMAGE_ENDINGS)
    assert not {".eps", ".pdf", ".svg", ".ico", ".psd"} & set(IMAGE_ENDINGS)


def test_a_headless_bitmap_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (5, 7), (1, 2, 3)).save(tmp_path / "image.dib")
    assert (tmp_path / "image.dib").read_bytes()[:2] != b"BM"
    assert read_image(tmp_path / "image.dib").getpixel((4, 6)) == (1, 2, 3)


# --- what is left out ---------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_said_once(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.heic", "a/sub/3.heic", "b/1.png", "b/notes.txt", "b/photo", "labels.csv")
    folder, (told,) = said(lambda: ImageFolder(tmp_path))
    assert len(folder) == 2
    assert "left out 5 files (2 .heic, 1 without an ending, 1 .csv, 1 .txt); images are" in told
    assert said(lambda: find_images(str(tmp_path)))[1][0].count("2 .heic") == 1


def test_what_systems_leave_behind_is_no_class_and_no_image(tmp_path: Path) -> None:
    junk = (
        "@eaDir",
        "__MACOSX",
        ".ipynb_checkpoints",
        "Thumbs",
        "$RECYCLE.BIN",
        "lost+found",
        "#recycle",
        "__pycache__",
    )
    put(tmp_path, "a/1.png", "b/1.png", "a/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", *(f"{name}/x.png" for name in junk))
    put(tmp_path, ".DS_Store", "a/Thumbs.db", "b/desktop.ini", "b/._1.png")
    folder, (told,) = said(lambda: ImageFolder(tmp_path))
    assert [folder.path(i) for i in range(len(folder))] == ["a/1.png", "b/1.png"]
    assert folder.class_names == ["a", "b"]
    assert "files" not in told.split(";")[0]
    assert set(look_below(tmp_path).passed) == set(junk)
    assert look_below(tmp_path).passed["@eaDir"] == 2


def test_a_clean_folder_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/deep/er/1.jpg", ".DS_Store", "a/._1.png")
    assert said(lambda: ImageFolder(tmp_path))[1] == []
    assert said(lambda: find_images(str(tmp_path)))[1] == []


# --- one level too high -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"), "ROOT/train"),
        (("Train/cat/1.png", "val/cat/1.png", "extras/1.png"), "ROOT/val"),
        (("test/cat/1.png", "test/dog/1.png"), "ROOT/test"),
        (("train/1.png", "validation/2.png"), "ROOT/validation"),
    ],
)
def test_splits_are_no_classes(files: tuple[str, ...], named: str, tmp_path: Path) -> None:
    message = refused(put(tmp_path, *files))
    assert "holds the splits of a dataset" in message
    assert message.endswith(f"name one of them, such as {named}")


def test_one_folder_around_the_classes(tmp_path: Path) -> None:
    message = refused(put(tmp_path, "photos/cat/1.png", "photos/dog/1.png", "photos/notes.txt"))
    assert "holds one folder, 'photos', with 2 folders of images in it: name ROOT/photos" in message


@pytest.mark.parametrize(
    "files",
    [
        ("train/1.png", "bus/1.png"),  # a means of transport
        ("train/steam/1.png", "bus/red/1.png"),
        ("cat/1.png", "cat/more/1.png"),
        ("test/1.png",),
    ],
)
def test_classes_that_are_called_as_splits_are_classes(files: tuple[str, ...], tmp_path: Path) -> None:
    folder = ImageFolder(put(tmp_path, *files))
    assert folder.class_names == sorted({file.split("/")[0] for file in files})


# --- patterns -----------------------------------------------------------------------------------------------------


def test_a_pattern_that_misses_another_spelling_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "p/a.jpg", "p/b.JPG", "p/c.jpeg", "p/d.JPEG", "p/e.png", "p/f.txt", "p/q/g.jpg", "p/q/h.Jpg")
    monkeypatch.chdir(tmp_path)
    found, (told,) = said(lambda: find_images("p/*.jpg"))
    assert found == ["p/a.jpg"]
    assert told.startswith("data.images 'p/*.jpg' leaves out 1 .JPEG, 1 .JPG, 1 .jpeg, which are of the same format")
    found, (told,) = said(lambda: find_images("p/**/*.jpg"))
    assert found == ["p/a.jpg", "p/q/g.jpg"]
    assert "1 .Jpg" in told
    for pattern in ("p/*", "p/*.png", "p/*.[jJ][pP]*", "p/*.txt"):
        assert said(lambda pattern=pattern: find_images(pattern))[1] == []
    with pytest.raises(UserError, match=r"'p/\*\.PNG' matches no file: .*\(there are 1 \.png: an ending is matched to"):
        find_images("p/*.PNG")
