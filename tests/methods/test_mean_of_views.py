"""The mean of the confident views against plain loops; and what the methods without training have in common."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.errors import UserError
from lorattt.methods.base import Method
from lorattt.methods.mean_of_views import MeanOfViews, mean_of_views
from lorattt.methods.mta import MTA, mta_mode
from lorattt.methods.shared_views import encode_views
from lorattt.methods.zero import ZERO, zero_votes
from lorattt.views.crops import ViewSpec

E, V, K = 30, 8, 4
NAMES = ["red circle", "blue square", "green star", "a cross", "yellow heart"]
DEMO = ClipSpec("lorattt-demo", "demo")


@pytest.fixture(scope="module")
def logits() -> Tensor:
    return 2 * torch.randn(E, V, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _confident(views: Tensor, selection: float) -> list[int]:
    p = views.softmax(-1)
    entropies = (-(p * p.log()).sum(-1)).tolist()
    return sorted(range(V), key=lambda v: entropies[v])[: int(V * selection)]


@pytest.mark.parametrize("selection", [0.25, 0.5, 1.0])
def test_equals_plain_loops(selection: float, logits: Tensor) -> None:
    soft, hard = mean_of_views(logits, selection), mean_of_views(logits, selection, "hard")
    ties = 0
    for e in range(E):
        p = torch.stack([logits[e, v].softmax(-1) for v in _confident(logits[e], selection)])
        mean = p.sum(0) / len(p)
        torch.testing.assert_close(soft[e].softmax(-1), mean, rtol=0, atol=1e-12)
        votes = Counter(int(row.argmax()) for row in p)
        best = max(votes.values())
        winners = [label for label, n in votes.items() if n == best]
        ties += len(winners) > 1
        assert int(hard[e].argmax()) == max(winners, key=lambda label: float(mean[label]))
        assert hard[e].softmax(-1).max().item() == pytest.approx(best / len(p), abs=2e-6)
    assert ties, "the comparison says nothing about ties"


def test_batch_and_the_order_of_views_do_not_matter(logits: Tensor) -> None:
    order = torch.randperm(V, generator=torch.Generator().manual_seed(1))
    for vote in ("soft", "hard"):
        together = mean_of_views(logits, 0.5, vote)  # type: ignore[arg-type]
        torch.testing.assert_close(mean_of_views(logits[:, order], 0.5, vote), together)  # type: ignore[arg-type]
        alone = torch.cat([mean_of_views(logits[e : e + 1], 0.5, vote) for e in range(E)])  # type: ignore[arg-type]
        torch.testing.assert_close(alone, together)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"^selection 0\.1 of 5 views keeps none"):
        MeanOfViews(views=ViewSpec(number=5))
    with pytest.raises(UserError, match=r"^vote 'loud': must be soft or hard$"):
        MeanOfViews(views=ViewSpec(number=10), vote="loud")  # type: ignore[arg-type]


# ---- the methods on a model


@pytest.fixture(scope="module")
def loaded() -> LoadedClip:
    return LoadedClip(load_clip(DEMO), DEMO)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 12, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _method(kind: type[Method], loaded: LoadedClip) -> Method:
    method = kind(clip=loaded, views=ViewSpec(number=12))
    method.eval().use_classes(NAMES)
    return method


KINDS: list[type[Method]] = [MTA, ZERO, MeanOfViews]


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_is_its_function_of_the_features(kind: type[Method], loaded: LoadedClip, pixels: Tensor) -> None:
    method = _method(kind, loaded)
    views = encode_views(method.clip, pixels, torch.arange(3), 0)
    before, after, fallback = method.classify(views)
    features, scale, text = views.features, method.clip.logit_scale, method.text
    logits = scale * features @ text.T
    torch.testing.assert_close(before, logits[:, 0])
    assert (after.dtype, after.shape, fallback.tolist()) == (torch.float32, (3, 5), [False] * 3)
    if kind is MTA:
        torch.testing.assert_close(after, scale * mta_mode(features, text, scale) @ text.T)
    elif kind is ZERO:
        votes, _ = zero_votes(logits)
        assert torch.equal(after.argmax(-1), votes.argmax(-1))
        torch.testing.assert_close(after.softmax(-1), votes / votes.sum(-1, keepdim=True), rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(after, mean_of_views(logits, 0.1))
    assert not torch.equal(before, after)
    assert not method.needs_gradient


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_are_not_finite_fall_back_and_touch_no_other(
    kind: type[Method], loaded: LoadedClip, pixels: Tensor
) -> None:
    method = _method(kind, loaded)
    clean = method.classify(encode_views(method.clip, pixels, torch.arange(3), 0))
    views = encode_views(method.clip, pixels, torch.arange(3), 0)
    views.features[1, 1:] = torch.nan  # the plain view is fine: there is a prediction to fall back to
    before, after, fallback = method.classify(views)
    rest = {MTA: [False, True, False], ZERO: [False, True, False], MeanOfViews: [False, False, False]}[kind]
    assert fallback.tolist() == rest  # the mean has one view, the plain one
    assert torch.equal(after[fallback], before[fallback])
    assert after.isfinite().all()
    torch.testing.assert_close(after[[0, 2]], clean[1][[0, 2]])
