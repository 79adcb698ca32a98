"""Few shots to fit on: which images, never those of validation, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from miniature import FACTS, SPLIT_FILES, class_folders, put
from PIL import Image

from lorattt.data.benchmark import BenchmarkData
from lorattt.data.few_shot import FewShotData, FolderSourceData, ListedSourceData
from lorattt.data.file_list import Sample
from lorattt.errors import UserError

COUNTS = {"train": 6, "val": 3, "test": 1}
CLASSES = [name.replace("_", " ") for name in FACTS["eurosat"]]


def listed(counts: dict[str, int]) -> dict[str, list[list[Any]]]:
    return {
        split: [
            [f"c{label}/{split}{number}.jpg", label, name]
            for label, name in enumerate(FACTS["eurosat"])
            for number in range(count)
        ]
        for split, count in counts.items()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    content = listed(COUNTS)
    put(folder / "eurosat" / "2750", *(path for items in content.values() for path, _, _ in items))
    (folder / "eurosat" / SPLIT_FILES["eurosat"]).write_text(json.dumps(content))
    return folder


def data_of(root: Path, **values: Any) -> FewShotData:
    return FewShotData("eurosat", str(root), **{"workers": 0, "batch_size": 4, "shots": 2, "val_shots": 1, **values})


def train_items(data: ListedSourceData) -> list[Sample]:
    return [Sample(data.source.path(index), data.source.label(index)) for index in data.indices]


def val_items(data: ListedSourceData) -> list[Sample]:
    assert data.validation is not None
    return [Sample(data.validation.path(index), data.validation.label(index)) for index in data.validation_indices]


def per_class(items: list[Sample], classes: int = 10) -> list[int]:
    return [sum(item.label == label for item in items) for label in range(classes)]


def test_so_many_of_each_class(root: Path) -> None:
    data = data_of(root)
    assert data.name == "eurosat-train-2-shot"
    assert data.class_names == CLASSES
    assert data.template == "a centered satellite photo of {}."
    assert per_class(train_items(data)) == [2] * 10
    assert per_class(val_items(data)) == [1] * 10
    assert all("/train" in path for path, _ in train_items(data))
    assert all("/val" in path for path, _ in val_items(data))
    assert all(path.startswith(f"c{label}/") for path, label in train_items(data) + val_items(data))
    batches = list(data.train_dataloader())
    assert [len(batch["index"]) for batch in batches] == [4] * 5
    assert sorted(path for batch in batches for path in batch["path"]) == sorted(path for path, _ in train_items(data))
    assert [path for batch in data.val_dataloader() for path in batch["path"]] == [path for path, _ in val_items(data)]


def test_the_draw_is_that_of_the_test_time_data(root: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        drawn = BenchmarkData("eurosat", str(root), split="train", shots=2, draw_seed=seed).drawn
        data = data_of(root, draw_seed=seed)
        assert data.drawn == drawn
        assert drawn is not None
        assert tuple(train_items(data)) == drawn.samples
    assert train_items(data_of(root, draw_seed=1)) != train_items(data_of(root, draw_seed=2))
    assert set(train_items(data_of(root, shots=1))) < set(train_items(data_of(root, shots=2)))


@pytest.mark.parametrize("validation", ["val", "holdout"])
@pytest.mark.parametrize(("shots", "val_shots"), [(2, 1), (2, None), (5, 3), (None, 2)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_is_fitted_on_is_never_validated_on(
    root: Path, validation: str, shots: int | None, val_shots: int | None, seed: int
) -> None:
    data = data_of(root, validation=validation, shots=shots, val_shots=val_shots, draw_seed=seed)
    train, held = train_items(data), val_items(data)
    assert not set(train) & set(held)
    there = {"val": 3, "holdout": 6 - shots if shots is not None else 6}[validation]
    expected = there if val_shots is None else min(there, val_shots)
    assert per_class(held) == [expected] * 10
    whole = 6 if validation == "val" else 6 - expected
    assert per_class(train) == [whole if shots is None else shots] * 10
    assert all(("/train" in path) == (validation == "holdout") for path, _ in held)


def test_held_out_images_do_not_change_what_is_drawn(root: Path) -> None:
    drawn = [train_items(data_of(root, validation=kind, val_shots=n)) for kind in ("val", "holdout") for n in (1, 3)]
    assert all(items == drawn[0] for items in drawn)
    assert drawn[0] == train_items(data_of(root, validation="none"))


def test_no_validation(root: Path) -> None:
    data = data_of(root, validation="none")
    assert data.validation is None
    assert data.val_dataloader() == []


def test_base_and_new_share_no_class(root: Path) -> None:
    base, new = (data_of(root, classes=part) for part in ("base", "new"))
    assert base.class_names + new.class_names == CLASSES
    assert (base.name, new.name) == ("eurosat-train-base-2-shot", "eurosat-train-new-2-shot")
    for data, first in ((base, 0), (new, 5)):
        for items in (train_items(data), val_items(data)):
            assert sorted({label for _, label in items}) == list(range(5))
            assert all(path.startswith(f"c{label + first}/") for path, label in items)
    some = data_of(root, classes=["River", 1])
    assert some.class_names == ["River", "Forest"]
    assert per_class(train_items(some), 2) == per_class(val_items(some) * 2, 2) == [2, 2]


@pytest.mark.parametrize("validation", ["val", "holdout"])
def test_a_run_can_be_repeated_from_its_list(root: Path, tmp_path: Path, validation: str) -> None:
    first = data_of(root, draw_seed=7)
    first.keep_images(tmp_path / "images.tsv")
    again = data_of(root, items=str(tmp_path / "images.tsv"), shots=5, validation=validation)
    assert train_items(again) == train_items(first)
    assert again.name == "eurosat-train-listed"
    assert again.drawn is None
    assert not set(val_items(again)) & set(train_items(again))
    again.keep_images(tmp_path / "other.tsv")
    data_of(root, shots=None, validation="val").keep_images(tmp_path / "other.tsv")
    assert not (tmp_path / "other.tsv").exists()
    data_of(root, shots=None, validation="holdout").keep_images(tmp_path / "other.tsv")
    assert (tmp_path / "other.tsv").exists()  # what is not held out was drawn, too


def test_a_limit_and_a_pixel_limit_reach_the_images(root: Path) -> None:
    data = data_of(root, limit=5, max_pixels=47, on_bad_image="skip")
    assert len(data.indices) == len(data.validation_indices) == 5
    (batch, *_) = data.train_dataloader()
    assert "more than data.max_pixels 47" in batch["skipped"][0]["reason"]
    (batch, *_) = data.val_dataloader()
    assert "more than data.max_pixels 47" in batch["skipped"][0]["reason"]


def test_a_split_file_that_lists_an_image_twice_is_refused(root: Path, tmp_path: Path) -> None:
    content = listed(COUNTS)
    content["val"] += [list(entry) for entry in content["train"]]
    (tmp_path / SPLIT_FILES["eurosat"]).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"c0/train\d\.jpg is a training image and a validation image"):
        data_of(root, splits=str(tmp_path), val_shots=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "eurosta"}, "eurosat"),
        ({"dataset": "imagenet_a"}, "data.dataset imagenet_a: has test images alone"),
        ({"dataset": "imagenet"}, r"data\.validation val: .* of imagenet are its test images.*use holdout"),
        ({"dataset": "dtd"}, "dtd"),
        ({"classes": "old"}, "use all, base, new"),
        ({"shots": 0}, r"data\.shots 0"),
        ({"shots": 7}, "has 6 images"),
        ({"val_shots": 0}, r"data\.val_shots 0"),
        ({"validation": "test"}, r"data\.validation 'test': use val, holdout, none"),
        ({"validation": "holdout", "shots": 6}, "none is left to hold out"),
        ({"validation": "holdout", "shots": None, "val_shots": None}, r"data\.val_shots null"),
        ({"validation": "holdout", "shots": None, "val_shots": 6}, r"data\.val_shots 6: class 0 .* has 6 images"),
        ({"max_pixels": 0}, r"data\.max_pixels 0"),
        ({"batch_size": 0}, r"data\.batch_size 0"),
        ({"items": "missing.tsv"}, r"missing\.tsv"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str, root: Path) -> None:
    arguments = {"dataset": "eurosat", "data_root": str(root), "workers": 0, "shots": 1, **values}
    with pytest.raises(UserError, match=message):
        FewShotData(**arguments)


def test_imagenet_is_held_out_of_its_training_images(tmp_path: Path) -> None:
    train = tmp_path / "imagenet" / "images" / "train"
    folders = class_folders("imagenet")
    put(train, *(f"{folder}/{folder}_0.JPEG" for folder in folders))
    put(train, *(f"{folder}/{folder}_{number}.JPEG" for folder in folders[:2] for number in (1, 2)))
    data = FewShotData("imagenet", str(tmp_path), classes=[1, 0], shots=1, validation="holdout", workers=0)
    assert per_class(train_items(data), 2) == [1, 1]
    assert per_class(val_items(data), 2) == [2, 2]
    assert not set(train_items(data)) & set(val_items(data))
    assert data.template == "a photo of a {}."


def own_of(images: Path, **values: Any) -> FolderSourceData:
    return FolderSourceData(str(images), **{"workers": 0, "batch_size": 2, "val_shots": 1, **values})


def test_own_folders_are_held_out_of(images: Path) -> None:
    data = own_of(images)
    assert (data.name, data.class_names, data.template) == ("pets", ["cat", "dog"], None)
    assert per_class(train_items(data), 2) == [2, 2]
    assert per_class(val_items(data), 2) == [1, 1]
    assert not set(train_items(data)) & set(val_items(data))
    few = own_of(images, shots=1, val_shots=4)
    assert few.name == "pets-1-shot"
    assert per_class(train_items(few), 2) == [1, 1]
    assert per_class(val_items(few), 2) == [2, 2]
    assert own_of(images, val_shots=0).val_dataloader() == []
    assert len(own_of(images, val_shots=0).indices) == 6


def test_own_folders_again_from_a_list(images: Path, tmp_path: Path) -> None:
    first = own_of(images, shots=1, draw_seed=3)
    first.keep_images(tmp_path / "images.tsv")
    again = own_of(images, items=str(tmp_path / "images.tsv"))
    assert train_items(again) == train_items(first)
    assert again.name == "pets-listed"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"val_shots": -1}, r"data\.val_shots -1"),
        ({"val_shots": 3}, r"data\.val_shots 3: class 0 \('cat'\) .* has 3 images"),
        ({"shots": 4}, r"data\.shots 4: class 0 \('cat'\)"),
        ({"class_names": "missing.txt"}, r"missing\.txt"),
    ],
    ids=str,
)
def test_own_folders_that_do_not_fit_are_refused(values: dict[str, Any], message: str, images: Path) -> None:
    with pytest.raises(UserError, match=message):
        own_of(images, **values)


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match="has no class folders"):
        own_of(tmp_path)
