"""E episodes at once against E loops, in float64."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from lorattt.episodes.engine import adapt
from lorattt.episodes.optim import OptimiserSpec
from lorattt.errors import UserError

E, STEPS = 5, 4
DATA = torch.randn(E, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _loss(w: Tensor, b: Tensor, data: Tensor) -> Tensor:
    """Something not quadratic, so that the path matters; ``(E,)``."""
    return ((w @ data.unsqueeze(-1)).squeeze(-1).tanh() - data + b).pow(2).sum(-1) + b.pow(4).sum(-1)


def _start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"w": (E, 3, 3), "b": (E, 3)}
    return {k: torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_() for k, s in shapes.items()}


def _loop(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], e: int, reset: bool
) -> tuple[Tensor, Tensor, list[float]]:
    w, b = (value[e : e + 1].detach().clone().requires_grad_() for value in _start().values())
    optimiser = make([w, b])
    losses = []
    for _ in range(STEPS):
        if reset:
            optimiser = make([w, b])
        loss = _loss(w, b, DATA[e : e + 1]).squeeze()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return w.detach(), b.detach(), losses


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("spec", "make"),
    [
        (OptimiserSpec("adamw", lr=0.1), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2)),
        (
            OptimiserSpec("adamw", lr=0.05, weight_decay=0.0, betas=(0.5, 0.6), eps=1e-3),
            lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.0, betas=(0.5, 0.6), eps=1e-3),
        ),
        (
            OptimiserSpec("sgd", lr=0.02, momentum=0.9, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.01),
        ),
    ],
    ids=["adamw", "adamw-other", "sgd"],
)
def test_batched_equals_each_alone(
    spec: OptimiserSpec, make: Callable[[list[Tensor]], torch.optim.Optimizer], reset: bool
) -> None:
    parameters = _start()
    result = adapt(
        parameters,
        lambda step: _loss(parameters["w"], parameters["b"], DATA),
        episodes=E,
        steps=STEPS,
        optimiser=spec,
        reset_every_step=reset,
    )
    assert result.finite.all()
    for e in range(E):
        w, b, losses = _loop(make, e, reset)
        torch.testing.assert_close(parameters["w"][e : e + 1], w, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(parameters["b"][e : e + 1], b, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(result.losses[:, e], torch.tensor(losses, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_broken_episode_is_marked_and_touches_no_other(poison: float) -> None:
    clean, broken = _start(), _start()
    data = DATA.clone()
    data[2, 0] = poison
    runs = {}
    for name, parameters, values in (("clean", clean, DATA), ("broken", broken, data)):

        def loss(step: int, p: Mapping[str, Tensor] = parameters, x: Tensor = values) -> Tensor:
            return _loss(p["w"], p["b"], x)

        runs[name] = adapt(parameters, loss, episodes=E, steps=STEPS, optimiser=OptimiserSpec(lr=0.1))
    assert runs["broken"].finite.tolist() == [True, True, False, True, True]
    others = [0, 1, 3, 4]
    for name in clean:
        assert torch.equal(clean[name][others], broken[name][others])


def test_a_gradient_that_is_not_finite_is_marked() -> None:
    x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    result = adapt({"x": x}, lambda step: x.sqrt().sum(-1), episodes=2, steps=1, optimiser=OptimiserSpec())
    assert result.losses.isfinite().all()
    assert result.finite.tolist() == [False, True]


def test_no_steps_changes_nothing() -> None:
    parameters = _start()
    result = adapt(parameters, lambda step: torch.zeros(E), episodes=E, steps=0, optimiser=OptimiserSpec())
    assert result.losses.shape == (0, E)
    assert result.finite.all()
    for name, value in _start().items():
        assert torch.equal(parameters[name], value)


def test_observer_sees_the_first_gradients() -> None:
    parameters = _start()
    seen: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []
    adapt(
        parameters,
        lambda step: _loss(parameters["w"], parameters["b"], DATA),
        episodes=E,
        steps=2,
        optimiser=OptimiserSpec(lr=0.1),
        observer=lambda step, losses, gradients: seen.append((step, losses, gradients)),
    )
    fresh = _start()
    (expected,) = torch.autograd.grad(_loss(fresh["w"], fresh["b"], DATA).sum(), fresh["w"])
    assert [step for step, *_ in seen] == [0, 1]
    torch.testing.assert_close(seen[0][2]["w"], expected)


def test_works_where_gradients_are_off() -> None:
    parameters = _start()
    with torch.no_grad():
        adapt(
            parameters,
            lambda step: _loss(parameters["w"], parameters["b"], DATA),
            episodes=E,
            steps=1,
            optimiser=OptimiserSpec(lr=0.1),
        )
    assert not torch.equal(parameters["w"], _start()["w"])


@pytest.mark.parametrize(
    "values",
    [{"lr": -1.0}, {"lr": float("inf")}, {"weight_decay": -0.1}, {"betas": (1.0, 0.9)}, {"eps": float("nan")}],
    ids=str,
)
def test_values_without_meaning_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"optimiser.{next(iter(values))}"):
        OptimiserSpec(**values)  # type: ignore[arg-type]
