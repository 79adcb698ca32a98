"""The embedded demo as a source of images."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
import torch

from lorattt import demo
from lorattt.data.demo import DemoData, DemoImages, long_tail
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


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("domain", "source, noise, blur, pixelate, contrast, dark, hue, outline, clutter, shifted"),
        ("classes", "all, base, new"),
        ("names", "common, synonyms"),
        ("prior", "uniform, long_tail"),
    ],
)
def test_an_unknown_word_is_refused_with_the_choices(key: str, choices: str) -> None:
    with pytest.raises(UserError) as error:
        DemoData(**{key: "old"}, workers=0)
    assert str(error.value) == f"data.{key} 'old': use {choices}"


def test_a_draw_seed_is_another_set_of_scenes() -> None:
    first, second = (DemoData(domain="source", images=3, draw_seed=seed, workers=0) for seed in (0, 5))
    assert second.class_names == first.class_names
    assert [path for _, _, path in every(second)] == [f"source-3/test-5/{i:06d}" for i in range(3)]
    image, label = demo.draw(2, seed=5)
    assert second.source.read(2).tobytes() == image.tobytes() != first.source.read(2).tobytes()
    assert second.source.label(2) == label
    with pytest.raises(UserError, match="data.draw_seed -1: must be at least 0"):
        DemoData(draw_seed=-1, workers=0)


SHIFTS = ("noise", "blur", "pixelate", "contrast", "dark", "hue", "outline", "clutter")


@pytest.mark.parametrize("start", [0, 1, 77, 1000])
def test_each_class_is_once_in_every_shifted_domain(start: int) -> None:
    images = DemoImages("shifted", 3, 1, "test")
    cells = [(images.label(i), images.path(i).split("-")[0]) for i in range(start, start + 512)]
    assert sorted(cells) == sorted((label, domain) for label in range(64) for domain in SHIFTS)


def test_a_part_of_the_classes_is_in_every_shifted_domain_too() -> None:
    images = DemoImages("shifted", 3, 128, "val", "new")
    cells = {(images.label(index), images.path(index).split("-")[0]) for index in images.numbers}
    assert cells == {(label, domain) for label in range(16) for domain in SHIFTS}


def test_a_shifted_image_is_that_of_its_own_domain() -> None:
    images = DemoImages("shifted", 2, 600, "val")
    assert images.name == "demo-shifted"
    own = {0: "noise", 7: "clutter", 8: "blur", 15: "noise", 64: "blur", 73: "contrast", 511: "hue"}
    for index, domain in own.items():
        alone = DemoImages(domain, 2, 600, "val")
        assert images.path(index) == alone.path(index) == f"{domain}-2/val/{index:06d}"
        assert images.read(index).tobytes() == alone.read(index).tobytes()
        assert images.label(index) == alone.label(index)


def test_synonyms_are_other_names_of_the_same_images() -> None:
    plain = DemoData(domain="source", images=8, classes="new", workers=0)
    other = DemoData(domain="source", images=8, classes="new", names="synonyms", workers=0)
    assert (plain.name, other.name) == ("demo-source-new", "demo-source-new-synonyms")
    assert other.class_names == [demo.SYNONYMS[label] for label in demo.HELD_OUT]
    assert other.class_names[:2] == ["crimson ball", "crimson asterisk"]
    assert every(plain) == every(other)


def test_shares_of_a_long_tail() -> None:
    assert long_tail(25, 4) == [12, 6, 4, 3]  # without a rest
    assert long_tail(10, 3) == [5, 3, 2]  # of 5.45, 2.73 and 1.82 the first has the smallest remainder
    assert long_tail(1, 4) == [1, 0, 0, 0]
    for images in (2, 63, 200, 1000):
        counts = long_tail(images, 64)
        total = sum(Fraction(1, r) for r in range(1, 65))
        rests = [images * Fraction(1, r) / total - count for r, count in enumerate(counts, 1)]
        assert sum(counts) == images
        assert all(-1 < rest < 1 for rest in rests)
        # Whoever was rounded up had at least the remainder of those who were not.
        up, down = [1 + rest for rest in rests if rest < 0], [rest for rest in rests if rest >= 0]
        assert not up or min(up) >= max(down)


@pytest.mark.parametrize(("part", "split"), [("all", "test"), ("new", "val"), ("all", "train")])
def test_a_long_tail_is_spread_evenly(part: Any, split: Any) -> None:
    images = DemoImages("source", 3, 200, split, part, prior="long_tail")
    counts = Counter(map(images.label, images.numbers))
    expected = long_tail(200, 48 if split == "train" else len(images.class_names))
    assert sorted(counts.values(), reverse=True) == [count for count in expected if count]
    assert images.numbers == sorted(set(images.numbers))
    assert len(images) == 200
    # Of a class with n images, the first half of the stream's turns has half, rounded up.
    period = 48 if split == "train" else 64
    half = (max(counts.values()) + 1) // 2 * period
    early = Counter(images.label(number) for number in images.numbers if number < half)
    for label, count in counts.items():
        assert abs(early[label] - count / 2) <= 1


def ranking(part: Any = "all", **options: Any) -> list[str]:
    """The names of the classes, the most frequent first; of so many images no two classes have as many."""
    images = DemoImages("source", 3, 100_000, "test", part, prior="long_tail", **options)
    counts = Counter(map(images.label, images.numbers))
    assert len(set(counts.values())) == len(images.class_names)
    return [images.class_names[label] for label, _ in counts.most_common()]


def test_which_classes_are_frequent_is_a_matter_of_the_seed() -> None:
    whole = ranking()
    assert whole == ranking()
    assert whole[:16] != list(demo.CLASS_NAMES[:16])
    held_out = [demo.CLASS_NAMES[label] for label in demo.HELD_OUT]
    assert ranking("new") == [name for name in whole if name in held_out]
    assert ranking(seed=1) != whole


def test_a_long_tail_of_shifted_images_by_other_names() -> None:
    options: dict[str, Any] = {"classes": "base", "names": "synonyms", "prior": "long_tail"}
    data = DemoData(domain="shifted", images=30, limit=10, workers=0, **options)
    assert data.name == "demo-shifted-base-synonyms-long-tail"
    images = DemoImages("shifted", 3, 30, "test", **options)
    expected = [(index, images.label(index), images.path(index)) for index in images.numbers[::3]]
    assert every(data) == expected
    assert DemoData(images=8, prior="long_tail", workers=0).name == "demo-noise-long-tail"


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


def test_a_fit_on_shifted_images_by_other_names() -> None:
    data = fitted(shots=8, domain="shifted", names="synonyms")
    assert data.name == "demo-shifted-new-synonyms-8-shot"
    assert data.class_names == [demo.SYNONYMS[label] for label in demo.HELD_OUT]
    cells = [(data.source.label(index), data.source.path(index).split("-")[0]) for index in data.indices]
    assert sorted(cells) == sorted((label, domain) for label in range(16) for domain in SHIFTS)


def test_no_validation_images_where_none_are_asked_for() -> None:
    assert fitted(val_shots=0).val_dataloader() == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shots", 0),
        ("val_shots", -1),
        ("draw_seed", -1),
        ("batch_size", 0),
        ("domain", "fog"),
        ("severity", 6),
        ("names", "odd"),
    ],
)
def test_what_cannot_be_fitted_on_is_refused_by_value(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{key}.*{value}"):
        fitted(**{key: value})
