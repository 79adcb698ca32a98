"""What other code sets in torch changes nothing within our state, and is as it was afterwards."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch

from conftest import DEMO, ZERO, Cli
from lorattt.methods.zero_shot import ZeroShot
from lorattt.torch_state import full_float32, known_state

CPU = torch.device("cpu")


def _newer(module: Any, name: str) -> Any:
    return getattr(getattr(module, name, None), "fp32_precision", None)


def _read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RuntimeError as error:  # of a state that was set through newer names
        return type(error)


def precisions() -> dict[str, Any]:
    """Everything that decides how float32 is multiplied."""
    backends = torch.backends
    return {
        "cudnn": _read(lambda: backends.cudnn.allow_tf32),
        "cuda": _read(lambda: backends.cuda.matmul.allow_tf32),
        "matmul": _read(torch.get_float32_matmul_precision),
        **{f"cudnn.{name}": _newer(backends.cudnn, name) for name in ("conv", "rnn")},
        **{f"mkldnn.{name}": _newer(backends.mkldnn, name) for name in ("conv", "rnn", "matmul")},
        "cuda.matmul": _newer(backends.cuda, "matmul"),
    }


def _set(target: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(target, name, value)


def _settings() -> dict[str, Callable[[], None]]:
    backends = torch.backends
    found: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        "no TF32": _set(backends.cudnn, "allow_tf32", False),
        "TF32 products": _set(backends.cuda.matmul, "allow_tf32", True),
        "medium": lambda: torch.set_float32_matmul_precision("medium"),
    }
    if _newer(backends.cudnn, "conv") is not None:
        found |= {
            "newer: convolutions": _set(backends.cudnn.conv, "fp32_precision", "ieee"),
            "newer: products": _set(backends.cuda.matmul, "fp32_precision", "tf32"),
            "newer: CPU": _set(backends.mkldnn.matmul, "fp32_precision", "bf16"),
        }
    return found


@pytest.fixture
def fresh() -> Iterator[None]:
    """The flags of a new process, which a test may leave changed."""
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for module, name in ((torch.backends.cuda, "matmul"), (torch.backends.mkldnn, "matmul")):
        if _newer(module, name) is not None:
            getattr(module, name).fp32_precision = "none"


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("setting", _settings())
def test_float32_is_float32_and_flags_come_back(setting: str) -> None:
    _settings()[setting]()
    before = precisions()
    with pytest.raises(ZeroDivisionError), full_float32():
        within = precisions()
        raise ZeroDivisionError
    assert precisions() == before
    assert (within.pop("cudnn"), within.pop("cuda"), within.pop("matmul")) == (False, False, "highest")
    assert set(within.values()) <= {"ieee", None}


@pytest.mark.usefixtures("fresh")
def test_the_command_line_computes_in_float32(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    original = ZeroShot.classify

    def spied(self: ZeroShot, views: Any) -> Any:
        seen.append(precisions())
        return original(self, views)

    monkeypatch.setattr(ZeroShot, "classify", spied)
    torch.set_float32_matmul_precision("medium")
    before = precisions()
    assert cli("test", *ZERO, *DEMO).code == 0
    assert {(each["cudnn"], each["matmul"]) for each in seen} == {(False, "highest")}
    assert precisions() == before


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)
        # PyTorch 2.6 could not tell the default device to later tests.
        vars(torch._GLOBAL_DEVICE_CONTEXT).pop("device_context", None)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "within a device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomaly detection": torch.autograd.detect_anomaly,
}


def state() -> tuple[Any, ...]:
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled())
    made = torch.empty(1)
    return (*modes, torch.is_autocast_enabled("cpu"), made.dtype, made.device.type, torch.get_default_dtype())


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("name", STATES)
def test_a_known_state_in_any_other(name: str) -> None:
    usual = state()
    with STATES[name]():
        before = state()
        assert before != usual
        with pytest.raises(ZeroDivisionError), known_state(CPU):
            assert state() == usual
            weight = torch.nn.Linear(2, 1).weight
            (gradient,) = torch.autograd.grad(weight.square().sum(), weight)
            assert gradient.equal(2 * weight)
            raise ZeroDivisionError
        assert state() == before
    assert state() == usual


def test_random_numbers_go_on_where_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with known_state(CPU):
        torch.nn.Linear(5, 5)
    assert torch.rand(4).equal(expected)
