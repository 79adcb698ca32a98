"""Images that are made of their numbers, and a Trainer's place of a device."""

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from PIL import Image

from lorattt.data.datamodule import ImageData
from lorattt.data.images import UnreadableImageError

Data = TypeVar("Data", bound=ImageData)


class Fake:
    """Images whose red value is their number; some may be broken. Labels go round, where they are not one for all."""

    def __init__(
        self,
        name: str,
        numbers: Sequence[int],
        *,
        broken: Collection[int] = (),
        classes: int = 1,
        label: int | None = None,
        size: tuple[int, int] = (1, 1),
    ) -> None:
        self.name, self.numbers = name, numbers
        self.class_names = [f"class {number}" for number in range(classes)]
        self._broken, self._label, self._size = broken, label, size
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self, index: int) -> str:
        return f"{self.name}/{index}.png"

    def label(self, index: int) -> int:
        return index % len(self.class_names) if self._label is None else self._label

    def read(self, index: int) -> Image.Image:
        self.reads.append(index)
        if index in self._broken:
            raise UnreadableImageError("image file is truncated")
        return Image.new("RGB", self._size, (index, 0, 0))


def on_device(data: Data, world: int, rank: int, device: str = "cpu") -> Data:
    """The data as a Trainer has it on one of several devices."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer: Any = SimpleNamespace(world_size=world, global_rank=rank, strategy=strategy)
    data.trainer = trainer
    return data
