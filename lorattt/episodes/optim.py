"""Element-wise optimisers: E stacked episodes are E separate optimisers.

The step of an entry depends on its own gradients alone. That holds for SGD and AdamW, but not for anything with a norm
or a matrix over the tensor (clipping by global norm, LARS, LBFGS, Muon, Adafactor).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lorattt.errors import UserError
from lorattt.inputs import finite


@dataclass(frozen=True)
class OptimiserSpec:
    """The optimiser of one episode.

    Args:
        name: Which one.
        lr: Learning rate.
        weight_decay: Decoupled for AdamW, added to the gradient for SGD.
        betas: AdamW's decay rates.
        eps: AdamW's term in the denominator.
        momentum: SGD's.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0

    def __post_init__(self) -> None:
        """Validate the ranges."""
        finite(optimiser__lr=self.lr, optimiser__weight_decay=self.weight_decay)
        finite(optimiser__eps=self.eps, optimiser__momentum=self.momentum)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimiser.betas {list(self.betas)}: both must be at least 0 and below 1")

    def build(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """A fresh optimiser over the stacked tensors."""
        match self.name:
            case "adamw":
                return torch.optim.AdamW(
                    parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
                )
            case "sgd":
                return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
