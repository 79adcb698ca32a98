"""What a prompt is: context vectors, and where the class name stands among them."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Position = Literal["end", "middle", "front"]
POSITIONS: tuple[Position, ...] = ("end", "middle", "front")


@dataclass(frozen=True, eq=False)
class Prompt:
    """A context that any list of classes can be joined with.

    Args:
        context: ``(M, d)`` float32 vectors in the place of words; ``(K, M, d)`` if every class has its own.
        position: Where the class name stands: behind the context, in its middle, or before it.
        words: The words the context began as; None if it began otherwise.
        model: Name of the model whose text tower it was made for.
        class_names: K names where every class has its own context, in the order of the first axis.
    """

    context: Tensor
    position: Position
    words: str | None
    model: str
    class_names: tuple[str, ...] | None = None

    @property
    def class_specific(self) -> bool:
        """Whether every class has a context of its own."""
        return self.context.dim() == 3

    @property
    def tokens(self) -> int:
        """M, the number of context vectors."""
        return int(self.context.shape[-2])
