"""A progress bar with running accuracy."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.base import answers_of
from lorattt.callbacks.predictions import PredictionsWriter


class AccuracyBar(TQDMProgressBar):
    """Lightning's bar, with top-1 before and after adaptation so far, of the first device's share.

    Of several methods, it is the last one's. Where the run goes on with another that did not end, it begins with what
    that one did.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen = self._before = self._after = self._done = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start counting."""
        super().setup(trainer, pl_module, stage)
        self._seen = self._before = self._after = self._done = 0

    def _begin(self, trainer: Trainer, bar: Any, loader: Any) -> None:
        """Begin a bar that was just reset with the batches of earlier attempts."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        writer = next((each for each in callbacks if isinstance(each, PredictionsWriter)), None)
        if writer is None or not writer.resumed:
            return
        self._seen, self._before, self._after = writer.right
        # To predict, Lightning hides the size within a sampler of its own.
        sampler: Any = getattr(loader, "batch_sampler", None)
        size: Any = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", 1)
        self._done = math.ceil(writer.resumed / (size * trainer.world_size))
        if bar.total is not None:
            bar.total += self._done
        bar.n = bar.initial = self._done
        bar.refresh()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with what is done."""
        super().on_test_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if batch_idx == 0:
            self._begin(trainer, self.test_progress_bar, trainer.test_dataloaders)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with what is done, unless it belongs to a training."""
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if batch_idx == 0 and trainer.state.fn == TrainerFn.VALIDATING:
            self._begin(trainer, self.val_progress_bar, trainer.val_dataloaders)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin with what is done."""
        super().on_predict_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        if batch_idx == 0:
            self._begin(trainer, self.predict_progress_bar, trainer.predict_dataloaders)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx + self._done, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch and show."""
        self._count(self.test_progress_bar, outputs)
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx + self._done, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch and show, unless it belongs to a training."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._count(self.val_progress_bar, outputs)
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx + self._done, dataloader_idx)

    def _count(self, bar: Any, outputs: Any) -> None:
        label = outputs["label"]
        answer = list(answers_of(outputs).values())[-1]
        self._seen += int((label >= 0).sum())
        self._before += int((answer["before"].argmax(-1) == label).sum())
        self._after += int((answer["after"].argmax(-1) == label).sum())
        if self._seen and not self.is_disabled:
            before, after = (100 * hits / self._seen for hits in (self._before, self._after))
            bar.set_postfix_str(f"top-1 {before:.1f} -> {after:.1f} %", refresh=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the line, so that the message does not run into the bar."""
        bars = (self._train_progress_bar, self._val_progress_bar, self._test_progress_bar, self._predict_progress_bar)
        for bar in bars:
            if bar is not None:
                bar.close()
