"""Folders of images: what is found, labels, names, and each mistake."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as TorchvisionFolder

from lorattt.data.folder import ImageFolder, ImageFolderData
from lorattt.data.imagenet_family import imagenet_names
from lorattt.errors import UserError


def put(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3), (number, 0, 0)).save(path, "PNG")
    return root


def shape(root: Path, *folders: str) -> Path:
    return put(root, *(f"{folder}/image.png" for folder in folders))


def write(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def test_labels_are_torchvisions(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "b/10.png", "B/x.png", "a b/y.jpg", "z/deep/er/one.png", "z/deep.png", "_u/1.bmp")
    mine, theirs = ImageFolder(tmp_path), TorchvisionFolder(str(tmp_path))
    labels = {str(Path(path).relative_to(tmp_path)): label for path, label in theirs.samples}
    assert {mine.path(i): mine.label(i) for i in range(len(mine))} == labels
    assert len(mine) == len(theirs) == 7
    assert mine.class_names == [name.replace("_", " ") for name in theirs.classes]
    assert mine.name == tmp_path.name


def test_numbers_follow_the_sorted_paths_and_read_gives_that_file(tmp_path: Path) -> None:
    names = ["b/2.png", "a/z.png", "a/c/1.png", "b/10.png", "a/b.png"]
    put(tmp_path, *names)
    folder = ImageFolder(tmp_path)
    paths = [folder.path(i) for i in range(len(folder))]
    assert paths == ["a/b.png", "a/c/1.png", "a/z.png", "b/10.png", "b/2.png"]
    assert [folder.read(i).getpixel((0, 0)) for i in range(5)] == [(names.index(path), 0, 0) for path in paths]


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/.2.png", ".git/3.png", "a/.thumbs/4.png", "b/c/5.JPEG")
    for name in ("a/notes.txt", "README.md", "b/6.png.part", "b/labels.json"):
        (tmp_path / name).write_text("x")
    told = r"left out 4 files \(1 \.[a-z]+, .*\) and the folders '\.git', '\.thumbs'; images are files of JPEG, PNG"
    with pytest.warns(UserWarning, match=told):
        folder = ImageFolder(tmp_path)
    assert [folder.path(i) for i in range(len(folder))] == ["a/1.png", "b/c/5.JPEG"]
    assert folder.class_names == ["a", "b"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    shape(tmp_path / "elsewhere", "photos")
    root = shape(tmp_path / "root", "a")
    os.symlink(tmp_path / "elsewhere" / "photos", root / "b")
    folder = ImageFolder(root)
    assert [folder.path(i) for i in range(len(folder))] == ["a/image.png", "b/image.png"]
    assert folder.read(1).size == (4, 3)


def test_loose_images_have_no_labels(tmp_path: Path) -> None:
    folder = ImageFolder(put(tmp_path, "b.png", "a.png"))
    assert [folder.path(i) for i in range(2)] == ["a.png", "b.png"]
    assert [folder.label(i) for i in range(2)] == [-1, -1]
    assert folder.class_names == []


def test_names_from_a_text_file_in_the_order_of_the_folders(tmp_path: Path) -> None:
    root = shape(tmp_path / "root", "n2", "n1", "n3")
    names = write(tmp_path / "names.txt", "  cat \n\ndog\ncafé\n")
    assert ImageFolder(root, names).class_names == ["cat", "dog", "café"]


def test_names_in_a_file_that_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As editors on Windows write them; the mark is no part of the first name."""
    root = shape(tmp_path / "root", "n2", "n1")
    for name, text in (("names.txt", "cat\ndog\n"), ("list.json", '["cat", "dog"]')):
        (tmp_path / name).write_bytes(text.encode("utf-8-sig"))
        assert ImageFolder(root, str(tmp_path / name)).class_names == ["cat", "dog"]


def test_names_as_a_list(tmp_path: Path) -> None:
    root = shape(tmp_path / "root", "n2", "n1")
    assert ImageFolder(root, ["one", "two"]).class_names == ["one", "two"]
    for names, told in ((["one"], "has 1 names"), (["one", " "], "name 2 is blank")):
        with pytest.raises(UserError, match=told):
            ImageFolder(root, names)


def test_names_from_a_json_list_or_object(tmp_path: Path) -> None:
    root = shape(tmp_path / "root", "n2", "n1")
    one = write(tmp_path / "list.json", json.dumps(["cat", "dog"]))
    assert ImageFolder(root, one).class_names == ["cat", "dog"]
    other = write(tmp_path / "object.json", json.dumps({"n2": "two", "n3": "three", "n1": "one"}))
    assert ImageFolder(root, other).class_names == ["one", "two"]


def test_names_of_imagenet_by_wnid(tmp_path: Path) -> None:
    root = shape(tmp_path, "n02124075", "n01440764", "n03000684")
    assert ImageFolder(root, "imagenet").class_names == ["tench", "Egyptian Mau", "chainsaw"]


