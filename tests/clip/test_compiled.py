"""What is compiled, and when."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lorattt.clip.vision import Compiled


def test_only_shapes_that_come_again_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        shapes.extend(tuple(each.shape) for each in inputs)
        return graph.forward

    monkeypatch.setattr("lorattt.clip.vision.BACKEND", backend)

    def double(x: Tensor, times: int) -> Tensor:
        return x * times

    run = Compiled(double, repeats=True)
    for size in (3, 5, 4):
        assert torch.equal(run(torch.ones(size), 2), 2 * torch.ones(size))
    assert shapes == []
    for _ in range(3):
        assert torch.equal(run(torch.ones(5), times=2), 2 * torch.ones(5))
    assert shapes == [(5,)]
    with torch.no_grad():  # code of its own
        run(torch.ones(5), 2)
    assert shapes == [(5,)]
    with torch.no_grad():
        run(torch.ones(5), 2)
    assert shapes == [(5,), (5,)]


def test_more_variants_than_pytorch_allows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        sizes.append(len(inputs[0]))
        return graph.forward

    monkeypatch.setattr("lorattt.clip.vision.BACKEND", backend)

    def triple(x: Tensor) -> Tensor:
        return x * 3

    run = Compiled(triple)
    for size in range(2, 16):
        run(torch.ones(size))
    assert sizes == list(range(2, 16))


class Scale(nn.Module):
    """A model that compiles one of its methods."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.run = Compiled(self.scaled)

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_with_its_own_weights(clone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorattt.clip.vision.BACKEND", "eager")
    model, x = Scale(2.0), torch.ones(3)
    assert model.run(x).tolist() == [2, 2, 2]
    other = clone(model)
    other.factor.data.fill_(5)
    assert other.run(x).tolist() == [5, 5, 5]
    assert model.run(x).tolist() == [2, 2, 2]
