"""A benchmark as batches: parts, draws, lists, corruption, and what does not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import names_of, write
from PIL import Image

from lorattt.data.benchmark import BenchmarkData
from lorattt.data.corruptions import CorruptionSpec
from lorattt.data.file_list import write_image_list
from lorattt.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    write("eurosat", "coop", folder, split="val")
    write("eurosat", "coop", folder)
    write("oxford_pets", "torchvision", folder)
    return folder


def data_of(root: Path, dataset: str = "eurosat", **values: Any) -> BenchmarkData:
    return BenchmarkData(dataset, str(root), workers=0, batch_size=4, **values)


def labels(data: BenchmarkData) -> list[int]:
    return [label for batch in data.test_dataloader() for label in batch["label"].tolist()]


def test_batches_hold_the_images_of_the_split_in_its_order(root: Path) -> None:
    data = data_of(root)
    assert data.name == "eurosat"
    assert data.class_names == names_of("eurosat")
    batches = list(data.test_dataloader())
    assert labels(data) == list(range(10))[::-1]
    assert batches[0]["path"][0] == "SeaLake/SeaLake_3.jpg"
    assert batches[0]["image"][0].shape == (3, 6, 8)
    assert data.template == "a centered satellite photo of {}."


def test_base_and_new_share_no_class_and_are_all(root: Path) -> None:
    base, new = (data_of(root, "oxford_pets", classes=part) for part in ("base", "new"))
    assert base.class_names + new.class_names == [name.replace("_", " ") for name in names_of("oxford_pets")]
    assert (len(base.class_names), len(new.class_names)) == (19, 18)
    assert sorted(labels(base)) == list(range(19))
    assert sorted(labels(new)) == list(range(18))
    assert {path for b in base.test_dataloader() for path in b["path"]}.isdisjoint(
        path for b in new.test_dataloader() for path in b["path"]
    )
    assert (base.name, new.name) == ("oxford_pets-base", "oxford_pets-new")


def test_classes_by_name_and_number(root: Path) -> None:
    data = data_of(root, classes=["River", 1])
    assert data.class_names == ["River", "Forest"]
    assert sorted(labels(data)) == [0, 1]
    assert data.name == "eurosat-2-classes"


def test_a_draw_can_be_repeated_from_its_list(root: Path, tmp_path: Path) -> None:
    drawn = data_of(root, shots=1)
    assert drawn.drawn is not None
    assert drawn.name == "eurosat-1-shot"
    write_image_list(drawn.drawn, tmp_path / "images.tsv")
    again = data_of(root, items=str(tmp_path / "images.tsv"))
    assert again.source.listing.samples == drawn.drawn.samples  # type: ignore[attr-defined]
    assert again.drawn is None
    with pytest.raises(UserError, match=r"data.items .*10 classes are not the 5"):
        data_of(root, items=str(tmp_path / "images.tsv"), classes="base")
    with pytest.raises(UserError, match="both given"):
        data_of(root, items=str(tmp_path / "images.tsv"), shots=1)
    with pytest.raises(UserError, match=r"data.items .* is not among the split's images"):
        BenchmarkData("eurosat", str(root), split="val", items=str(tmp_path / "images.tsv"))


def test_corrupted_images_keep_path_and_label(root: Path) -> None:
    clean, foggy = data_of(root), data_of(root, corruption=CorruptionSpec("fog", 3))
    assert foggy.corruption == {"name": "fog", "severity": 3, "of": "eurosat"}
    assert foggy.name == "eurosat (fog 3)"
    assert [foggy.source.path(i) for i in range(10)] == [clean.source.path(i) for i in range(10)]
    first, again = (np.asarray(foggy.source.read(0)) for _ in range(2))
    assert (first == again).all()
    assert first.shape == (224, 224, 3)
    other = data_of(root, corruption=CorruptionSpec("fog", 3), draw_seed=2)
    assert (np.asarray(other.source.read(0)) != first).any()


def test_the_pixel_limit_reaches_the_images(root: Path) -> None:
    (batch, *_) = data_of(root, max_pixels=47, on_bad_image="skip").test_dataloader()
    assert "more than data.max_pixels 47" in batch["skipped"][0]["reason"]


def test_download_is_asked_only_where_nothing_is(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Path]] = []

    def fetch(key: str, where: Path) -> None:
        calls.append((key, where))
        write("eurosat", "torchvision", where)

    monkeypatch.setattr("lorattt.data.benchmark.download", fetch)
    assert len(data_of(root, download=True).class_names) == 10
    assert calls == []
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError):
        data_of(tmp_path, download=True)
    assert calls == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert len(data_of(tmp_path, download=True).class_names) == 10
    assert calls == [("eurosat", tmp_path)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "eurosta"}, "eurosat"),
        ({"classes": "old"}, "use all, base, new"),
        ({"classes": []}, "class"),
        ({"classes": ["Rivers"]}, "River"),
        ({"shots": 2}, "has 1 image"),
        ({"max_pixels": 0}, "data.max_pixels 0"),
        ({"path": "elsewhere"}, "elsewhere"),
        ({"dataset": "dtd"}, "dtd"),
        ({"dataset": "cifar10", "shots": 1}, "not for CIFAR"),
        ({"dataset": "cifar10"}, "set data.download to true"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(UserError, match=message):
        data_of(root, **values)


def test_an_image_read_from_a_listing_is_the_file(tmp_path: Path) -> None:
    made = write("eurosat", "zero", tmp_path)
    Image.new("RGB", (3, 2), (1, 2, 3)).save(made.folder / made.items[0][0], "PNG")
    assert np.asarray(data_of(tmp_path).source.read(0)).tolist() == [[[1, 2, 3]] * 3] * 2
