"""Base class of methods with a state that goes from image to image: caches and prototypes, in the order of a run."""

from typing import Any, TypeAlias

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lorattt.episodes.engine import fall_back
from lorattt.errors import UserError
from lorattt.methods.base import Method
from lorattt.methods.shared_views import SharedViews

State: TypeAlias = dict[str, Tensor]


class StreamMethod(Method):
    """A method whose prediction for an image depends on the images before it.

    The images come one by one in the order of their numbers, so batch size and parts of a batch change nothing. A new
    run, and each call of :meth:`use_classes`, begins with :meth:`init_state`. The state is in ``state_dict``: after
    ``load_state_dict``, the next run continues with the images behind the last one of the state.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.state: State = {}  # after the last image
        self.last = -1  # the number of that image; -1 for none
        self._next: tuple[State, int] | None = None
        self._restored = False

    def init_state(self) -> State:
        """The state before the first image, on the model's device; the class texts are known."""
        raise NotImplementedError

    def step(self, state: State, views: SharedViews) -> tuple[State, Tensor]:
        """Classify one image, E is 1: the new state and ``(1, K)`` logits.

        Change no tensor of the state in place: a part of a batch may be classified twice. Where the logits are not
        finite, the image falls back to its zero-shot logits, and the state stays as it was.
        """
        raise NotImplementedError

    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` of the plain view with the class texts and of the method, and fallbacks ``(E,)``."""
        state, last, found = self.state, self.last, []
        for place, number in enumerate(views.index.tolist()):
            if number <= last:
                raise UserError(
                    f"{type(self).__name__} needs the images in the order of their numbers, and {number} follows "
                    f"{last}: give them in order, each once"
                )
            moved, logits = self.step(state, views.image(place))
            if logits.isfinite().all():
                state = {name: value.detach() for name, value in moved.items()}
            last = number
            found.append(logits.detach())
        self._next = state, last
        return fall_back(self.clip.logit_scale * views.plain_features @ self.text.T, torch.cat(found))

    def advance(self) -> None:
        """Keep the state after the part of a batch that was classified last."""
        if self._next is not None:
            (self.state, self.last), self._next = self._next, None

    def check_run(self, trainer: Trainer) -> None:
        """Require one device, and the state after the images that an earlier attempt classified."""
        kind = type(self).__name__
        if trainer.world_size > 1:
            raise UserError(f"{kind} has a state that goes from image to image: use one device, trainer.devices 1")
        resumed = any(getattr(each, "resumed", 0) for each in trainer.callbacks)  # type: ignore[attr-defined]
        if resumed and not self._restored:
            raise UserError(
                f"run.folder holds images of an earlier attempt, and the state of {kind} after them is gone: name "
                "another run.folder, or remove this one"
            )

    def _encode_classes(self) -> None:
        """Encode the class names; begin anew, unless a state was loaded."""
        super()._encode_classes()
        if not self._restored:
            self.state, self.last = self.init_state(), -1
        self.state = {name: value.to(self.device) for name, value in self.state.items()}
        self._next, self._restored = None, False

    def get_extra_state(self) -> dict[str, Any]:
        """The state, for ``state_dict``."""
        return {"state": self.state, "last": self.last}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from the state of a ``state_dict``."""
        self.state = {name: value.to(self.device) for name, value in state["state"].items()}
        self.last, self._restored = state["last"], True
