"""Compiling what is run many times on the same shapes."""

from collections.abc import Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

BACKEND = "inductor"

_P = ParamSpec("_P")
_R = TypeVar("_R")


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function compiled when it is first called, anew for each combination of shapes."""
    return torch.compile(function, dynamic=False, backend=BACKEND)


class CompiledOnRepeat(Generic[_P, _R]):
    """Runs a function as it is on shapes that are new, and compiled on those that come again.

    Compiling takes up to a minute; a run's last batch, smaller than the others, or the parts by which a GPU's memory
    is tried out, are not worth it. PyTorch itself stops compiling after some shapes (``recompile_limit``) and then runs
    the function as it is.

    Args:
        function: What to run. Its result must not depend on anything but its arguments and what never changes.
    """

    def __init__(self, function: Callable[_P, _R]) -> None:
        self._plain, self._compiled = function, compiled(function)
        self._seen: set[Hashable] = set()

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """What the function gives, up to rounding."""
        values = (*args, *kwargs.values())
        key = (torch.is_grad_enabled(), *(value.shape for value in values if isinstance(value, Tensor)))
        again = key in self._seen
        self._seen.add(key)
        return (self._compiled if again else self._plain)(*args, **kwargs)
