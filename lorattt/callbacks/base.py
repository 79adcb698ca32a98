"""One observer for test, validate and predict alike."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


class RunObserver(Callback):
    """Maps the hooks of test, validate and predict to three; validation within fit is left alone."""

    def started(self, trainer: Trainer, module: Any) -> None:
        """The run is about to take its first batch."""

    def took(self, outputs: Any) -> None:
        """A batch was classified."""

    def ended(self, trainer: Trainer, module: Any) -> None:
        """The last batch was classified."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.started(trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Lightning's hook."""
        self.took(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.ended(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.started(trainer, pl_module)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Lightning's hook."""
        self.took(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.ended(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.started(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.took(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.ended(trainer, pl_module)
