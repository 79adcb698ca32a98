"""AugMix: its parameters as drawn, and its operations against PIL's."""

import math
from collections.abc import Sequence

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lorattt.views.augmix import OPERATIONS, AugMixParams, augmix, sample_augmix
from lorattt.views.crops import ViewSpec

MANY = ViewSpec(number=2001, augmix=True)


def picture(width: int = 30, height: int = 24) -> Image.Image:
    """Smooth and of narrow range, so that each operation changes it."""
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    channels = [30 + 5 * x, 40 + 6 * y, 200 - 3 * x - 2 * y]
    return Image.fromarray(torch.stack(channels, dim=-1).to(torch.uint8).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(*image.size[::-1], 3).permute(2, 0, 1)


def chains(
    operations: Sequence[Sequence[str]],
    *,
    level: float = 0.5,
    negative: bool = False,
    weights: Sequence[float] = (1.0, 0.0, 0.0),
    keep: float = 0.0,
) -> AugMixParams:
    numbers = torch.full((3, 3), -1)
    for chain, names in enumerate(operations):
        for step, name in enumerate(names):
            numbers[chain, step] = OPERATIONS.index(name)
    return AugMixParams(
        numbers,
        torch.full((3, 3), level, dtype=torch.float64),
        torch.full((3, 3), negative),
        torch.tensor(weights, dtype=torch.float64),
        keep,
    )


def test_the_nine_operations_are_augmixs() -> None:
    # augmentations.py of google-research/augmix, its list for ImageNet-C.
    geometry = ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"]
    assert sorted(OPERATIONS) == sorted([*geometry, "autocontrast", "equalize", "posterize", "solarize"])


def test_chains_are_drawn_as_in_the_paper() -> None:
    params = sample_augmix(MANY, seed=0, index=0)
    assert len(params) == 2000
    operations = torch.stack([p.operations for p in params])
    levels = torch.stack([p.levels for p in params])
    weights = torch.stack([p.weights for p in params])
    signs = torch.stack([p.signs for p in params])
    keep = torch.tensor([p.keep for p in params], dtype=torch.float64)
    # A chain's end is an end, and each of the lengths 1, 2 and 3 is as likely.
    present = operations >= 0
    assert (present[..., 1:] <= present[..., :-1]).all()
    lengths = present.sum(-1).flatten().bincount(minlength=4)
    assert lengths[0] == 0
    assert ((lengths[1:] / 6000 - 1 / 3).abs() < 5 * math.sqrt(2 / 9 / 6000)).all()
    shares = operations[present].bincount() / present.sum()
    assert len(shares) == 9
    assert ((shares - 1 / 9).abs() < 5 * math.sqrt(8 / 81 / 12_000)).all()
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18, and each weight below t with probability 1 - (1 - t)^2.
    torch.testing.assert_close(weights.sum(1), torch.ones(2000, dtype=torch.float64))
    assert (weights >= 0).all()
    assert ((weights.mean(0) - 1 / 3).abs() < 5 * math.sqrt(1 / 18 / 2000)).all()
    for t in (0.1, 0.3, 0.7):
        p = 1 - (1 - t) ** 2
        assert (((weights < t).double().mean(0) - p).abs() < 5 * math.sqrt(p * (1 - p) / 2000)).all()
    # Beta(1, 1) is uniform.
    for values in (keep, levels.flatten()):
        assert values.min() >= 0
        assert values.max() < 1
        assert abs(values.mean() - 1 / 2) < 5 / math.sqrt(12 * 2000)
        assert abs(values.var() - 1 / 12) < 5 / math.sqrt(180 * 2000)
    assert abs(signs.double().mean() - 1 / 2) < 5 / 2 / math.sqrt(18_000)


def test_chains_depend_on_seed_sample_and_view_alone() -> None:
    many = sample_augmix(ViewSpec(number=20), seed=1, index=2)
    few = sample_augmix(ViewSpec(number=5), seed=1, index=2)
    for one, other in zip(few, many, strict=False):
        for name in ("operations", "levels", "signs", "weights"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert one.keep == other.keep
    drawn = [
        params for seed, index in ((1, 2), (2, 2), (1, 3)) for params in sample_augmix(MANY, seed=seed, index=index)
    ]
    keeps = {params.keep for params in drawn}
    assert len(keeps) == 3 * 2000
    assert sample_augmix(ViewSpec(number=1), seed=1, index=2) == []


@pytest.mark.parametrize("severity", [1, 3, 10])
def test_mixing_is_reproducible_and_changes_the_picture(severity: int) -> None:
    view = picture()
    for params in sample_augmix(ViewSpec(number=12), seed=0, index=0):
        mixed = augmix(view, params, severity)
        assert mixed.dtype == torch.uint8
        assert mixed.shape == (3, 24, 30)
        assert torch.equal(mixed, augmix(view, params, severity))
        assert not torch.equal(mixed, tensor(view))


def test_a_weight_of_one_gives_back_the_view() -> None:
    view = picture()
    for severity in (1, 10):
        params = chains([["solarize"], ["rotate", "equalize"], ["shear_x"]], weights=(0.2, 0.5, 0.3), keep=1.0)
        assert torch.equal(augmix(view, params, severity), tensor(view))


def test_the_mix_is_the_weighted_mean_of_view_and_chains() -> None:
    view = picture()
    names, weights, keep = [["solarize"], ["equalize", "posterize"], ["autocontrast"]], (0.2, 0.5, 0.3), 0.25
    parts = [augmix(view, chains([chain]), 3).double() for chain in names]
    expected = keep * tensor(view).double()
    for weight, part in zip(weights, parts, strict=True):
        expected += (1 - keep) * weight * part
    difference = augmix(view, chains(names, weights=weights, keep=keep), 3) - expected
    assert difference.abs().max() <= 0.5 + 1e-4


def test_operations_of_a_chain_are_applied_in_turn() -> None:
    view = picture()
    chained = augmix(view, chains([["rotate", "equalize", "posterize"]]), 5)
    stepwise = view
    for name in ("rotate", "equalize", "posterize"):
        stepwise = Image.fromarray(augmix(stepwise, chains([[name]]), 5).permute(1, 2, 0).numpy())
    assert torch.equal(chained, tensor(stepwise))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_runs_at_every_severity(operation: str) -> None:
    view = picture()
    for severity in range(1, 11):
        outcomes = []
        for level in (0.0, 0.5, 1 - 2**-53):
            for negative in (False, True):
                mixed = augmix(view, chains([[operation]], level=level, negative=negative), severity)
                assert mixed.shape == (3, 24, 30)
                outcomes.append(mixed)
    # At severity 10 the strongest one shows.
    assert not torch.equal(outcomes[-1], tensor(view))


@pytest.mark.parametrize("severity", range(1, 11))
@pytest.mark.parametrize("level", [0.0, 0.4, 1 - 2**-53])
def test_operations_match_pil(severity: int, level: float) -> None:
    view = picture()
    strength = (0.1 + level * (severity - 0.1)) / 10  # level drawn from U(0.1, severity), on a scale of 10
    for name, expected in (
        ("autocontrast", ImageOps.autocontrast(view)),
        ("equalize", ImageOps.equalize(view)),
        ("posterize", ImageOps.posterize(view, 4 - int(strength * 4))),
        ("solarize", ImageOps.solarize(view, 256 - int(strength * 256))),
        ("rotate", view.rotate(int(strength * 30), Image.Resampling.BILINEAR)),
    ):
        assert torch.equal(augmix(view, chains([[name]], level=level), severity), tensor(expected)), name
    for name in ("autocontrast", "equalize", "posterize", "solarize"):
        both = [augmix(view, chains([[name]], level=level, negative=sign), severity) for sign in (False, True)]
        assert torch.equal(*both), name


@pytest.mark.parametrize("severity", [1, 5, 10])
def test_geometry_matches_pil_and_has_two_directions(severity: int) -> None:
    view = picture()
    width, height = view.size
    strength = (0.1 + 0.5 * (severity - 0.1)) / 10
    shear = strength * 0.3
    for name, forward in (
        ("shear_x", (1, shear, 0, 0, 1, 0)),
        ("shear_y", (1, 0, 0, shear, 1, 0)),
        ("translate_x", (1, 0, int(strength * width / 3), 0, 1, 0)),
        ("translate_y", (1, 0, 0, 0, 1, int(strength * height / 3))),
        ("rotate", None),
    ):
        if forward is None:
            pair = [view.rotate(sign * int(strength * 30), Image.Resampling.BILINEAR) for sign in (1, -1)]
        else:
            backward = tuple(float(v) if i in (0, 4) else -float(v) for i, v in enumerate(forward))
            pair = [
                view.transform(view.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
                for matrix in (forward, backward)
            ]
        mine = [augmix(view, chains([[name]], negative=sign), severity).int() for sign in (False, True)]
        theirs = [tensor(image).int() for image in pair]
        # Which sign is which direction is a matter of taste.
        errors = [
            max((one - other).abs().max().item() for one, other in zip(mine, order, strict=True))
            for order in (theirs, theirs[::-1])
        ]
        assert min(errors) == 0, name
        still = torch.equal(*theirs)  # whole pixels and degrees: a weak operation may round to none
        assert still or max(errors) > 0, name
