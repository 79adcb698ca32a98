"""One observer for test, validate and predict alike, and how one and several methods are told apart."""

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
    """Maps the hooks of test, validate and predict to three; validation within fit is left alone."""

    def started(self, trainer: Trainer, module: Any) -> None:
        """The run is about to take its first batch."""

    def begins(self, trainer: Trainer) -> None:
        """A batch is on the device and about to be classified."""

    def took(self, outputs: Any) -> None:
        """A batch was classified."""

    def ended(self, trainer: Trainer, module: Any) -> None:
        """The last batch was classified."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.started(trainer, pl_module)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Lightning's hook."""
        self.begins(trainer)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Lightning's hook."""
        self.took(outputs)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.ended(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.started(trainer, pl_module)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Lightning's hook."""
        self.begins(trainer)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Lightning's hook."""
        self.took(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        self.ended(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.started(trainer, pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.begins(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.took(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's hook."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.ended(trainer, pl_module)


def answers_of(outputs: Any) -> Mapping[str, Any]:
    """What a step's output says of each method: by name if there are several, else under the empty name."""
    found: Mapping[str, Any] = outputs.get("methods") or {"": outputs}
    return found


def members_of(module: Any) -> dict[str, Any]:
    """The methods of a run under the names of :func:`answers_of`; each has ``metrics``."""
    members = getattr(module, "members", None)
    return {"": module} if members is None else dict(members.items())
