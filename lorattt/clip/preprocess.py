"""How a model wants its images, and where that is known from: keys, the tag, a file beside the weights, other tags.

Weights do not say how the images were made that they were trained on. So what is not known is assumed aloud.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypedDict, cast, get_args

import open_clip
from open_clip import pretrained as tags

from lorattt import demo
from lorattt.clip.checkpoint_file import CONFIG_FILE, config_beside
from lorattt.errors import UserError, one_line, shortened
from lorattt.views.plain import Interpolation, ResizeMode

KEYS: Final = ("mean", "std", "resize_mode", "interpolation")
"""Keys of ``model.clip`` that override the model's own preprocessing."""

_WIDTH: Final = 80  # characters of a value that a message quotes


class Preprocess(TypedDict):
    """Preprocessing in open_clip's terms; ``mean`` and ``std`` of the channels on a scale of 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: ResizeMode
    interpolation: Interpolation
    fill_color: int


OPENAI: Final = Preprocess(
    mean=open_clip.OPENAI_DATASET_MEAN,
    std=open_clip.OPENAI_DATASET_STD,
    resize_mode="shortest",
    interpolation="bicubic",
    fill_color=0,
)
"""OpenAI's, which open_clip takes where it knows nothing else."""


def resolve_preprocess(name: str, weights: str | Path | None, given: Mapping[str, Any]) -> Preprocess:
    """The preprocessing of a model with those weights; what has to be assumed is said in a warning.

    In this order: what is given; what belongs to the tag, or stands in ``open_clip_config.json`` beside the file; what
    all tags of the model have in common; OpenAI's.

    Args:
        name: The model's name.
        weights: The tag, the file, or None for random weights.
        given: Values of :data:`KEYS` that the user wants; None for the model's own.

    Raises:
        UserError: If the file beside the weights has values that no image can be made with.
    """
    name = name.replace("/", "-")  # as open_clip's tables have it
    known: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if isinstance(weights, str):
        known = _of_tag(name, weights) | known
    else:
        if weights is not None:
            known = _beside(weights, name, skip=known) | known
        known = _in_common(name) | known
        if unknown := [key for key in KEYS if key not in known]:
            warnings.warn(_assumption(name, weights, unknown), stacklevel=3)
    return completed(known)


def completed(known: Mapping[str, Any]) -> Preprocess:
    """What is known, and OpenAI's values for the rest."""
    return cast("Preprocess", {**OPENAI, **known})


def checked(key: str, value: Any, where: str) -> Any:
    """A value of one of the keys, lists as tuples.

    Args:
        key: The key's name.
        value: Its value.
        where: What to call it in messages.

    Raises:
        UserError: If no image can be made with it.
    """
    if key in ("mean", "std"):
        numbers = value if isinstance(value, list | tuple) else ()
        # A mean of 0 and a deviation of 1 leave pixels as they are; so small a deviation would overflow half precision.
        least = 0 if key == "mean" else 0.001
        # NaN is within no bounds.
        if len(numbers) != 3 or not all(_is_number(x) and least <= x <= 1 for x in numbers):
            raise UserError(
                f"{where} {_short(value)}: must be three numbers from {least} to 1, for red, green and blue; "
                "where they are for pixels from 0 to 255, divide by 255"
            )
        return tuple(float(x) for x in numbers)
    choices = get_args(ResizeMode if key == "resize_mode" else Interpolation)
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{where} {_short(value)}: must be one of {', '.join(choices)}")
    return value


def _of_tag(name: str, tag: str) -> dict[str, Any]:
    stated = _readable(tags.get_pretrained_cfg(name, tag))
    return {key: stated[key] for key in KEYS if key in stated}


def _in_common(name: str) -> dict[str, Any]:
    """What all pretrained tags of a model agree on; nothing if it has none."""
    if name == demo.MODEL_NAME:
        return dict(OPENAI)
    known: list[Mapping[str, Any]] = [completed(_of_tag(name, tag)) for tag in tags.list_pretrained_tags_by_model(name)]
    return {key: known[0][key] for key in KEYS if known and all(other[key] == known[0][key] for other in known)}


def _beside(weights: Path, name: str, skip: Mapping[str, Any]) -> dict[str, Any]:
    """What the configuration file beside the weights says, but for the keys to skip; nothing if there is none."""
    path, config = weights.parent / CONFIG_FILE, config_beside(weights)
    _check_model(config.get("model_cfg", {}), name, path)
    where = f"{path}: preprocess_cfg"
    stated = _readable(config.get("preprocess_cfg", {}))
    found: dict[str, Any] = {
        key: checked(key, stated[key], f"{where}.{key}") for key in KEYS if key in stated and key not in skip
    }
    if (mode := stated.get("mode", "RGB")) != "RGB":
        raise UserError(f"{where}.mode {_short(mode)}: only RGB is supported")
    if (fill := stated.get("fill_color")) is not None:
        if not isinstance(fill, int) or isinstance(fill, bool) or not 0 <= fill <= 255:
            raise UserError(f"{where}.fill_color {_short(fill)}: must be a whole number from 0 to 255")
        found["fill_color"] = fill
    return found


def _check_model(stated: Mapping[str, Any], name: str, path: Path) -> None:
    """Reject the configuration of another model, which may lie beside weights that were renamed."""
    own = demo.MODEL_CONFIG if name == demo.MODEL_NAME else open_clip.get_model_config(name)
    for keys in (("embed_dim",), ("vision_cfg", "layers"), ("vision_cfg", "width"), ("vision_cfg", "patch_size")):
        one, other = _look_up(stated, keys), _look_up(own, keys)
        if None not in (one, other) and one != other:
            raise UserError(
                f"{path}: it is of another model: {'.'.join(keys)} is {_short(one)}, that of {name} is {other}; "
                "name the model of the file, or remove it if it does not belong to the weights"
            )


def _look_up(config: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _readable(stated: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's settings as it reads them itself when it evaluates."""
    found = {key: value for key, value in stated.items() if value is not None}
    for key in ("mean", "std"):
        if _is_number(found.get(key)):  # one number for all channels
            found[key] = (found[key],) * 3
        elif isinstance(found.get(key), list):
            found[key] = tuple(found[key])
    if found.get("interpolation") == "random":  # in training; bicubic when it evaluates
        found["interpolation"] = "bicubic"
    return found


def _assumption(name: str, weights: Path | None, unknown: list[str]) -> str:
    values = ", ".join(f"{key} {_plain(OPENAI[key])}" for key in unknown)  # type: ignore[literal-required]
    keys = ", ".join(f"model.clip.{key}" for key in unknown)
    tagged = bool(tags.list_pretrained_tags_by_model(name))
    reason = f"open_clip's weights of {name} differ in it" if tagged else f"open_clip has no weights of {name}"
    beside = "" if weights is None else f", or put the model's {CONFIG_FILE} beside {weights.name}"
    return f"preprocessing of images: assumed OpenAI's {values}, as {reason}; to change it, set {keys}{beside}"


def _plain(value: Any) -> str:
    return str(list(value) if isinstance(value, tuple) else value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return shortened(one_line(repr(value) if isinstance(value, str) else _plain(value)), _WIDTH)
