"""Mistakes about processes, tasks and devices as one line in the words of the command line.

Lightning and its environments raise them as whatever exception was at hand, with a text for programmers. Only the
text tells them apart, so it is read here; ``tests/test_device_mistakes.py`` compares it with that of the installed
versions.
"""

import os
import re

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer

from lorattt.errors import UserError, one_line, quoted

_INTEGERS = (
    *("MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
_NO_CUDA = "no GPU is found: use cpu, or see what python -c 'import torch; print(torch.cuda.is_available())' says"
# Pattern -> the line, with its groups.
_LINES: tuple[tuple[str, str], ...] = (
    (
        r"You set `devices=(\d+)` in Lightning, but the number of tasks per node .* `--ntasks-per-node=(\d+)`",
        "trainer.devices {0}: SLURM starts {1} tasks on a node (--ntasks-per-node); the two must be equal",
    ),
    (
        r"You set `num_nodes=(\d+)` in Lightning, but the number of nodes .* `--nodes=(\d+)`",
        "trainer.num_nodes {0}: SLURM gave {1} nodes (--nodes); the two must be equal",
    ),
    (
        r"You set `--ntasks=(\d+)` in your SLURM bash script",
        "SLURM's --ntasks={0} does not say how many tasks a node has: give --nodes and --ntasks-per-node instead",
    ),
    (
        r"You set `devices=(\d+)` and `num_nodes=(\d+)` .* world size \((\d+)\)",
        "trainer.devices {0} on trainer.num_nodes {1}: torchrun started {2} processes in all; give its "
        "--nproc-per-node as trainer.devices and its --nnodes as trainer.num_nodes",
    ),
    (
        r"You requested gpu: \[(.*)\] But your machine only has: \[(.*)\]",
        "trainer.devices: GPUs {0} were asked for, and this machine has {1}",
    ),
    (r"Device ID's \(GPU\) must be unique", "trainer.devices names a GPU twice"),
    (r"No supported gpu backend found|GPUs requested but none are available", f"trainer.accelerator gpu: {_NO_CUDA}"),
    (r"`CUDAAccelerator` can not run on your system", f"trainer.accelerator cuda: {_NO_CUDA}"),
    (
        r"`(\w+)Accelerator` can not run on your system .* argument of `Trainer`: \[(.*)\]",
        "trainer.accelerator {0}: this machine has none; it has {1}",
    ),
    (
        r"`devices` selected with `CPUAccelerator` should be an int > 0",
        "trainer.devices: with trainer.accelerator cpu, a number from 1 on",
    ),
    (r"`Trainer\(devices=(.*)\)` value is not a valid input", "trainer.devices {0}: at least one is needed"),
    (r"`num_nodes` must be a positive integer, but got (\S+?)\.?$", "trainer.num_nodes {0}: must be at least 1"),
    (
        r"selected an invalid strategy name: `strategy='(.*?)'`",
        "trainer.strategy {0}: no such strategy; auto is for one device, ddp for several",
    ),
    (
        r"selected an invalid accelerator name: `accelerator='(.*?)'`. Available names are: (.*?)\.",
        "trainer.accelerator {0}: no such accelerator; known are {1}",
    ),
    (
        r"`Trainer\(strategy=(.*?)\)` is not compatible with an interactive",
        "trainer.strategy {0}: not for an interactive session: start lorattt from a shell",
    ),
    (
        r"EADDRINUSE|[Aa]ddress already in use",
        "the port at which the processes of a run meet is taken, perhaps by another run: give a free one in the "
        "environment, such as MASTER_PORT=29511",
    ),
    (
        r"(\d+)/(\d+) clients joined",
        "only {0} of the run's {1} processes came together: look whether the others were started and have ended early",
    ),
    (
        r"attempted to launch new distributed processes with `local_rank > 0`",
        "LOCAL_RANK is set in the environment, as for a process that something else has started: unset it",
    ),
    (
        r"NCCL.*(?:shared memory|shm|No space left)",
        "NCCL found no shared memory: make room in /dev/shm (in a container: --shm-size=1g or --ipc=host), or set "
        "NCCL_SHM_DISABLE=1",
    ),
    (
        r"CUDA error: all CUDA-capable devices are busy or unavailable|CUDA-capable device\(s\) is/are busy",
        "the GPU is in use by another program that keeps it for itself: choose another in CUDA_VISIBLE_DEVICES",
    ),
    (
        r"CUDA error: no kernel image is available",
        "this PyTorch was not built for this GPU: install a build for it (https://pytorch.org/get-started)",
    ),
    (
        r"CUDA error: invalid device ordinal",
        "trainer.devices names a GPU that is not there: look at CUDA_VISIBLE_DEVICES",
    ),
    (
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        "the GPU's driver is too old for this PyTorch: renew it, or install an older build of PyTorch",
    ),
)
_PATTERNS = tuple((re.compile(pattern), line) for pattern, line in _LINES)


def device_mistake(error: BaseException) -> str | None:
    """The line for an exception that stands for a mistake about processes, tasks or devices; None for others."""
    if isinstance(error, KeyError) and str(error.args[0] if error.args else "").startswith("SLURM_"):
        return (
            f"SLURM's variable {error.args[0]} is not set, while SLURM_NTASKS is: start the command with srun, or "
            "unset SLURM_NTASKS"
        )
    text = one_line(error)
    for pattern, line in _PATTERNS:
        if found := pattern.search(text):
            return line.format(*found.groups())
    return None


def check_environment() -> None:
    """Look at what schedulers and launchers set, before Lightning reads numbers out of it.

    Raises:
        UserError: If something that must be a number is none.
    """
    for name in _INTEGERS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"\s*\d+\s*", value):
            raise UserError(
                f"the environment's {name} is {quoted(value, 40)}: it must be a number; set it right, or unset it"
            )


def check_processes(trainer: Trainer) -> None:
    """Compare the processes that were started with those that the Trainer means to have.

    Raises:
        UserError: If it would wait for processes that nobody starts, or each process would do the whole run.
    """
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
