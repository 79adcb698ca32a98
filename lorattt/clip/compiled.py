"""Compiling what is run many times on the same shapes."""

from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

BACKEND = "inductor"

# PyTorch gives a function up after 8 variants; sizes of parts, passes and steps make more than that. The name is the
# one that all supported versions know.
_VARIANTS = {"cache_size_limit": 64}

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Compiled(Generic[_P, _R]):
    """A function that is compiled anew for each combination of shapes.

    A copy, or what comes out of a pickle, compiles the function of the copied object for itself.

    Args:
        function: What to compile.
        repeats: Run shapes that are new as they are, and compile those that come again. Compiling takes up to a
            minute: a run's last batch, smaller than the others, is not worth it.
    """

    def __init__(self, function: Callable[_P, _R], repeats: bool = False) -> None:
        self._plain, self._repeats = function, repeats
        self._compiled = torch.compile(function, dynamic=False, backend=BACKEND)
        self._seen: set[Hashable] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Code and the object that it was made for stay here."""
        return Compiled, (self._plain, self._repeats)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """What the function gives, up to rounding."""
        if self._repeats and self._is_new(*args, *kwargs.values()):
            return self._plain(*args, **kwargs)
        with torch._dynamo.config.patch(_VARIANTS):
            return self._compiled(*args, **kwargs)

    def _is_new(self, *values: Any) -> bool:
        key = (torch.is_grad_enabled(), *(value.shape for value in values if isinstance(value, Tensor)))
        new = key not in self._seen
        self._seen.add(key)
        return new
