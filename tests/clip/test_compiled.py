"""What is compiled, and when."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lorattt.clip.compiled import CompiledOnRepeat


def test_only_shapes_that_come_again_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        shapes.extend(tuple(each.shape) for each in inputs)
        return graph.forward

    monkeypatch.setattr("lorattt.clip.compiled.BACKEND", backend)

    def double(x: Tensor, times: int) -> Tensor:
        return x * times

    run = CompiledOnRepeat(double)
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
