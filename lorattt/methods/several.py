"""Several methods in one pass: views are made and encoded once, and every method classifies them."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lorattt.clip.load import ClipSpec, LoadedClip
from lorattt.errors import UserError, quoted
from lorattt.methods.base import Method
from lorattt.methods.registry import build_method, find_method, read_options
from lorattt.methods.shared_views import Needs

_OPTIONS = "model.options"
_SHARED = ("clip", "class_names", "templates", "prompt", "views", "seed")


class Several(Method):
    """Several methods on the same views: as many predictions of each image, for about the time of the slowest.

    Each predicts what it would predict alone. The model is loaded once, the class texts and the views are encoded once.

    Args:
        methods: Names of the methods, in the order of the table: ``zero_shot``, ``mean_of_views``, ``mta``,
            ``zero``, ``lora_ttt``, ...
        options: The methods' own arguments by name, such as ``{lora_ttt: {steps: 2}}``; those of methods that are not
            listed are not used.
        clip: Which CLIP to use, for all of them.
        **kwargs: See :class:`Method`; all methods share them, and a method of the plain view reads view 0.

    Attributes:
        members: The methods by name; each has ``metrics`` of its own.
    """

    name: ClassVar[str] = "several"

    def __init__(
        self,
        *,
        methods: list[str],
        # Of dict[str, Any], jsonargparse would read the texts as YAML once more.
        options: dict | None = None,  # type: ignore[type-arg]
        clip: ClipSpec = ClipSpec(),
        **kwargs: Any,
    ) -> None:
        given = members_options(methods, options or {})  # before the checkpoint is read
        if unused := [name for name in options or {} if name not in methods]:
            rank_zero_warn(f"model.options of {', '.join(unused)} are not used: model.methods does not list them")
        super().__init__(clip=clip, **kwargs)
        common = {key: getattr(self, key) for key in _SHARED}
        common["clip"] = LoadedClip(self.clip, clip)
        if self.prompt is None:  # a method that tunes a prompt begins with its own words
            del common["prompt"]
        self.members = nn.ModuleDict(
            {name: build_method(name, values, prefix=f"{_OPTIONS}.{name}.", **common) for name, values in given.items()}
        )

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods by name, in the order of the table."""
        return {name: cast("Method", member) for name, member in self.members.items()}

    @property
    def needs_gradient(self) -> bool:  # type: ignore[override]
        """Whether any of the methods takes gradients at test time."""
        return any(method.needs_gradient for method in self.methods.values())

    @property
    def needs(self) -> Needs:
        """What the methods read of the views together."""
        return Needs.join(method.needs for method in self.methods.values())

    def check_texts(self) -> None:
        """Validate the templates or the prompt of each method."""
        super().check_texts()
        for method in self.methods.values():
            method.class_names, method.template, method._class_texts = self.class_names, self.template, self.texts
            method.check_texts()

    def _encode_classes(self) -> None:
        super()._encode_classes()
        for method in self.methods.values():
            method.class_names, method.template, method._class_texts = self.class_names, self.template, self.texts
            method._encode_classes()


def members_options(methods: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The listed methods' options, in their order, checked without a model; ``options`` may have others' as well."""
    if not methods:
        raise UserError("model.methods is empty: name at least one")
    for name in methods:
        find_method(name, "model.methods")
        if methods.count(name) > 1:
            raise UserError(f"model.methods has {name} more than once: a method has one folder in a run")
    for name in options:
        find_method(name, _OPTIONS)
    given = {name: {} if options.get(name) is None else options[name] for name in methods}
    for name, values in given.items():
        if not isinstance(values, Mapping):
            raise UserError(f"{_OPTIONS}.{name}: must be arguments and their values, not {quoted(values)}")
        if shared := [key for key in values if key in _SHARED]:
            raise UserError(f"{_OPTIONS}.{name}.{shared[0]}: all methods share it: set model.{shared[0]}")
        read_options(name, values, prefix=f"{_OPTIONS}.{name}.")
    return given
