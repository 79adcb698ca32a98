"""Splits: a draw depends on the seed and the class alone."""

import random
from itertools import pairwise
from pathlib import Path

import pytest

from lorattt.data.file_list import FileList, Sample
from lorattt.data.splits import few_shot, holdout, keep_classes
from lorattt.errors import UserError

ROOT = Path("photos")
NAMES = ("cat", "dog", "crane", "bird", "crane")


def listing(counts: tuple[int, ...] = (9, 5, 7, 6, 8), names: tuple[str, ...] = NAMES) -> FileList:
    items = [Sample(f"{label}/{n:02d}.jpg", label) for label, count in enumerate(counts) for n in range(count)]
    return FileList(ROOT, tuple(items), names[: len(counts)])


def shuffled(of: FileList, seed: int = 1) -> FileList:
    items = list(of.samples)
    random.Random(seed).shuffle(items)
    assert tuple(items) != of.samples
    return FileList(of.root, tuple(items), of.class_names)


def paths(of: FileList, label: int) -> list[str]:
    return [item.path for item in of.samples if item.label == label]


@pytest.mark.parametrize("shots", [1, 3, 5])
def test_few_shot_takes_as_many_of_each_class_sorted(shots: int) -> None:
    drawn = few_shot(listing(), shots, seed=0)
    assert [len(paths(drawn, label)) for label in range(5)] == [shots] * 5
    assert set(drawn.samples) <= set(listing().samples)
    assert list(drawn.samples) == sorted(drawn.samples, key=lambda item: (item.label, item.path))
    assert (drawn.root, drawn.class_names) == (ROOT, NAMES)


@pytest.mark.parametrize("seed", [0, 1, 2**63, -5])
def test_a_draw_does_not_depend_on_the_order_of_the_listing(seed: int) -> None:
    for order in range(3):
        assert few_shot(shuffled(listing(), order), 4, seed) == few_shot(listing(), 4, seed)
        assert holdout(shuffled(listing(), order), 2, seed) == holdout(listing(), 2, seed)


def test_a_class_does_not_depend_on_the_others() -> None:
    drawn, others = few_shot(listing(), 4, seed=3), few_shot(listing((20, 5, 30, 6, 4)), 4, seed=3)
    assert paths(drawn, 1) == paths(others, 1)
    assert paths(drawn, 3) == paths(others, 3)


def test_larger_draws_contain_smaller_ones() -> None:
    draws = [set(few_shot(listing(), shots, seed=7).samples) for shots in range(1, 6)]
    held = [set(holdout(listing(), count, 7)[1].samples) for count in range(1, 5)]
    for small, large in [*pairwise(draws), *pairwise(held)]:
        assert small < large


def test_every_image_is_drawn_equally_often_and_classes_are_drawn_apart() -> None:
    of = listing((10, 10))
    counts = dict.fromkeys(of.samples, 0)
    alike = 0
    for seed in range(500):
        drawn = few_shot(of, 3, seed)
        for item in drawn.samples:
            counts[item] += 1
        alike += [path[2:] for path in paths(drawn, 0)] == [path[2:] for path in paths(drawn, 1)]
    # 500 draws at 0.3: mean 150, standard deviation 10. Two classes agree in 1 of 120 draws, 4 of 500.
    assert all(110 < count < 190 for count in counts.values())
    assert alike < 15


def test_few_shots_and_held_out_images_are_drawn_apart() -> None:
    same = [set(few_shot(listing(), 2, s).samples) == set(holdout(listing(), 2, s)[1].samples) for s in range(9)]
    assert not any(same)


@pytest.mark.parametrize(
    ("counts", "shots", "message"),
    [
        ((9, 3, 9), 4, r"^data\.shots 4: class 1 \('dog'\) in photos has 3 images: ask for fewer"),
        ((9, 1), 2, r"class 1 \('dog'\) in photos has 1 image:"),
        ((9, 0), 1, r"^data\.shots 1: class 1 \('dog'\) in photos has no images"),
        ((9,), 0, r"^data\.shots 0: must be at least 1"),
        ((9,), -1, r"^data\.shots -1: must be at least 1"),
    ],
)
def test_shots_that_cannot_be_had_are_refused(counts: tuple[int, ...], shots: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        few_shot(listing(counts), shots, seed=0)


def test_images_without_a_class_are_refused() -> None:
    of = FileList(ROOT, (Sample("a.jpg", -1),), ())
    for split in (lambda: few_shot(of, 1, 0), lambda: holdout(of, 1, 0)):
        with pytest.raises(UserError, match=r"photos/a\.jpg has no class"):
            split()


@pytest.mark.parametrize("amount", [1, 4])
def test_the_rest_and_the_held_out_images_are_the_whole(amount: int) -> None:
    rest, held = holdout(listing(), amount, 0)
    assert [len(paths(held, label)) for label in range(5)] == [amount] * 5
    assert sorted(rest.samples + held.samples) == sorted(listing().samples)
    for part in (rest, held):
        assert list(part.samples) == sorted(part.samples, key=lambda item: (item.label, item.path))
        assert (part.root, part.class_names) == (ROOT, NAMES)


def test_at_least_one_image_of_a_class_stays() -> None:
    with pytest.raises(UserError, match=r"data.val_shots 5: class 1 \('dog'\) in photos has 5 images, and at least"):
        holdout(listing(), 5, 0)


@pytest.mark.parametrize("classes", range(2, 8))
def test_base_and_new_classes_part_the_labels(classes: int) -> None:
    of = shuffled(listing((2,) * classes, tuple("abcdefg")))
    base, new = keep_classes(of, "base"), keep_classes(of, "new")
    half = -(-classes // 2)
    assert base.class_names + new.class_names == of.class_names
    assert len(base.class_names) == half
    assert [item for item in of.samples if item.label < half] == list(base.samples)
    assert [Sample(path, label - half) for path, label in of.samples if label >= half] == list(new.samples)
    assert keep_classes(of, "all") == of


def test_subsets_that_do_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.classes 'old': use all, base, new, or a list"):
        keep_classes(listing(), "old")
    with pytest.raises(UserError, match="photos has 1 classes, so none are new"):
        keep_classes(listing((3,)), "new")


def test_classes_are_kept_by_number_or_name_and_labelled_in_that_order() -> None:
    of = shuffled(listing((2, 2, 2, 2, 2)))
    kept = keep_classes(of, ["bird", 0, 4])
    assert kept.class_names == ("bird", "cat", "crane")
    assert kept.samples == tuple(
        Sample(path, {3: 0, 0: 1, 4: 2}[label]) for path, label in of.samples if label in (3, 0, 4)
    )
    assert keep_classes(of, range(5)) == of


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "is empty: name at least one class"),
        ([5], "there is no class 5; they are numbered 0 to 4"),
        ([-1], "there is no class -1"),
        (["brid"], "no class is named 'brid'; did you mean 'bird'?"),
        (["crna"], "did you mean 'crane'?"),
        (["zebra"], "no class is named 'zebra'; use its number"),
        (["crane"], "'crane' is the name of classes 2 and 4: use the number"),
        (["cat", "dog", "cat"], "'cat' is class 0, which is given twice"),
        (["cat", 0], "0 is class 0, which is given twice"),
    ],
)
def test_unknown_and_ambiguous_classes_are_refused(classes: list[int | str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        keep_classes(listing(), classes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
