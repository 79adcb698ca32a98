"""Callbacks of prompt training: the prompt's file and the checkpoint."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.callbacks.run_folder import find_run_folder

PROMPT_FILE = "prompt.safetensors"


class PromptWriter(Callback):
    """Writes the learned prompt to ``prompt.safetensors`` when training has ended, on the first device."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, if the module has a prompt, and say where."""
        module: Any = pl_module
        if trainer.is_global_zero and hasattr(module, "save_prompt"):
            path = find_run_folder(trainer) / PROMPT_FILE
            module.save_prompt(path)
            top1 = trainer.callback_metrics.get("val/top1")
            known = "" if top1 is None else f"validation top-1 {float(top1):.2f} %, "
            print(f"\n{known}prompt written to {path}")


class RunCheckpoint(ModelCheckpoint):
    """``checkpoints/last.ckpt`` in the run's folder after each epoch, from which ``ckpt_path`` resumes."""

    def __init__(self) -> None:
        super().__init__(filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder, now that it is known: Lightning calls checkpoints after all other callbacks."""
        if stage == TrainerFn.FITTING:
            self.dirpath = str(find_run_folder(trainer) / "checkpoints")
        super().setup(trainer, pl_module, stage)
