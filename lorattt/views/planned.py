"""What loader workers plan for images and send to the process of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_P = TypeVar("_P", bound="Planned")


@dataclass(frozen=True)
class Planned:
    """Base of plans: each field is a tensor, list or plan with an entry for each image, or None."""

    def __reduce__(self) -> Any:
        """Send tensors as arrays, by value; each tensor would take a shared-memory file of its own."""
        values = (value.numpy() if isinstance(value, Tensor) else value for value in vars(self).values())
        return _rebuilt, (type(self), *values)

    def to(self: _P, device: torch.device | str, non_blocking: bool = True) -> _P:
        """The plan with its tensors on that device; lists stay on the CPU."""
        return self.with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: _P) -> _P:
        """The plan in memory that is copied to a GPU without waiting for earlier work."""
        return self.with_tensors(lambda tensor: tensor.pin_memory())

    def part(self: _P, first: int, end: int) -> _P:
        """The plan for images ``first`` to ``end - 1``."""
        return self._with(lambda value: value[first:end])

    def with_tensors(self: _P, change: Callable[[Tensor], Tensor]) -> _P:
        """The plan with its tensors changed."""
        return self._with(lambda value: change(value) if isinstance(value, Tensor) else value)

    def _with(self: _P, change: Callable[[Any], Any]) -> _P:
        """The plan with its tensors and lists changed, and those of the plans in it."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name, value in given.items():
            given[name] = value._with(change) if isinstance(value, Planned) else change(value)
        return replace(self, **given)

    @classmethod
    def join(cls: type[_P], plans: Sequence[_P]) -> _P:
        """One plan for the images of several plans of the same kind, at least one."""
        return cls(*map(_joined, zip(*(vars(plan).values() for plan in plans), strict=True)))


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, Planned):
        return first.join(values)
    return None if first is None else [item for value in values for item in value]


def _rebuilt(kind: type[_P], *values: Any) -> _P:
    return kind(*(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values))