def test_imagenet_has_a_thousand_classes_and_two_names_twice() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in names)
    assert all(name == name.strip() and name for name in names.values())
    # Known places: torchvision's class numbers.
    assert [list(names.values())[i] for i in (0, 1, 999)] == ["tench", "goldfish", "toilet paper"]
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    assert twice == {"missile", "sunglasses"}


def test_equal_names_are_allowed_and_stay_two_classes(tmp_path: Path) -> None:
    root = shape(tmp_path / "root", "a", "b", "c")
    folder = ImageFolder(root, write(tmp_path / "names.txt", "crane\ncrane\ndog"))
    assert folder.class_names == ["crane", "crane", "dog"]
    assert [folder.label(i) for i in range(3)] == [0, 1, 2]


def test_names_for_loose_images_are_taken_as_they_are(tmp_path: Path) -> None:
    root = put(tmp_path / "root", "a.png")
    assert ImageFolder(root, write(tmp_path / "n.txt", "cat\ndog")).class_names == ["cat", "dog"]
    assert ImageFolder(root, write(tmp_path / "n.json", '{"x": "cat"}')).class_names == ["cat"]
    assert len(ImageFolder(root, "imagenet").class_names) == 1000


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    told = {tmp_path / "missing": "no such folder", Path(write(tmp_path / "file.png", "")): "a file, not a folder"}
    for root, problem in told.items():
        with pytest.raises(UserError, match=rf"^data\.root {root}: {problem}; name the folder that holds the images"):
            ImageFolder(root)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "notes.txt", "x")
    with pytest.raises(UserError, match=rf"^data\.root {tmp_path} holds no images: .*JPEG.*it has 1 file \(1 \.txt\)"):
        ImageFolder(tmp_path)


def test_images_beside_class_folders_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "stray.png")
    with pytest.raises(UserError, match=r"beside class folders \(first: stray\.png\)"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("names.txt", "cat\ndog\nbird", "has 3 names but the dataset has 2 class folders"),
        ("names.txt", "cat", "has 1 names but the dataset has 2 class folders"),
        ("names.txt", " \n\n", "holds no names"),
        ("names.json", "[]", "holds no names"),
        ("names.json", "{}", "holds no names"),
        ("names.json", "3", "holds no names"),
        ("names.json", '["cat"]', "has 1 names but the dataset has 2 class folders"),
        ("names.json", '["cat",', "is not valid JSON"),
        ("names.json", '{"a": "cat"}', r"class folder 'b' is not in .*names\.json \(1 of 2 are not\): add it"),
    ],
)
def test_names_that_do_not_match_are_refused(tmp_path: Path, file: str, content: str, message: str) -> None:
    root = shape(tmp_path / "root", "a", "b")
    names = write(tmp_path / file, content)
    with pytest.raises(UserError, match=message) as caught:
        ImageFolder(root, names)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["names.txt", "names.json"])
def test_a_names_file_that_is_no_text_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_bytes(b"\xff\xfe\x00caf\xe9")
    with pytest.raises(UserError, match=f"{file} is not a text file in UTF-8"):
        ImageFolder(shape(tmp_path / "root", "a"), str(tmp_path / file))


def test_a_missing_names_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.class_names 'image_net': no such file .*'imagenet'"):
        ImageFolder(shape(tmp_path, "a"), "image_net")


def test_folders_that_are_no_wnids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"class folder 'a' is not in the ImageNet classes \(1 of 2 are not\).*wnid"):
        ImageFolder(shape(tmp_path, "a", "n01440764"), "imagenet")


def test_the_datamodule_reads_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "root", "a/1.png", "a/2.png", "b/3.png")
    data = ImageFolderData("~/root", batch_size=2, workers=0)
    data.transform = lambda image, index: torch.full((1, 3, 1, 1), index, dtype=torch.uint8)
    batches = list(data.test_dataloader())
    assert [batch["path"] for batch in batches] == [["a/1.png", "a/2.png"], ["b/3.png"]]
    assert [batch["label"].tolist() for batch in batches] == [[0, 0], [1]]
    assert data.name == "root"
    assert data.class_names == ["a", "b"]


@pytest.mark.parametrize("class_names", [None, "imagenet"])
def test_loose_images_are_predicted_and_not_tested(tmp_path: Path, class_names: str | None) -> None:
    data = ImageFolderData(str(put(tmp_path, "a.png")), class_names=class_names, workers=0)
    data.transform = lambda image, index: torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    assert [batch["label"].tolist() for batch in data.predict_dataloader()] == [[-1]]
    for loader in (data.test_dataloader, data.val_dataloader):
        with pytest.raises(UserError, match="no class folders, so no labels to test against"):
            loader()
