"""The projection head, the contrast of a class list, its second derivatives in two ways, and the choice of classes."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.losses.class_texts import class_contrast
from lorattt.methods.class_contrast import ContrastiveTask, HeadSpec, ProjectionHead, choose_classes
from lorattt.methods.gradient_matching import exact_product, finite_product
from lorattt.prompts.class_views import ClassViews
from lorattt.prompts.prompt import PromptSpec, build_prompt

NAMES = ["red ring", "blue star", "cross", "a_green heart"]


@pytest.fixture(scope="module")
def clip() -> Clip:
    clip = load_clip(ClipSpec("lorattt-demo", "demo"))
    clip.model.double()
    return clip


def task(clip: Clip, names: Sequence[str] = NAMES, temperature: float = 0.07) -> ContrastiveTask:
    return ContrastiveTask(
        ClassViews(clip, names, 4), ProjectionHead(128, HeadSpec(16, 8), seed=1).double(), temperature
    )


def context(clip: Clip) -> Tensor:
    return build_prompt(PromptSpec(), clip, NAMES, 0).context.double()


def test_it_is_the_contrast_of_projections(clip: Clip) -> None:
    one, at = task(clip), context(clip)
    expected = class_contrast(one.head(one.views.features(at)), 0.07)
    assert torch.equal(one.loss(at), expected)
    some = torch.tensor([2, 0])
    expected = class_contrast(one.head(one.views.features(at)[some]), 0.07)
    assert float(one.loss(at, classes=some).detach()) == pytest.approx(float(expected.detach()), rel=1e-10)


def test_the_order_of_classes_does_not_matter(clip: Clip) -> None:
    loss = float(task(clip).loss(context(clip)).detach())
    assert float(task(clip, NAMES[::-1]).loss(context(clip)).detach()) == pytest.approx(loss, rel=1e-10)


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("separate", [False, True])
def test_exact_products_equal_finite_ones(clip: Clip, chunk: int | None, separate: bool) -> None:
    """To a hundred thousandth, also where the graph is computed again from chunks."""
    one, at = task(clip), context(clip)
    if separate:
        at = at.expand(3, -1, -1) + 0.05 * torch.arange(3).view(3, 1, 1)
    direction = torch.randn(at.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = list(one.head.parameters())

    start = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(one.loss(start, chunk=chunk), start, create_graph=True)
    exact = exact_product(gradient, direction, [start, *weights])
    finite = finite_product(one.loss, at, direction, weights)
    assert len(exact) == len(finite) == 5
    for ours, expected in zip(finite, exact, strict=True):
        assert float(torch.linalg.vector_norm(ours - expected) / torch.linalg.vector_norm(expected)) < 1e-5
    half = finite_product(one.loss, at, 0.5 * direction)
    assert torch.allclose(half[0], 0.5 * finite[0], rtol=1e-6, atol=1e-9)
    assert not any(part.any() for part in finite_product(one.loss, at, torch.zeros_like(direction), weights))


def test_too_few_classes_and_temperatures(clip: Clip) -> None:
    with pytest.raises(UserError, match="the class list has 1 class: .* at least two"):
        task(clip, ["cross"])
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"model\.temperature .*: must be a finite number above 0"):
            task(clip, temperature=temperature)


def test_the_classes_of_a_step() -> None:
    present = torch.zeros(40, dtype=torch.bool)
    present[[3, 17, 39]] = True
    chosen = choose_classes(present, 10, seed=1, step=5)
    assert chosen.dtype == torch.int64
    assert len(chosen) == 10
    assert {3, 17, 39} <= set(chosen.tolist())
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(choose_classes(present, 10, seed=1, step=5), chosen)
    for seed, step in ((2, 5), (1, 6)):
        assert not torch.equal(choose_classes(present, 10, seed=seed, step=step), chosen)
    assert choose_classes(present, 2, seed=1, step=5).tolist() == [3, 17, 39]
    # The others are drawn evenly: in many steps each comes up about as often.
    none = torch.zeros(10, dtype=torch.bool)
    counts = torch.stack([choose_classes(none, 5, 0, step) for step in range(400)]).flatten().bincount(minlength=10)
    assert 160 < int(counts.min()) <= int(counts.max()) < 240


def test_two_layers_and_unit_length() -> None:
    head = ProjectionHead(8, HeadSpec(5, 3), seed=1)
    features = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))
    weights = list(head.parameters())
    hidden = torch.relu(features @ weights[0].T + weights[1])
    expected = hidden @ weights[2].T + weights[3]
    assert torch.allclose(head(features), expected / expected.norm(dim=-1, keepdim=True), atol=1e-6)
    assert head.double()(features.double()).dtype == torch.float64
    assert [tuple(weight.shape) for weight in ProjectionHead(8).parameters()] == [(8, 8), (8,), (128, 8), (128,)]


def test_it_is_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    first, state = ProjectionHead(8, seed=3), torch.get_rng_state()
    torch.manual_seed(1)
    again, other = ProjectionHead(8, seed=3), ProjectionHead(8, seed=4)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was taken from the run's own stream
    for one, same, another in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, another)


def test_round_trip_of_a_head() -> None:
    head = ProjectionHead(8, HeadSpec(5, 3), seed=1)
    tensors = head.tensors()
    assert set(tensors) == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    found = ProjectionHead.from_tensors({**tensors, "views.end": torch.zeros(2)}, 8, "p.safetensors")
    features = F.normalize(torch.randn(4, 8), dim=-1)
    assert torch.equal(found(features), head(features))
    with torch.no_grad():
        next(head.parameters()).zero_()
    assert tensors["head.0.weight"].abs().max() > 0  # a copy


def test_heads_that_are_none() -> None:
    tensors = ProjectionHead(8, HeadSpec(5, 3)).tensors()
    missing = {name: value for name, value in tensors.items() if name != "head.2.bias"}
    for given, width in ((tensors, 9), (missing, 8), ({**tensors, "head.4.bias": torch.zeros(1)}, 8)):
        with pytest.raises(UserError, match="p: its projection head does not fit text features of width"):
            ProjectionHead.from_tensors(given, width, "p")


@pytest.mark.parametrize(("key", "value"), [("hidden", 0), ("out", 0), ("out", -2)])
def test_a_width_below_1(key: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"head\.{key} {value}: must be at least 1"):
        HeadSpec(**{key: value})
