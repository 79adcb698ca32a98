"""Mistakes about processes, tasks and devices as one line in the words of the command line.

Lightning and its environments raise all kinds of exceptions, and only their texts tell them apart:
``device_mistakes.yaml`` has these, and ``tests/test_device_mistakes.py`` compares them with the installed versions.
"""

import os
import re
from pathlib import Path

import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from lorattt.errors import UserError, one_line, quoted

_MISTAKES = Path(__file__).with_name("device_mistakes.yaml")
_INTEGERS = (
    *("MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)


def device_mistake(error: BaseException) -> str | None:
    """The line for an exception that stands for a mistake about processes, tasks or devices; None for others."""
    if isinstance(error, KeyError) and str(error.args[0] if error.args else "").startswith("SLURM_"):
        return (
            f"SLURM's variable {error.args[0]} is not set, while SLURM_NTASKS is: start the command with srun, or "
            "unset SLURM_NTASKS"
        )
    text = one_line(error)
    for each in yaml.safe_load(_MISTAKES.read_text(encoding="utf-8")):
        if found := re.search(each["said"], text):
            return str(each["line"]).format(*found.groups())
    return None


def check_environment() -> None:
    """Require that what schedulers and launchers set as numbers are numbers, before Lightning reads them."""
    for name in _INTEGERS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"\s*\d+\s*", value):
            raise UserError(
                f"the environment's {name} is {quoted(value, 40)}: it must be a number; set it right, or unset it"
            )


def check_processes(trainer: Trainer) -> None:
    """Reject a Trainer that would wait for processes that nobody starts, or do the whole run in each of them."""
    if TorchElasticEnvironment.detect():
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1 and trainer.world_size == 1:
            raise UserError(
                f"torchrun started {started} processes, and each would do the whole run: give its --nproc-per-node as "
                "trainer.devices, with trainer.strategy ddp"
            )
        return
    in_step = "SLURM_STEP_ID" in os.environ or "SLURM_STEPID" in os.environ
    if trainer.world_size > 1 and SLURMEnvironment.detect() and not in_step:
        raise UserError(
            f"the run has {trainer.world_size} devices, and within a SLURM job srun starts their processes: put srun "
            "before the command"
        )
