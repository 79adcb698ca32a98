"""Compile functions that run many times on the same shapes."""

from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

BACKEND = "inductor"

# By default PyTorch stops after 8 variants of a function; sizes of parts, passes and steps make more than that. All
# supported versions know this name.
_VARIANTS = {"cache_size_limit": 64}

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Compiled(Generic[_P, _R]):
    """A function that is compiled anew for each combination of shapes; a copy or pickle compiles for itself.

    Args:
        function: What to compile.
        repeats: Compile only shapes that come again. Compiling takes up to a minute, too long for a run's last batch,
            which is smaller than the others.
    """

    def __init__(self, function: Callable[_P, _R], repeats: bool = False) -> None:
        self._plain, self._repeats = function, repeats
        self._compiled = torch.compile(function, dynamic=False, backend=BACKEND)
        self._seen: set[Hashable] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the compiled code behind."""
        return Compiled, (self._plain, self._repeats)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Call the function; the result is the same up to rounding."""
        if self._repeats and self._is_new(*args, *kwargs.values()):
            return self._plain(*args, **kwargs)
        with torch._dynamo.config.patch(_VARIANTS):
            return self._compiled(*args, **kwargs)

    def _is_new(self, *values: Any) -> bool:
        key = (torch.is_grad_enabled(), *(value.shape for value in values if isinstance(value, Tensor)))
        new = key not in self._seen
        self._seen.add(key)
        return new
