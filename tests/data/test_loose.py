"""Images as they lie about: what a path, a pattern, a folder and a list find, and class names without folders."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lorattt.data.images import UnreadableImageError
from lorattt.data.loose import ImagesData, find_images, unlabelled_class_names, unlabelled_images
from lorattt.data.walk import look_below
from lorattt.errors import UserError

NAMES = ["cat", "dog"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: two folders of images, a note and hidden files."""
    files = ["photos/b.jpg", "photos/a.png", "photos/sub/deep/c.JPG", "photos/sub/a.gif", "photos/.hid.png"]
    for number, name in enumerate([*files, "photos/.git/d.png", "more/e.png", "more/odd"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (number, 0, 0)).save(path, "PNG")
    (tmp_path / "photos" / "notes.txt").write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BELOW = ["photos/a.png", "photos/b.jpg", "photos/sub/a.gif", "photos/sub/deep/c.JPG"]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ("photos", BELOW),
        ("photos/", BELOW),
        ("photos/*", ["photos/a.png", "photos/b.jpg", "photos/notes.txt"]),
        ("photos/*.jpg", ["photos/b.jpg"]),
        ("photos/[ab].*", ["photos/a.png", "photos/b.jpg"]),
        ("photos/**/*.[jJ][pP][gG]", ["photos/b.jpg", "photos/sub/deep/c.JPG"]),
        ("**/*.gif", ["photos/sub/a.gif"]),
        ("more/odd", ["more/odd"]),
        ("photos/.hid.png", ["photos/.hid.png"]),
        ("./photos/b.jpg", ["./photos/b.jpg"]),
        (["photos/b.jpg", "more", "photos/a.png"], ["photos/b.jpg", "more/e.png", "photos/a.png"]),
        # Each file once, where it comes first.
        (["photos/sub/a.gif", "photos"], ["photos/sub/a.gif", "photos/a.png", "photos/b.jpg", "photos/sub/deep/c.JPG"]),
        (["more/e.png", "./more/e.png", "more/*.png", "more/../more"], ["more/e.png"]),
    ],
)
def test_what_is_found_and_in_which_order(here: Path, images: list[str] | str, found: list[str]) -> None:
    assert find_images(images) == found


def test_a_folder_gives_what_a_walk_finds(here: Path) -> None:
    """Oracle: pathlib's own search, without hidden parts."""
    everything = [path.relative_to(here) for path in here.rglob("*") if path.is_file()]
    shown = [path for path in everything if not any(part.startswith(".") for part in path.parts)]
    expected = sorted(
        (path for path in shown if path.suffix.lower() in (".jpg", ".png", ".gif")), key=lambda p: p.parts
    )
    assert find_images(str(here)) == [str(here / path) for path in expected]


def test_a_list_of_paths(here: Path) -> None:
    lines = ["photos/b.jpg", "", "  more/e.png  ", "photos/sub", str(here / "photos/a.png"), "photos/b.jpg"]
    (here / "list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    below = ["photos/sub/a.gif", "photos/sub/deep/c.JPG"]
    expected = ["photos/b.jpg", "more/e.png", *below, str(here / "photos/a.png")]
    assert find_images("@list.txt") == expected
    assert find_images(["more/odd", f"@{here}/list.txt"]) == ["more/odd", *expected]


def test_names_that_look_like_patterns_or_lists_are_files_first(here: Path) -> None:
    for name in ("[a].png", "@x.png", "100%.png", "a, b.png", "what?.png"):
        (here / "photos" / "a.png").replace(here / name)
        assert find_images(name) == [name]
        (here / name).replace(here / "photos" / "a.png")


def test_the_home_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "list.txt").write_text("~/more/odd", encoding="utf-8")
    assert find_images(["~/more", "@~/list.txt"]) == [f"{here}/more/e.png", f"{here}/more/odd"]


def test_links(here: Path) -> None:
    os.symlink(here / "photos" / "b.jpg", here / "more" / "same.jpg")
    os.symlink("nowhere", here / "more" / "broken.jpg")
    os.symlink("nowhere", here / "more" / "broken too.jpg")
    # A link and its file are one; two links to nowhere are two files that cannot be read.
    assert find_images(["photos/b.jpg", "more"]) == [
        "photos/b.jpg",
        "more/broken too.jpg",
        "more/broken.jpg",
        "more/e.png",
    ]
    assert find_images("more/broken.jpg") == ["more/broken.jpg"]
    images = unlabelled_images("more/broken.jpg", NAMES)
    with pytest.raises(UnreadableImageError, match="No such file"):
        images.read(0)


