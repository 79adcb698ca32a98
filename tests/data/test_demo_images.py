"""The embedded demo as a source of images."""

from typing import Any

import pytest
import torch

from lorattt import demo
from lorattt.data.demo import DemoData, DemoImages
from lorattt.data.demo_source import DemoSourceData
from lorattt.errors import UserError


def test_images_are_the_drawn_ones() -> None:
    images = DemoImages("noise", 3, 5, "test")
    assert len(images) == 5
    assert images.name == "demo-noise"
    assert images.class_names == list(demo.CLASS_NAMES)
    for index in (0, 4):
        image, label = demo.draw(index, domain="noise", severity=3, split="test")
        assert images.read(index).tobytes() == image.tobytes()
        assert images.read(index).mode == "RGB"
        assert images.label(index) == label
    assert images.path(4) == "noise-3/test/000004"


def test_paths_name_domain_severity_split_and_number() -> None:
    every = [
        DemoImages(domain, severity, 2, split).path(index)
        for domain in ("noise", "blur")
        for severity in (1, 5)
        for split in ("val", "test")
        for index in (0, 1)
    ]
    assert len(set(every)) == 16


@pytest.mark.parametrize(
    ("key", "value"), [("domain", "fog"), ("severity", 0), ("severity", 6), ("images", 0), ("images", -1)]
)
def test_what_cannot_be_drawn_is_refused_by_value(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{key}.*{value}"):
        DemoData(**{key: value}, workers=0)


def test_batches_are_made_without_any_file() -> None:
    data = DemoData(domain="blur", severity=2, images=5, split="val", batch_size=4, workers=0)
    data.transform = lambda image, index: torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    first, second = data.test_dataloader()
    assert torch.cat([first["index"], second["index"]]).tolist() == list(range(5))
    for index, label in zip(first["index"].tolist(), first["label"].tolist(), strict=True):
        image, expected = demo.draw(index, domain="blur", severity=2, split="val")
        assert label == expected
        assert bytes(first["views"][index].tolist()) == image.tobytes()


def every(data: Any, loader: str = "test_dataloader") -> list[tuple[int, int, str]]:
    """Number, label and path of each image."""
    found = []
    for batch in getattr(data, loader)():
        found += list(zip(batch["index"].tolist(), batch["label"].tolist(), batch["path"], strict=True))
    return found


def test_a_label_is_known_without_drawing() -> None:
    for split in ("train", "val", "test", "shots"):
        for index in range(0, 200, 7):
            assert demo.label_of(index, split=split) == demo.draw(index, split=split)[1]


def test_base_and_new_are_the_seen_and_the_held_out_compositions() -> None:
    whole = every(DemoData(domain="source", images=128, workers=0))
    parts = {part: DemoData(domain="source", images=32, classes=part, workers=0) for part in ("base", "new")}
    assert parts["base"].class_names == [demo.CLASS_NAMES[label] for label in demo.SEEN]
    assert parts["new"].class_names == [demo.CLASS_NAMES[label] for label in demo.HELD_OUT]
    assert (parts["base"].name, parts["new"].name) == ("demo-source-base", "demo-source-new")
    for part, labels in (("base", demo.SEEN), ("new", demo.HELD_OUT)):
        # The first of the stream that belong to the part, with their numbers and paths there.
        expected = [(i, labels.index(label), path) for i, label, path in whole if label in labels][:32]
        assert len(expected) == 32
        assert every(parts[part]) == expected


def test_an_image_is_the_same_whatever_the_classes() -> None:
    new = DemoImages("blur", 2, 20, "val", "new")
    for index in new.numbers[::7]:
        image, label = demo.draw(index, domain="blur", severity=2, split="val")
        assert new.read(index).tobytes() == image.tobytes()
        assert new.class_names[new.label(index)] == demo.CLASS_NAMES[label]


def test_a_limit_keeps_the_numbers_of_the_stream() -> None:
    numbers = DemoImages("source", 3, 20, "test", "new").numbers
    data = DemoData(domain="source", images=20, classes="new", limit=4, workers=0)
    assert [index for index, _, _ in every(data)] == [numbers[0], numbers[5], numbers[10], numbers[15]]


def test_pictures_are_drawn_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = demo.draw

    def draw(index: int, **values: Any) -> Any:
        drawn.append(index)
        return original(index, **values)

    data = DemoData(domain="source", images=5, classes="new", workers=0)
    monkeypatch.setattr(demo, "draw", draw)
    numbers = [index for index, _, _ in every(data)]
    assert drawn == numbers


def test_classes_that_a_split_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="'train' has no images of classes that do not occur in it"):
        DemoImages("source", 3, 5, "train", "new")
    with pytest.raises(UserError, match=r"data\.classes 'old': use all, base, new"):
        DemoImages("source", 3, 5, "test", "old")  # type: ignore[arg-type]


def fitted(**values: Any) -> DemoSourceData:
    return DemoSourceData(**{"shots": 2, "val_shots": 1, "classes": "new", "batch_size": 64, **values})


def test_few_shots_of_each_class_are_of_their_own_stream() -> None:
    data = fitted()
    train, validation = every(data, "train_dataloader"), every(data, "val_dataloader")
    assert data.class_names == [demo.CLASS_NAMES[label] for label in demo.HELD_OUT]
    assert data.name == "demo-source-new-2-shot"
    assert sorted(label for _, label, _ in train) == sorted(2 * list(range(16)))
    assert sorted(label for _, label, _ in validation) == list(range(16))
    assert {path.split("/")[1] for _, _, path in train} == {"shots-1"}
    assert {path.split("/")[1] for _, _, path in validation} == {"val"}
    assert len({path for _, _, path in train}) == 32
    for index, label, _ in train[:5]:
        image, expected = demo.draw(index, split="shots", seed=1)
        assert data.source.read(index).tobytes() == image.tobytes()
        assert data.class_names[label] == demo.CLASS_NAMES[expected]
    for split in ("train", "val", "test"):  # none of the images that a model was trained or is tested on
        assert data.source.read(train[0][0]).tobytes() != demo.draw(train[0][0], split=split)[0].tobytes()


def test_the_seed_of_the_draw_decides_which_images() -> None:
    first, again, other = fitted(), fitted(), fitted(draw_seed=2)
    index = first.indices[0]
    assert first.source.read(index).tobytes() == again.source.read(index).tobytes()
    assert first.source.read(index).tobytes() != other.source.read(index).tobytes()
    assert set(fitted(shots=1).indices) < set(first.indices)


def test_a_fit_draws_all_images_before_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = fitted(shots=1)
    data.setup("fit")

    def draw(index: int, **values: Any) -> Any:
        raise AssertionError("drawn again")

    monkeypatch.setattr(demo, "draw", draw)
    assert len(every(data, "train_dataloader")) == len(every(data, "val_dataloader")) == 16


def test_no_validation_images_where_none_are_asked_for() -> None:
    assert fitted(val_shots=0).val_dataloader() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("shots", 0), ("val_shots", -1), ("draw_seed", -1), ("batch_size", 0), ("domain", "fog"), ("severity", 6)],
)
def test_what_cannot_be_fitted_on_is_refused_by_value(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{key}.*{value}"):
        fitted(**{key: value})
