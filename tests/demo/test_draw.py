"""The drawn data set: deterministic, balanced, comparable across domains, clear about mistakes."""

import numpy as np
import pytest

from lorattt.demo import CLASS_NAMES, DOMAINS, HELD_OUT, SEEN, draw
from lorattt.errors import UserError


def pixels(index: int, **kwargs: object) -> np.ndarray:
    """One drawn image as a signed array, so that differences do not wrap around."""
    image, _ = draw(index, **kwargs)  # type: ignore[arg-type]
    return np.asarray(image).astype(int)


def test_an_image_is_a_function_of_its_arguments() -> None:
    for domain in DOMAINS:
        pixels(3, domain=domain)  # another draw in between must not matter
        assert (pixels(7, domain=domain) == pixels(7, domain=domain)).all(), domain


@pytest.mark.parametrize("change", [{"index": 71}, {"seed": 1}, {"split": "val"}, {"severity": 4}])
def test_every_argument_matters(change: dict[str, object]) -> None:
    base: dict[str, object] = {"index": 7, "domain": "noise"}  # 7 and 71 are of one class
    first, second = pixels(**base), pixels(**{**base, **change})  # type: ignore[arg-type]
    assert first.shape == second.shape == (96, 96, 3)
    assert (first != second).any()


def test_severity_does_not_change_source() -> None:
    assert (pixels(5, severity=1) == pixels(5, severity=5)).all()


def distances(domain: str) -> np.ndarray:
    """Mean distance from the source picture at severity 1..5; the label must not change."""
    total = np.zeros(5)
    for index in range(12):
        source, label = draw(index)
        for severity in range(1, 6):
            image, other = draw(index, domain=domain, severity=severity)
            assert other == label
            total[severity - 1] += np.abs(np.asarray(image).astype(int) - np.asarray(source).astype(int)).mean()
    return total / 12


@pytest.mark.parametrize("domain", DOMAINS[1:])
def test_a_domain_changes_the_picture_the_more_the_severer(domain: str) -> None:
    distance = distances(domain)
    assert distance[0] > 0
    assert (np.diff(distance) > 0).all()


def test_labels_are_balanced_and_training_never_shows_held_out_classes() -> None:
    assert sorted(draw(index)[1] for index in range(100, 164)) == list(range(64))
    assert sorted(draw(index, split="train")[1] for index in range(48)) == sorted(SEEN)


def test_held_out_compositions_leave_each_colour_and_shape_in_training() -> None:
    assert len(set(CLASS_NAMES)) == 64
    assert sorted(SEEN + HELD_OUT) == list(range(64))
    assert len(HELD_OUT) == 16
    assert {label // 8 for label in SEEN} == {label % 8 for label in SEEN} == set(range(8))


def test_the_shape_is_drawn_in_its_colour() -> None:
    # Over many backgrounds the pixels nearest to pure red are those of a red shape.
    red = [index for index in range(128) if CLASS_NAMES[draw(index)[1]].startswith("red")]
    for index in red:
        image = pixels(index)
        redness = image[..., 0] - image[..., 1:].max(axis=-1)
        assert (redness > 80).sum() > 100


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"domain": "fog"}, ["'fog'", "source", "clutter"]),
        ({"severity": 0}, ["0", "1, 2, 3, 4, 5"]),
        ({"severity": 6}, ["6", "1, 2, 3, 4, 5"]),
        ({"split": "dev"}, ["'dev'", "train, val, test"]),
        ({"index": -1}, ["-1"]),
    ],
)
def test_mistakes_are_named_with_the_valid_choices(arguments: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        draw(**{"index": 0, **arguments})  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts)
