"""A base class for callbacks of test, validate and predict, and access to one method or several alike."""

from collections.abc import Callable, Mapping
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

    Raises:
        UserError: On all devices if ``do`` raises it, so that none waits for the one that stopped.
    """
    value, problem = None, ""
    if trainer.is_global_zero:
        try:
            value = do()
        except UserError as error:
            problem = str(error)
    value, problem = trainer.strategy.broadcast((value, problem))
    if problem:
        raise UserError(problem)
    return value  # type: ignore[return-value]  # there is one where there is no problem


class RunObserver(Callback):
    """Maps the hooks of test, validate and predict to four; a fit's own validation is left alone."""

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


def answers_of(outputs: Any) -> Mapping[str, Any]:
    """The answers in a step's output by method; a single method has the empty name."""
    found: Mapping[str, Any] = outputs.get("methods") or {"": outputs}
    return found


def members_of(module: Any) -> dict[str, Any]:
    """The methods of a run under the names of :func:`answers_of`; each has ``metrics``."""
    members = getattr(module, "members", None)
    return {"": module} if members is None else dict(members.items())
