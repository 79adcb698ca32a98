"""Snapshot and restore, on the device, for methods that change a module's own weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Entry:
    owner: nn.Module
    name: str
    tensor: Tensor
    value: Tensor


@dataclass(frozen=True)
class Snapshot:
    """Every parameter and buffer of some modules: which tensor stood where, and what it held."""

    entries: tuple[_Entry, ...]


def snapshot(*modules: nn.Module) -> Snapshot:
    """Remember the tensors of the modules and of all modules below them.

    Values are copied on the device they are on. A tensor that two modules share is copied once for each.
    """
    entries = [
        _Entry(owner, name, tensor, tensor.detach().clone())
        for module in modules
        for owner in module.modules()
        for name, tensor in (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
    ]
    return Snapshot(tuple(entries))


@torch.no_grad()
def restore(saved: Snapshot) -> None:
    """Put the same tensor objects back in their places, each with its remembered value, bit for bit."""
    for entry in saved.entries:
        entry.tensor.copy_(entry.value)
        setattr(entry.owner, entry.name, entry.tensor)


@contextmanager
def preserved(*modules: nn.Module) -> Iterator[None]:
    """Whatever happens inside, an exception included, the modules are afterwards as they were before."""
    saved = snapshot(*modules)
    try:
        yield
    finally:
        restore(saved)
