"""A base class for callbacks of test, validate and predict, and the names of a run's methods."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lorattt.errors import UserError

_Kind = TypeVar("_Kind", bound=Callback)
_Value = TypeVar("_Value")


def find_callback(trainer: Trainer, kind: type[_Kind]) -> _Kind | None:
    """The Trainer's first callback of this class; None where it has none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((each for each in callbacks if isinstance(each, kind)), None)


def on_first_device(trainer: Trainer, do: Callable[[], _Value]) -> _Value:
    """Call ``do`` on the first device, and return its result on all of them.

    A ``UserError`` is raised on all of them too, so that none waits for the one that stopped.
    """
    found: _Value | UserError | None = None
    if trainer.is_global_zero:
        try:
            found = do()
        except UserError as error:
            found = UserError(str(error))
            found.resumable = error.resumable
    found = trainer.strategy.broadcast(found)
    if isinstance(found, UserError):
        raise found
    return found  # type: ignore[return-value]  # that of the first device


class RunObserver(Callback):
    """Maps the hooks of test, validate and predict to four, which a fit's own validation does not call."""

    def on_run_start(self, trainer: Trainer, module: Any) -> None:
        """Before the first batch."""

    def on_batch_start(self, trainer: Trainer) -> None:
        """A batch is on the device and about to be classified."""

    def on_batch_end(self, outputs: Any) -> None:
        """A batch was classified."""

    def on_run_end(self, trainer: Trainer, module: Any) -> None:
        """After the last batch."""

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_run_start(trainer, pl_module)

    def _batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_batch_start(trainer)

    def _batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_batch_end(outputs)

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self.on_run_end(trainer, pl_module)

    on_test_start = on_validation_start = on_predict_start = _start
    on_test_batch_start = on_validation_batch_start = on_predict_batch_start = _batch_start
    on_test_batch_end = on_validation_batch_end = on_predict_batch_end = _batch_end
    on_test_end = on_validation_end = on_predict_end = _end


def methods_of(module: Any) -> dict[str, Any]:
    """The methods of a run by the names of their folders; a method has ``metrics`` of its own."""
    members = getattr(module, "members", None)
    return {method_name(module): module} if members is None else dict(members.items())


def method_name(module: Any) -> str:
    """A method's name for folders and results: its ``name``, else its class's in snake case."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(module).__name__).lower()
    return folder_name(getattr(module, "name", None), words)


def dataset_name(trainer: Trainer) -> str:
    """The name of a Trainer's data for folders and results."""
    data = getattr(trainer, "datamodule", None)
    return folder_name(getattr(data, "name", None), "data" if data is None else type(data).__name__)


def folder_name(name: Any, otherwise: str) -> str:
    """A name as a folder can have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name if isinstance(name, str) else otherwise).strip(".-") or "run"
