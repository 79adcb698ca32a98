"""The views of a class list: against plain texts, against each other, and for some of the classes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.prompts.class_views import CLASS_VIEWS, ClassViews
from lorattt.prompts.prompt import PromptSpec, build_prompt

NAMES = ["red ring", "a very_long name of a thing", "cross", "blue star", "ring"]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(ClipSpec("lorattt-demo", "demo"))


@pytest.fixture
def wide(clip: Clip) -> Iterator[Clip]:
    """The same in float64."""
    clip.model.double()
    yield clip
    clip.model.float()


def words(clip: Clip, text: str = "a photo of a") -> Tensor:
    return build_prompt(PromptSpec(words=text), clip, NAMES, 0).context


def text(clip: Clip, template: str) -> Tensor:
    return clip.text_features([name.replace("_", " ") for name in NAMES], [template])


def test_with_the_words_of_the_template_the_views_are_texts(clip: Clip) -> None:
    views = ClassViews(clip, NAMES, 4)
    features = views.features(words(clip))
    assert features.shape == (5, 4, 128)
    assert features.dtype == torch.float32
    front, middle, end, hand = features.unbind(1)
    assert torch.allclose(end, hand, atol=1e-6)
    assert torch.allclose(hand, text(clip, "a photo of a {}."), atol=1e-6)
    assert torch.allclose(front, text(clip, "{} a photo of a."), atol=1e-6)
    assert torch.allclose(middle, text(clip, "a photo {} of a."), atol=1e-6)
    assert (front - end).abs().max() > 1e-2
    assert torch.allclose(views.classifier(words(clip), "end")[0], end)
    assert torch.allclose(views.classifier(words(clip), "mean")[0], F.normalize(features.mean(1), dim=-1))


def test_order_template_and_a_gradient(clip: Clip) -> None:
    context = words(clip).requires_grad_()
    views = ClassViews(clip, NAMES, 4, views=["hand", "end"], template="one {}")
    assert (views.views, views.learned, views.count) == (("hand", "end"), ("end",), 5)
    features = views.features(context)
    assert torch.allclose(features[:, 0], text(clip, "one {}"), atol=1e-6)
    (of_hand,) = torch.autograd.grad(features[:, 0].sum(), context, retain_graph=True, allow_unused=True)
    assert of_hand is None or not of_hand.any()
    (of_end,) = torch.autograd.grad(features[:, 1, 0].sum(), context)
    assert of_end.abs().max() > 0
    assert views.hand is views.hand  # encoded once


def test_some_of_the_classes(wide: Clip) -> None:
    context = (words(wide) + 0.1 * torch.randn(4, 128)).double()
    views = ClassViews(wide, NAMES, 4)
    whole = views.features(context)
    for classes in (torch.tensor([3, 0, 4]), torch.tensor([2]), torch.arange(5)):
        assert torch.allclose(views.features(context, classes=classes), whole[classes], atol=1e-12)


def test_known_views_are_not_encoded_again(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    views, context = ClassViews(clip, NAMES, 4), words(clip)
    known: dict[Any, Tensor] = {"end": torch.full((2, 128), 0.5), "hand": torch.full((2, 128), 0.25)}
    features = views.features(context, classes=torch.tensor([1, 2]), known=known)
    assert torch.equal(features[:, 2], known["end"])
    assert torch.equal(features[:, 3], known["hand"])
    assert torch.allclose(features[:, :2], views.features(context)[[1, 2], :2], atol=1e-6)
    monkeypatch.setattr("lorattt.prompts.class_prompts.ClassPrompts.features", None)
    monkeypatch.setattr(views, "_hand", None)
    known = dict.fromkeys(CLASS_VIEWS, torch.ones(5, 128))
    assert torch.equal(views.features(context, known=known), torch.ones(5, 4, 128))


def test_separate_contexts(wide: Clip) -> None:
    contexts = torch.randn(3, 4, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    views = ClassViews(wide, NAMES, 4)
    features = views.features(contexts)
    for place, view in enumerate(views.learned):
        alone = ClassViews(wide, NAMES, 4, views=[view, "hand"]).features(contexts[place])
        assert torch.allclose(features[:, place], alone[:, 0], atol=1e-12)
    shared = views.features(contexts[0])
    assert torch.equal(views.features(contexts[:1].expand(3, -1, -1)), shared)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_equal_the_whole_with_its_gradient(wide: Clip, chunk: int) -> None:
    views = ClassViews(wide, NAMES, 4)
    weights = torch.randn(5, 4, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for size in (None, chunk):
        context = words(wide).double().requires_grad_()
        features = views.features(context, chunk=size)
        (gradient,) = torch.autograd.grad((features * weights).sum(), context)
        found.append((features.detach(), gradient))
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (["end"], "at least two are needed"),
        (["hand"], "at least two are needed"),
        ([], "at least two are needed"),
        (["end", "end"], "name each view once"),
        (["end", "back"], "'back' is none of front, middle, end, hand"),
    ],
)
def test_views_that_are_none(clip: Clip, views: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassViews(clip, NAMES, 4, views=views)


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_without_a_place(clip: Clip, template: str) -> None:
    with pytest.raises(UserError, match=r"must have exactly one \{\}"):
        ClassViews(clip, NAMES, 4, template=template)
    ClassViews(clip, NAMES, 4, views=["front", "end"], template=template)  # not used
