"""Trainings in process, as the tests of methods that learn a prompt run them."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.views.render import TrainingCrop

DEMO = ClipSpec("lorattt-demo", "demo")
OPTIONS: dict[str, Any] = {
    "clip": LoadedClip(load_clip(DEMO), DEMO),
    "crop": TrainingCrop(scale=(0.5, 1.0)),
    "warmup_epochs": 0,
    "seed": 4,
}
"""Of any method that learns a prompt; the demo's model is loaded once."""

_TWO = """
import os, sys
sys.path[:0] = {paths!r}
import torch, torch.multiprocessing
torch.set_num_threads(1)
{prepare}

def fit(rank):
    os.environ["LOCAL_RANK"] = str(rank)
    fit_all(rank)

if __name__ == "__main__":  # forked, so that torch is imported once
    torch.multiprocessing.start_processes(fit, nprocs=2, start_method="fork")
"""


def trainer(**options: Any) -> Trainer:
    """One epoch on a CPU, without files or words; options override that."""
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **options,
        }
    )


def fit_context(method: Any, data: Any, **options: Any) -> Tensor:
    """Fit, and give the context that was learned."""
    trainer(**options).fit(method, data)
    context: Tensor = method.context.detach()
    return context


class _Stops(Callback):
    """After the second of three epochs."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 1


def interrupted(method: Any, data: Any, folder: Path) -> Path:
    """Fit, but stop after two of three epochs; the checkpoint to go on from."""
    saver = ModelCheckpoint(dirpath=folder, filename="last", save_on_train_epoch_end=True)
    trainer(max_epochs=3, enable_checkpointing=True, callbacks=[saver, _Stops()]).fit(method, data)
    return folder / "last.ckpt"


def in_two_processes(prepare: str, folder: Path) -> None:
    """Run a function in two processes that find each other, as those of ``ddp`` do.

    Args:
        prepare: Python that defines ``fit_all(rank)``; the tests' modules can be imported.
        folder: An empty folder.
    """
    tests = Path(__file__).parent
    script = folder / "two.py"
    script.write_text(_TWO.format(paths=[str(tests), str(tests.parent)], prepare=prepare), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **group},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
