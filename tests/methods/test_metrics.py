"""Accuracy, calibration and likelihood against torchmetrics and torch."""

import json
import math
import random
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lorattt.methods.metrics import EpisodeMetrics, half_interval

Batch = tuple[Tensor, Tensor, Tensor]


def batch_of(count: int, classes: int, seed: int = 0) -> Batch:
    """Logits that are right more often than by chance, and of every confidence."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (count,), generator=generator)
    scale = torch.rand(count, 1, generator=generator) * 6
    before, after = scale * torch.randn(2, count, classes, generator=generator)
    after = after + 3 * F.one_hot(label, classes)
    return before, after, label


def result_of(*batches: Batch) -> dict[str, float | int]:
    metrics = EpisodeMetrics()
    for batch in batches:
        metrics.update(*batch)
    return metrics.compute()


def expected_of(before: Tensor, after: Tensor, label: Tensor) -> dict[str, float | int]:
    classes = before.shape[1]
    expected: dict[str, float | int] = {"n": len(label)}
    for when, logits in (("before", before), ("after", after)):
        for top in (1, 5):
            accuracy = MulticlassAccuracy(classes, top_k=min(top, classes), average="micro")
            expected[f"top{top}_{when}"] = accuracy(logits, label).item()
        calibration = MulticlassCalibrationError(classes, n_bins=20, norm="l1")
        expected[f"ece_{when}"] = calibration(logits.softmax(-1), label).item()
        expected[f"nll_{when}"] = F.cross_entropy(logits, label).item()
    right_before, right_after = (np.asarray(logits.argmax(-1) == label, dtype=float) for logits in (before, after))
    change = right_after - right_before
    half = 1.96 * change.std(ddof=1) / len(change) ** 0.5
    return {**expected, "top1_change_low": change.mean() - half, "top1_change_high": change.mean() + half}


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6, 100])
def test_matches_torchmetrics_and_torch(classes: int) -> None:
    batch = batch_of(700, classes)
    result = result_of(batch)
    assert result == pytest.approx(expected_of(*batch), abs=1e-5)
    assert result["n"] == 700
    assert result["top1_after"] > result["top1_before"]
    if classes <= 5:
        assert result["top5_before"] == 1


def test_a_confidence_on_the_border_of_two_bins_counts_to_the_lower() -> None:
    # C-TPT's bins: 0.5 is in (0.45, 0.5], apart from 0.52. One bin of both would have a gap of 0.02.
    logits = torch.tensor([[0.5, 0.5, 0.0], [0.52, 0.28, 0.2]]).log().clamp(min=-1e4)
    result = result_of((logits, logits, torch.tensor([2, 0])))
    assert result["ece_before"] == pytest.approx((0.5 + 0.48) / 2, abs=1e-6)


def test_images_of_unknown_label_are_left_out() -> None:
    before, after, label = batch_of(60, 7)
    label[::3] = -1
    known = label >= 0
    expected = expected_of(before[known], after[known], label[known])
    assert expected["n"] == 40
    assert result_of((before, after, label)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric EpisodeMetrics was called before")
def test_without_known_labels_only_the_number_is_given() -> None:
    before, after, _ = batch_of(6, 7)
    unknown = torch.full((6,), -1)
    assert result_of((before, after, unknown)) == {"n": 0}
    assert result_of() == {"n": 0}
    assert result_of((before[:0], after[:0], unknown[:0])) == {"n": 0}


def test_batches_add_up_to_the_whole() -> None:
    before, after, label = batch_of(101, 9)
    whole = result_of((before, after, label))
    parts = [(before[i : i + 8], after[i : i + 8], label[i : i + 8]) for i in range(0, 101, 8)]
    assert result_of(*parts) == pytest.approx(whole, abs=1e-6)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric EpisodeMetrics was called before")
def test_states_of_devices_are_joined() -> None:
    before, after, label = batch_of(101, 9)
    devices = [EpisodeMetrics(), EpisodeMetrics(), EpisodeMetrics()]
    # Unequal shares; the last device has nothing.
    devices[0].update(before[:70], after[:70], label[:70])
    devices[1].update(before[70:], after[70:], label[70:])
    merged = EpisodeMetrics()
    assert {name: reduction.__name__ for name, reduction in merged._reductions.items()} == {"rows": "dim_zero_cat"}
    merged.rows = [row for device in devices for row in device.rows]
    assert merged.compute() == result_of((before, after, label))


@pytest.mark.parametrize("images", [0, 6])
def test_a_device_without_a_batch_waits_for_none(images: int) -> None:
    other = EpisodeMetrics()
    other.update(*batch_of(6, 4))
    own = EpisodeMetrics()
    if images:
        own.update(*batch_of(images, 4))

    def gather(tensor: torch.Tensor, group: object = None) -> list[torch.Tensor]:
        assert tensor.shape == (images, 9)
        return [tensor, other.rows[0]]

    own._sync_dist(gather)
    assert own.compute()["n"] == images + 6


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_what_images_add_alone_sums_up_to_the_whole(classes: int) -> None:
    before, after, label = batch_of(700, classes)
    label[::3] = -1
    scores = EpisodeMetrics.scores(before, after, label)
    assert [row is None for row in scores] == (label < 0).tolist()
    known = [row for row in scores if row is not None]
    result = EpisodeMetrics.total(known)
    assert result == pytest.approx(result_of((before, after, label)), abs=1e-6)
    # To the last digit in any order, and through text.
    assert EpisodeMetrics.total(json.loads(json.dumps(known[::-1]))) == result
    assert EpisodeMetrics.total([]) == {"n": 0}


def test_images_alone_have_the_bins_of_the_whole() -> None:
    logits = torch.tensor([[0.55, 0.45], [0.5, 0.5], [0.7, 0.3], [0.52, 0.48]]).log()
    label = torch.tensor([0, 1, 1, 0])
    scores = [row for row in EpisodeMetrics.scores(logits, logits, label) if row is not None]
    assert EpisodeMetrics.total(scores) == pytest.approx(result_of((logits, logits, label)), abs=1e-6)


def test_reset_forgets() -> None:
    metrics = EpisodeMetrics()
    metrics.update(*batch_of(10, 4))
    metrics.reset()
    metrics.update(*batch_of(20, 4, seed=1))
    assert metrics.compute() == result_of(batch_of(20, 4, seed=1))


def test_before_and_after_are_told_apart() -> None:
    before, after, label = batch_of(50, 4)
    one, other = result_of((before, after, label)), result_of((after, before, label))
    for name in ("top1", "top5", "ece", "nll"):
        assert one[f"{name}_before"] == other[f"{name}_after"]
        assert one[f"{name}_after"] == other[f"{name}_before"]
    assert one["nll_before"] != one["nll_after"]
    assert one["top1_change_low"] == -other["top1_change_high"] > 0


def test_interval_of_the_change() -> None:
    """By hand: of 4 images one is won and none lost, a change of 1/4 with deviation 1/2; no label, no count."""
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    before, after = torch.stack([right, wrong, wrong, right, wrong]), torch.stack([right, right, wrong, right, right])
    result = result_of((before, after, torch.tensor([0, 0, 0, 0, -1])))
    ends = [result["top1_change_low"], result["top1_change_high"]]
    assert ends == pytest.approx([0.25 - 1.96 * 0.5 / 2, 0.25 + 1.96 * 0.5 / 2], abs=1e-12)
    nothing_changed = result_of((before, before, torch.zeros(5, dtype=torch.long)))
    assert (nothing_changed["top1_change_low"], nothing_changed["top1_change_high"]) == (0, 0)
    alone = result_of((before[1:2], after[1:2], torch.tensor([0])))
    assert (alone["top1_before"], alone["top1_after"]) == (0, 1)
    assert math.isnan(alone["top1_change_low"])
    assert math.isnan(alone["top1_change_high"])


def test_half_an_interval_is_the_same_in_any_order() -> None:
    drawn = random.Random(0)
    values = [drawn.gauss(30, 10) for _ in range(500)]
    half = half_interval(values)
    assert half == pytest.approx(1.96 * statistics.stdev(values) / 500**0.5, rel=1e-12)
    for _ in range(20):
        drawn.shuffle(values)
        assert half_interval(values) == half
    assert [half_interval([2.0] * 3), half_interval([1.0, 3.0])] == pytest.approx([0, 1.96])
    assert math.isnan(half_interval([]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    before, after, label = batch_of(50, 4)
    rounded = before.to(dtype), after.to(dtype)
    assert result_of((*rounded, label)) == result_of((rounded[0].float(), rounded[1].float(), label))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    result = result_of((logits, logits, torch.tensor([0, 0])))
    for name, expected in (("top1", 0.5), ("top5", 1.0), ("ece", 0.5), ("nll", 1e4)):
        for when in ("before", "after"):
            assert result[f"{name}_{when}"] == expected, name
