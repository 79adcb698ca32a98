"""A progress bar with running accuracy."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class AccuracyBar(TQDMProgressBar):
    """Lightning's bar, with top-1 before and after adaptation so far (of the first device's share)."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = self._before = self._after = 0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        super().on_test_start(trainer, pl_module)
        self._seen = self._before = self._after = 0

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
        label = outputs["label"]
        self._seen += int((label >= 0).sum())
        self._before += int((outputs["before"].argmax(-1) == label).sum())
        self._after += int((outputs["after"].argmax(-1) == label).sum())
        if self._seen and not self.is_disabled:
            share = {"before": self._before / self._seen, "after": self._after / self._seen}
            self.test_progress_bar.set_postfix_str(
                ", ".join(f"top-1 {when} {100 * value:.1f} %" for when, value in share.items()), refresh=False
            )
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
