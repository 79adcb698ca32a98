"""MTA: the authors' numbers, a plain loop over images and views, and what may not matter to a prediction."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from golden.replay import replay
from lorattt.errors import UserError
from lorattt.methods.mta import MTA, MTASpec, mta_mode
from lorattt.views.crops import ViewSpec

GOLDEN = Path(__file__).parent.parent / "golden" / "mta_zero.safetensors"
E, V, K, D = 5, 12, 7, 16
SCALE = torch.tensor(30.0, dtype=torch.float64)


def _unit(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Views around an image's own direction, some far away."""
    return F.normalize(_unit(E, 1, D, seed=0) + 0.8 * _unit(E, V, D, seed=1), dim=-1)


@pytest.fixture(scope="module")
def text() -> Tensor:
    return _unit(K, D, seed=2)


def naive_mode(views: Tensor, text: Tensor, spec: MTASpec) -> Tensor:
    """One image, view by view, in Python's numbers where it can be."""
    count = len(views)
    widths = []
    for p in range(count):
        others = sorted(float(((views[p] - views[q]) ** 2).sum()) for q in range(count) if q != p)
        nearest = others[: int(spec.bandwidth * (count - 1))]
        widths.append(0.5 * sum(nearest) / len(nearest))
    probabilities = (SCALE * views @ text.T).softmax(-1)

    def density(mode: Tensor) -> list[float]:
        return [math.exp(-float(((views[p] - mode) ** 2).sum()) / (2 * widths[p])) for p in range(count)]

    y, mode = [1 / count] * count, views[0]
    for _ in range(spec.outer):
        k = density(mode)
        for _ in range(spec.inner):
            scores = []
            for p in range(count):
                agreement = sum(float(probabilities[p] @ probabilities[q]) * y[q] for q in range(count))
                scores.append((k[p] + spec.lambda_q * agreement) / spec.lambda_y)
            powers = [math.exp(s - max(scores)) for s in scores]
            new = [power / sum(powers) for power in powers]
            moved = math.dist(new, y)
            y = new
            if moved < spec.threshold:
                break
        for _ in range(spec.inner):
            k_now = density(mode)
            total = sum((w * c * x for w, c, x in zip(k_now, y, views, strict=True)), torch.zeros(D).double())
            step = total / total.norm()
            moved = float((step - mode).norm())
            mode = step
            if moved < spec.threshold:
                break
    return mode


def test_golden_file() -> None:
    row = replay(GOLDEN)
    assert row["ok"], row
    assert (row["method"], row["episodes"]) == ("mta_zero", 6)
    assert row["mta_logits_abs"] <= 1e-3
    assert row["zero_argmax_equal"]
    assert row["zero_counts_equal"]
    assert row["batched_vs_single_abs"] <= 1e-3


