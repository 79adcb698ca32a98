"""A model's preprocessing of images: from keys, the tag, a file beside the weights, or other tags of the model.

Weights do not say how their training images were made, so assumptions are reported in a warning.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args

import open_clip
from open_clip import pretrained as tags

from lorattt import demo
from lorattt.clip.checkpoint_file import CONFIG_FILE, config_beside
from lorattt.errors import UserError, quoted
from lorattt.views.crops import Interpolation, ResizeMode

KEYS: Final = ("mean", "std", "resize_mode", "interpolation")
"""Keys of ``model.clip`` that override the model's own preprocessing."""

OPENAI: Final[dict[str, Any]] = {
    "mean": open_clip.OPENAI_DATASET_MEAN,  # of the channels, on a scale of 0 to 1
    "std": open_clip.OPENAI_DATASET_STD,
    "resize_mode": "shortest",
    "interpolation": "bicubic",
    "fill_color": 0,
}
"""OpenAI's preprocessing in open_clip's terms, its default."""


def resolve_preprocess(name: str, weights: str | Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing of a model with those weights (tag, file, or random), with a warning of what has to be assumed.

    In this order: what is ``given`` for :data:`KEYS`, None for the model's own; that of the tag, or in
    ``open_clip_config.json`` beside the file; what all tags of the model have in common; OpenAI's.
    """
    name = name.replace("/", "-")  # as open_clip's tables have it
    known = {key: value for key, value in given.items() if value is not None}
    if isinstance(weights, str):
        return OPENAI | _of_tag(name, weights) | known
    if weights is not None:
        known = _beside(weights, name, skip=known) | known
    known = _in_common(name) | known
    if unknown := [key for key in KEYS if key not in known]:
        shown = {key: list(value) if isinstance(value, tuple) else value for key, value in OPENAI.items()}
        values = ", ".join(f"{key} {shown[key]}" for key in unknown)
        keys = ", ".join(f"model.clip.{key}" for key in unknown)
        tagged = bool(tags.list_pretrained_tags_by_model(name))
        reason = f"open_clip's weights of {name} differ in it" if tagged else f"open_clip has no weights of {name}"
        beside = "" if weights is None else f", or put the model's {CONFIG_FILE} beside {weights.name}"
        warnings.warn(
            f"preprocessing of images: assumed OpenAI's {values}, as {reason}; to change it, set {keys}{beside}",
            stacklevel=3,
        )
    return OPENAI | known


def checked(key: str, value: Any, where: str) -> Any:
    """A value of one of :data:`KEYS`, lists as tuples; a UserError that calls it ``where`` if it is invalid."""
    if key in ("mean", "std"):
        numbers = value if isinstance(value, list | tuple) else ()
        # A mean of 0 and a deviation of 1 leave pixels as they are; so small a deviation would overflow half precision.
        least = 0 if key == "mean" else 0.001
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
    stated = _as_evaluated(tags.get_pretrained_cfg(name, tag))
    return {key: stated[key] for key in KEYS if key in stated}


def _in_common(name: str) -> dict[str, Any]:
    """What all pretrained tags of a model agree on; nothing if it has none."""
    if name == demo.MODEL_NAME:
        return dict(OPENAI)
    known = [OPENAI | _of_tag(name, tag) for tag in tags.list_pretrained_tags_by_model(name)]
    return {key: known[0][key] for key in KEYS if known and all(other[key] == known[0][key] for other in known)}


def _beside(weights: Path, name: str, skip: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing in the configuration file beside the weights, if any, but for the keys to skip."""
    path, config = weights.parent / CONFIG_FILE, config_beside(weights)
    _check_model(config.get("model_cfg", {}), name, path)
    where = f"{path}: preprocess_cfg"
    stated = _as_evaluated(config.get("preprocess_cfg", {}))
    keys: list[str] = [key for key in KEYS if key in stated and key not in skip]
    found = {key: checked(key, stated[key], f"{where}.{key}") for key in keys}
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

    def look_up(config: Any, keys: list[str]) -> Any:
        for key in keys:
            config = config.get(key) if isinstance(config, dict) else None
        return config

    for key in ("embed_dim", "vision_cfg.layers", "vision_cfg.width", "vision_cfg.patch_size"):
        one, other = look_up(stated, key.split(".")), look_up(own, key.split("."))
        if None not in (one, other) and one != other:
            raise UserError(
                f"{path}: it is of another model: {key} is {_short(one)}, that of {name} is {other}; "
                "name the model of the file, or remove it if it does not belong to the weights"
            )


def _as_evaluated(stated: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip's settings as it reads them when it evaluates."""
    found = {key: value for key, value in stated.items() if value is not None}
    for key in ("mean", "std"):
        if _is_number(found.get(key)):  # one number for all channels
            found[key] = (found[key],) * 3
        elif isinstance(found.get(key), list):
            found[key] = tuple(found[key])
    if found.get("interpolation") == "random":  # in training; bicubic when it evaluates
        found["interpolation"] = "bicubic"
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return quoted(list(value) if isinstance(value, tuple) else value, 80)
