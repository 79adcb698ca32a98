"""Mistakes about processes, tasks and devices are one line each: what the installed libraries really raise is read."""

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import device_parser
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from conftest import DEMO, ZERO, Cli
from lorattt.cli.errors import check_environment, check_processes, device_mistake, explain
from lorattt.errors import UserError

ONE = {"SLURM_JOB_NAME": "job", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}
ONE |= {"SLURM_NODELIST": "localhost", "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_STEP_ID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}
TORCHRUN |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ONE, *TORCHRUN, "WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


def launched(**settings: Any) -> None:
    """Make a Trainer, and let it start its processes, of which there is nothing to be seen here."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, **settings)
    assert trainer.strategy.launcher is not None
    trainer.strategy.launcher.launch(lambda: None)


@pytest.mark.parametrize(
    ("environment", "settings", "expected"),
    [
        (
            {**ONE, "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "8"},
            {"devices": 4, "strategy": "ddp"},
            "trainer.devices 4: SLURM starts 8 tasks on a node (--ntasks-per-node); the two must be equal",
        ),
        (
            {**ONE, "SLURM_NTASKS": "6", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "3"},
            {"devices": 2, "num_nodes": 2, "strategy": "ddp"},
            "trainer.num_nodes 2: SLURM gave 3 nodes (--nodes); the two must be equal",
        ),
        (
            {**ONE, "SLURM_NTASKS": "4"},
            {"devices": 4, "strategy": "ddp"},
            "SLURM's --ntasks=4 does not say how many tasks a node has: give --nodes and --ntasks-per-node instead",
        ),
        (
            {key: value for key, value in ONE.items() if key != "SLURM_PROCID"},
            {"devices": 2, "strategy": "ddp"},
            "SLURM's variable SLURM_PROCID is not set, while SLURM_NTASKS is: start the command with srun, or unset "
            "SLURM_NTASKS",
        ),
        (
            {**TORCHRUN, "WORLD_SIZE": "4"},
            {"devices": 2, "strategy": "ddp"},
            "trainer.devices 2 on trainer.num_nodes 1: torchrun started 4 processes in all; give its --nproc-per-node "
            "as trainer.devices and its --nnodes as trainer.num_nodes",
        ),
        ({}, {"devices": 0}, "trainer.devices 0: at least one is needed"),
        ({}, {"devices": -3}, "trainer.devices: with trainer.accelerator cpu, a number from 1 on"),
        ({}, {"num_nodes": 0}, "trainer.num_nodes 0: must be at least 1"),
        (
            {},
            {"strategy": "dpp"},
            "trainer.strategy dpp: no such strategy; auto is for one device, ddp for several",
        ),
    ],
)
def test_what_lightning_raises(
    environment: dict[str, str], settings: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of whatever class: they are many
        launched(**settings)
    assert not isinstance(caught.value, UserError)
    assert explain(caught.value) == expected


def test_an_accelerator_that_is_none() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Trainer(accelerator="quantum")
    assert re.fullmatch(r"trainer.accelerator quantum: no such accelerator; known are auto, .*cpu.*", said(caught))


def said(caught: Any) -> str:
    return str(explain(caught.value))


@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_a_gpu_where_there_is_none(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("mps.MPSAccelerator", "cuda.CUDAAccelerator"):  # as on a machine without one
        monkeypatch.setattr(f"lightning.pytorch.accelerators.{kind}.is_available", lambda: False)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        Trainer(accelerator=accelerator, devices=1)
    assert said(caught).startswith(f"trainer.accelerator {accelerator}: no GPU is found: use cpu, or see what ")


def test_another_accelerator_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.accelerators.mps.MPSAccelerator.is_available", lambda: False)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        Trainer(accelerator="mps", devices=1)
    assert re.fullmatch(r"trainer.accelerator \w+: this machine has none; it has .*'cpu'.*", said(caught))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (3, "trainer.devices: GPUs 0, 1, 2 were asked for, and this machine has 0"),
        ([0, 4], "trainer.devices: GPUs 0, 4 were asked for, and this machine has 0"),
        ([0, 0], "trainer.devices names a GPU twice"),
    ],
)
def test_more_gpus_than_there_are(asked: Any, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_parser, "_get_all_available_gpus", lambda **_: [0])
    with pytest.raises(Exception) as caught:  # noqa: PT011
        device_parser._parse_gpu_ids(asked, include_cuda=True)
    assert said(caught) == expected


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RuntimeError) as caught:
            torch.distributed.TCPStore("127.0.0.1", taken.getsockname()[1], 2, is_master=True)
    assert "MASTER_PORT=29511" in said(caught)


def test_processes_that_do_not_come() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RuntimeError) as caught:
        from datetime import timedelta

        torch.distributed.TCPStore("127.0.0.1", port, 2, is_master=True, timeout=timedelta(seconds=1))
    assert said(caught).startswith("only 1 of the run's 2 processes came together: ")


# What needs a GPU to be raised, word for word as PyTorch and NCCL have it.
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors", "the GPU is in use by"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "the GPU is in use by"),
        ("CUDA error: no kernel image is available for execution on the device", "this PyTorch was not built for"),
        ("CUDA error: invalid device ordinal\nGPU device may be out of range", "trainer.devices names a GPU that"),
        ("The NVIDIA driver on your system is too old (found version 11040).", "the GPU's driver is too old"),
        (
            "NCCL error in: ../ProcessGroupNCCL.cpp:1275, unhandled system error\nLast error:\nError while creating "
            "shared memory segment /dev/shm/nccl-ahuX1Z (size 9637888), error: No space left on device (28)",
            "NCCL found no shared memory: make room in /dev/shm (in a container: --shm-size=1g or --ipc=host)",
        ),
    ],
)
def test_what_is_raised_on_a_gpu(raised: str, expected: str) -> None:
    assert str(explain(RuntimeError(raised))).startswith(expected)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        KeyError("label"),
        ValueError("devices"),
        RuntimeError("size mismatch"),
    ],
)
def test_defects_are_no_mistakes_about_devices(error: Exception) -> None:
    assert device_mistake(error) is None
    assert explain(error) is None


# What would hang, or be done many times over, and what Lightning would read numbers out of


def trainer_of(count: int) -> Trainer:
    strategy = DDPStrategy() if count > 1 else "auto"
    return Trainer(accelerator="cpu", devices=count, strategy=strategy, logger=False, enable_progress_bar=False)


@pytest.mark.parametrize(
    ("environment", "devices", "message"),
    [
        ({**ONE, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, 2, None),
        (
            {**{k: v for k, v in ONE.items() if "STEP" not in k}, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"},
            2,
            "the run has 2 devices, and within a SLURM job srun starts their processes: put srun before the command",
        ),
        ({k: v for k, v in ONE.items() if "STEP" not in k}, 1, None),  # one device needs no srun
        (
            {**TORCHRUN, "WORLD_SIZE": "3"},
            1,
            "torchrun started 3 processes, and each would do the whole run: give its --nproc-per-node as "
            "trainer.devices, with trainer.strategy ddp",
        ),
        ({**TORCHRUN, "WORLD_SIZE": "1"}, 1, None),
        ({}, 2, None),
    ],
)
def test_processes_that_nobody_starts_or_that_are_too_many(
    environment: dict[str, str], devices: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check: Callable[[], None] = lambda: check_processes(trainer_of(devices))  # noqa: E731
    if message is None:
        check()
    else:
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            check()


@pytest.mark.parametrize("name", ["MASTER_PORT", "SLURM_NTASKS", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["two", "", "8(x2)" + "x" * 5000])
def test_a_number_that_is_none(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^the environment's {name} is .{{0,50}}: it must be a number") as caught:
        check_environment()
    assert len(str(caught.value)) < 200


def test_the_command_line_says_it_in_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ONE, "SLURM_NTASKS": "3", "SLURM_NTASKS_PER_NODE": "3"}.items():
        monkeypatch.setenv(name, value)
    run = cli("test", *ZERO, *DEMO, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert run.code == 2
    assert run.err.splitlines()[-1] == (
        "lorattt: error: trainer.devices 2: SLURM starts 3 tasks on a node (--ntasks-per-node); the two must be equal"
    )
    assert "Traceback" not in run.err