@pytest.mark.parametrize("name", ["ep3.mta_logits", "ep2.zero_votes"])
def test_replay_sees_wrong_numbers(name: str, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(GOLDEN, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[name] = tensors[name].clone()
    tensors[name][0, 1] += 1 if "votes" in name else 0.01
    save_file(tensors, tmp_path / "wrong.safetensors", metadata)
    assert not replay(tmp_path / "wrong.safetensors")["ok"]
    save_file(tensors, tmp_path / "unknown.safetensors", {"config": '{"weights": 1}'})
    with pytest.raises(SystemExit, match="no known kind"):
        replay(tmp_path / "unknown.safetensors")


@pytest.mark.parametrize(
    "spec",
    [
        MTASpec(),
        MTASpec(lambda_y=0.5, lambda_q=1.0, bandwidth=0.6),
        MTASpec(lambda_q=0.0, outer=2, inner=9),
        MTASpec(threshold=1e-2),  # fixed points of some images converge early
    ],
    ids=str,
)
def test_equals_the_naive_loop(spec: MTASpec, image: Tensor, text: Tensor) -> None:
    mode = mta_mode(image, text, SCALE, spec)
    for e in range(E):
        torch.testing.assert_close(mode[e], naive_mode(image[e], text, spec), rtol=0, atol=1e-10)
    assert (mode - image[:, 0]).norm(dim=-1).min() > 0.02, "the comparison is empty if the mode stays where it was"


def test_each_image_may_have_class_features_of_its_own(image: Tensor, text: Tensor) -> None:
    own = F.normalize(text + 0.3 * _unit(E, K, D, seed=4), dim=-1)
    mode = mta_mode(image, own, SCALE)
    for e in range(E):
        torch.testing.assert_close(mode[e], naive_mode(image[e], own[e], MTASpec()), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        mta_mode(image, text.expand(E, K, D), SCALE), mta_mode(image, text, SCALE), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("threshold", [1e-6, 1e-2])
def test_batch_and_order_do_not_matter(threshold: float, image: Tensor, text: Tensor) -> None:
    spec = MTASpec(threshold=threshold)
    image, text, scale = image.float(), text.float(), SCALE.float()
    together = mta_mode(image, text, scale, spec)
    for e in range(E):
        torch.testing.assert_close(mta_mode(image[e : e + 1], text, scale, spec)[0], together[e], rtol=0, atol=1e-5)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(mta_mode(image[order], text, scale, spec), together[order], rtol=0, atol=1e-5)


def test_random_views_are_alike(image: Tensor, text: Tensor) -> None:
    """View 0 is where the mode starts; the others may come in any order."""
    order = [0, *(1 + torch.randperm(V - 1, generator=torch.Generator().manual_seed(0))).tolist()]
    torch.testing.assert_close(mta_mode(image[:, order], text, SCALE), mta_mode(image, text, SCALE), rtol=0, atol=1e-12)


def test_the_mode_is_a_unit_vector_that_outliers_do_not_move(text: Tensor) -> None:
    near = F.normalize(text[:1] + 0.3 * _unit(9, D, seed=6), dim=-1)
    far = F.normalize(text[1:2] + 0.3 * _unit(3, D, seed=7), dim=-1)
    views = torch.cat([near, far]).unsqueeze(0)
    mode = mta_mode(views, text, SCALE)[0]
    assert mode.norm().item() == pytest.approx(1)
    without = mta_mode(near.unsqueeze(0), text, SCALE)[0]
    mean, mean_without = (F.normalize(x.mean(0), dim=-1) for x in (views[0], near))
    assert (mode - without).norm() < 0.02
    assert (mean - mean_without).norm() > 0.2


def test_views_that_are_all_alike_are_their_mode(image: Tensor, text: Tensor) -> None:
    same = image[:, :1].expand(-1, V, -1)
    torch.testing.assert_close(mta_mode(same.float(), text.float(), SCALE.float()), same[:, 0].float())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda_y": 0.0}, r"^mta\.lambda_y 0\.0: must be a finite number above 0$"),
        ({"lambda_y": math.nan}, r"^mta\.lambda_y nan"),
        ({"lambda_q": -1.0}, r"^mta\.lambda_q -1\.0"),
        ({"lambda_q": math.inf}, r"^mta\.lambda_q inf"),
        ({"bandwidth": 0.0}, r"^mta\.bandwidth 0\.0"),
        ({"bandwidth": 1.5}, r"^mta\.bandwidth 1\.5"),
        ({"outer": 0}, r"^mta\.outer 0: must be at least 1$"),
        ({"inner": 0}, r"^mta\.inner 0"),
        ({"threshold": -1.0}, r"^mta\.threshold -1\.0"),
        ({"threshold": math.nan}, r"^mta\.threshold nan"),
    ],
)
def test_constants_without_meaning(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MTASpec(**values)


def test_too_few_views() -> None:
    with pytest.raises(UserError, match=r"^mta\.bandwidth 0\.3 of 4 views counts no neighbour: make more views"):
        MTA(views=ViewSpec(number=4))  # before the model is looked for: it would not be found here
    assert MTASpec().neighbours(5) == 1
    assert MTASpec().neighbours(64) == 18
