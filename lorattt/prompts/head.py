"""The projection head of Self-TPT: text features to the space in which classes are told apart."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.errors import UserError
from lorattt.rng import Stream, episode_keys, fold

PREFIX = "head."  # what its tensors are called by in a prompt's file


@dataclass(frozen=True)
class HeadSpec:
    """The projection head's shape.

    Args:
        hidden: Width between its two layers; that of the text features where null.
        out: Width of the projections.

    Raises:
        UserError: If a width is below 1.
    """

    hidden: int | None = None
    out: int = 128

    def __post_init__(self) -> None:
        """Refuse layers without a unit."""
        for name, value in {"hidden": self.hidden, "out": self.out}.items():
            if value is not None and value < 1:
                raise UserError(f"head.{name} {value}: must be at least 1")


class ContrastHead(nn.Module):
    """Two layers with a ReLU between them; what comes out has unit length.

    The paper does not describe its head; this is the usual one of contrastive learning (SimCLR, SupCon). It is
    drawn from the seed alone, by torch's rule for linear layers.

    Args:
        width: D, the width of text features.
        hidden: Width between the layers; D where null.
        out: P, the width of projections.
        seed: The run's seed.

    Raises:
        UserError: If a width is below 1.
    """

    def __init__(self, width: int, hidden: int | None = None, out: int = 128, *, seed: int = 0) -> None:
        super().__init__()
        HeadSpec(hidden, out)  # refuses what is no shape
        hidden = width if hidden is None else hidden
        key = fold(episode_keys(seed, torch.tensor(0)), Stream.HEAD_INIT)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key))
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, features: Tensor) -> Tensor:
        """``(*, D)`` features to ``(*, P)`` unit projections, of the wider of the two's types."""
        return F.normalize(self.layers(features), dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """What a prompt's file holds of it."""
        return {PREFIX + name: value.detach().float().cpu().clone() for name, value in self.layers.state_dict().items()}


def head_from_tensors(tensors: Mapping[str, Tensor], width: int, source: str) -> ContrastHead:
    """The head that a prompt's file holds.

    Args:
        tensors: What the file holds beside the context.
        width: D, the width of the model's text features.
        source: What to call the file in messages.

    Raises:
        UserError: If there is no head, or it is of another shape.
    """
    found = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    if not found:
        raise UserError(
            f"{source}: this prompt has no projection head, which the adaptation to class names needs: give a prompt "
            "that SelfTPTTraining learned, or use ZeroShot, which needs the prompt alone"
        )
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    hidden, out = (shapes.get(name, (0,))[0] for name in ("0.weight", "2.weight"))
    expected = {"0.weight": (hidden, width), "0.bias": (hidden,), "2.weight": (out, hidden), "2.bias": (out,)}
    if shapes != expected or not hidden or not out:
        raise UserError(
            f"{source}: its projection head does not fit text features of width {width}: use the model it was made for"
        )
    head = ContrastHead(width, hidden, out)
    head.layers.load_state_dict(found)
    return head
