"""SAPT, the training half of TLLA (Li et al., arXiv 2501.18864, called FGA from its second version on).

Sharpness-aware prompt tuning: CoOp's context p, learned so that the cross-entropy stays low around it as well, in an L2
ball of radius rho over all context vectors together (section 3; plain SAM, Foret et al., ICLR 2021, on the prompt):

    loss      = CE(p) + lambda * (max_{|e| <= rho} CE(p + e) - CE(p))          (eq. 3)
    e*        = rho * g / |g|,  g = gradient of CE at p                        (eq. 4, first order)
    gradient  = (1 - lambda) * g + lambda * (gradient of CE at p + e*)         (e* is held fixed)

lambda is 1 in all of the paper's experiments, where the gradient at p + e* is all that is left.

An image's feature does not depend on the prompt, so a batch is encoded once for both passes. The prompt is put back
from a copy, bit for bit. Weight decay is the optimiser's and no part of g. With rho 0 each step is CoOp's.
"""

from contextlib import nullcontext
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from lorattt.inputs import finite
from lorattt.losses.gradients import ascent_step, sharpness_gradient
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.coop import PromptTraining


class SAPT(PromptTraining):
    """SAPT as a LightningModule, for ``fit``; its prompt is for ``prompt.file`` of any method.

    Args:
        rho: Radius of the ball in which the worst prompt is looked for; 0 for CoOp.
        sharpness: Weight lambda of the loss's increase in that ball; 0 for CoOp.
        local_ascent: Whether each device looks for its own worst prompt, from its own images. Otherwise they all have
            the same, and several devices do what one with all of the images would.
        **kwargs: See :class:`PromptTraining`.
    """

    name: ClassVar[str] = "sapt"

    def __init__(self, *, rho: float = 0.5, sharpness: float = 1.0, local_ascent: bool = False, **kwargs: Any) -> None:
        self.rho, self.sharpness, self.local_ascent = rho, sharpness, local_ascent
        super().__init__(**kwargs)
        # Two passes make one step; Lightning counts the optimiser's.
        self.automatic_optimization = False

    def check_options(self) -> None:
        """Validate the radius and the weight."""
        finite(model__rho=self.rho, model__sharpness=self.sharpness)
        super().check_options()

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """One step of the optimiser; the loss at the prompt, before the step, detached.

        With ``16-mixed``, a gradient that overflows in either pass skips the step, as it does for any method.
        """
        label, strategy = batch["label"], cast(ParallelStrategy, self.trainer.strategy)
        features = self.image_features(batch["views"]) if len(label) else None
        own_gradient = self.local_ascent and isinstance(self.trainer.strategy, ParallelStrategy)
        with strategy.block_backward_sync() if own_gradient else nullcontext():
            loss, gradient = self._differentiate(features, label)
        # With ``16-mixed``, the loss was scaled before its gradient was taken.
        scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        saved = self.context.detach().clone()
        try:
            with torch.no_grad():
                self.context.add_(ascent_step(gradient / scale, self.rho))
            worst, ascended = self._differentiate(features, label)
        finally:
            # Adding and subtracting would not give the same bits, and an exception must not leave p + e behind.
            with torch.no_grad():
                self.context.copy_(saved)
        if own_gradient:
            # All devices must take the same step.
            gradient = strategy.reduce(gradient, reduce_op="mean")
        self.context.grad = sharpness_gradient(gradient, ascended, self.sharpness)
        if features is not None:
            self.log("train/loss", loss, prog_bar=True, batch_size=len(label))
            self.log("train/increase", worst - loss, batch_size=len(label))
        cast(LightningOptimizer, self.optimizers()).step()
        return loss

    def on_train_epoch_end(self) -> None:
        """Step the rate's schedule, which is not Lightning's to do here."""
        cast(LRScheduler, self.lr_schedulers()).step()

    def _differentiate(self, features: Tensor | None, label: Tensor) -> tuple[Tensor, Tensor]:
        """The loss at the context as it is now, detached, and its gradient, times the loss scale where there is one.

        Both are 0 without features, where no image of the batch could be read: no other device must wait for this one.
        """
        self.context.grad = None
        loss = 0 * self.context.sum() if features is None else self.source_loss(features, label)
        # The step runs under the Trainer's autocast. A backward pass there would compute in other types than one
        # that Lightning runs itself.
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)
        gradient = cast(Tensor, self.context.grad)
        self.context.grad = None
        # A copy: the tensor may be a part of the buffer in which devices add up their gradients.
        return loss.detach(), gradient.clone()