def test_folders_that_hold_each_other_are_walked_once(here: Path) -> None:
    os.symlink(here / "photos", here / "photos" / "sub" / "up")
    os.symlink(here / "more", here / "photos" / "to more")
    os.symlink(here / "photos", here / "more" / "back")
    assert [str(path) for path in look_below(here / "photos").images] == [
        "a.png",
        "b.jpg",
        "sub/a.gif",
        "sub/deep/c.JPG",
        "to more/e.png",
    ]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"^data\.images is empty: give files, folders"),
        ("", r"^data\.images '': no such file or folder"),
        ("nowhere.jpg", r"^data\.images 'nowhere\.jpg': no such file or folder, seen from /"),
        (["photos", "nowhere"], r"^data\.images 'nowhere': no such file or folder"),
        ("photos/*.bmp", r"^data\.images 'photos/\*\.bmp' matches no file"),
        ("*", r"^data\.images '\*' matches no file"),  # there are folders only
        ("bare", r"^data\.images 'bare' holds no images: expected files of JPEG.*; it has 2 files \(2 \.txt\)"),
        ("@nowhere.txt", r"^data\.images '@nowhere\.txt' cannot be read \(No such file or directory\)"),
        ("@photos", r"^data\.images '@photos' cannot be read \(Is a directory\)"),
        ("@bare/blank.txt", r"^data\.images '@bare/blank\.txt' holds no paths"),
        ("@photos/a.png", r"^data\.images '@photos/a\.png' is not a text file in UTF-8"),
        ("@bare/list.txt", r"^data\.images '@bare/list\.txt', line 3: no such file or folder 'gone\.png'"),
    ],
)
def test_what_is_not_there_is_named(here: Path, images: list[str] | str, message: str) -> None:
    (here / "bare").mkdir()
    (here / "bare" / "blank.txt").write_text("\n \n", encoding="utf-8")
    (here / "bare" / "list.txt").write_text("photos/a.png\n\ngone.png\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        find_images(images)
    assert "\n" not in str(caught.value)


def test_class_names(here: Path) -> None:
    (here / "names.txt").write_text("cat\n\n big dog \n", encoding="utf-8")
    (here / "names.json").write_text(json.dumps({"n1": "cat", "n2": "cow"}), encoding="utf-8")
    assert unlabelled_class_names([" cat", "dog"]) == NAMES
    assert unlabelled_class_names("names.txt") == ["cat", "big dog"]
    assert unlabelled_class_names("names.json") == ["cat", "cow"]
    assert len(unlabelled_class_names("imagenet")) == 1000


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog", "cat "], r"^data\.class_names has 'cat' more than once: remove it"),
        ("twice.txt", r"^data\.class_names twice\.txt has 'cow' more than once"),
        ([], r"^data\.class_names is empty"),
        ("blank.txt", r"blank\.txt holds no names"),
        (["cat", " "], r"^data\.class_names: name 2 is blank"),
        ("cat", r"^data\.class_names 'cat': no such file; give a list such as '\[cat, dog\]'"),
    ],
)
def test_class_names_of_no_use_are_refused(here: Path, names: list[str] | str, message: str) -> None:
    (here / "twice.txt").write_text("cow\ncat\ncow\n", encoding="utf-8")
    (here / "blank.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        unlabelled_class_names(names)


def test_the_datamodule(here: Path) -> None:
    (here / "photos" / "b.jpg").write_bytes(b"no image")
    data = ImagesData(["photos", "more/odd"], NAMES, batch_size=3, workers=0)
    data.transform = lambda image, index: torch.full((1, 3, 1, 1), index, dtype=torch.uint8)
    assert (data.name, data.class_names) == ("images", NAMES)
    batches = list(data.predict_dataloader())
    assert [batch["path"] for batch in batches] == [
        ["photos/a.png", "photos/sub/a.gif"],
        ["photos/sub/deep/c.JPG", "more/odd"],
    ]
    assert [batch["index"].tolist() for batch in batches] == [[0, 2], [3, 4]]
    assert [batch["label"].tolist() for batch in batches] == [[-1, -1], [-1, -1]]
    reason = "it is no image of a known format"
    assert batches[0]["skipped"] == [{"index": 1, "path": "photos/b.jpg", "reason": reason}]
    assert data.on_before_batch_transfer(batches[0], 0) is batches[0]
    with pytest.raises(UserError, match="so no labels to test against"):
        data.test_dataloader()


def test_the_limit_on_pixels(here: Path) -> None:
    assert unlabelled_images("more/odd", NAMES, 12).read(0).size == (4, 3)
    with pytest.raises(UnreadableImageError, match=r"^it has 4 x 3 pixels, more than data\.max_pixels 11"):
        unlabelled_images("more/odd", NAMES, 11).read(0)
    values: dict[str, Any] = {"images": "photos", "class_names": NAMES}
    for limit in (0, -1, 178_956_971):
        with pytest.raises(UserError, match=rf"^data\.max_pixels {limit}: must be from 1 to 178956970"):
            ImagesData(**values, max_pixels=limit)
