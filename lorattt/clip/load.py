"""Load any open_clip model by name and pretrained tag or checkpoint file, frozen and ready to evaluate."""

import difflib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip import pretrained as tags
from torch import nn

from lorattt import demo
from lorattt.clip.checkpoint import load_file, load_tag
from lorattt.clip.checkpoint_file import activation_of, find_file
from lorattt.clip.model import Clip
from lorattt.clip.precision import finish_cast
from lorattt.clip.preprocess import KEYS, checked, resolve_preprocess
from lorattt.clip.tokenizer import truncated_tokenizer
from lorattt.errors import UserError, first_line, quoted
from lorattt.views.plain import Interpolation, ResizeMode

Dtype = Literal["fp32", "bf16", "fp16"]
DEMO_TAG = "demo"
_LOW: dict[Dtype, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ClipSpec:
    """Which CLIP to use.

    Args:
        model: open_clip's model name, such as ``ViT-B-16-quickgelu``; ``lorattt-demo`` for the embedded one.
        pretrained: A pretrained tag of that model, such as ``openai``, or a checkpoint file (safetensors,
            PyTorch's ``.pt`` in most wrappings, OpenAI's original archive). Null leaves the weights random.
        dtype: Dtype of the frozen towers. Adapters, losses and predictions are float32 in any case.
        compile: Compile the frozen pass of all views through a ViT, and the blocks that LoRA adapts, which takes a few
            minutes when they are first used: for long runs.
        mean: Mean of red, green and blue that is taken from an image, on a scale of 0 to 1. Null is the model's own,
            for this key and the next three.
        std: What it is then divided by.
        resize_mode: How the plain view is made: ``shortest`` side resized and the centre cut out, ``longest`` side
            resized and a border added, or the whole image in a ``squash``.
        interpolation: How the plain view is resized. Random crops are bilinear, as in the papers.

    Raises:
        UserError: If no image can be made with such a mean, deviation, resize mode or interpolation.
    """

    model: str = "ViT-B-16-quickgelu"
    pretrained: str | None = "openai"
    dtype: Dtype = "fp32"
    compile: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize_mode: ResizeMode | None = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        """Reject values that no image can be made with."""
        for key in KEYS:
            if (value := getattr(self, key)) is not None:
                # The specification is frozen; a list becomes a tuple, so that equal ones compare equal.
                object.__setattr__(self, key, checked(key, value, f"model.clip.{key}"))


class LoadedClip(ClipSpec):
    """A CLIP that is loaded already, where a :class:`ClipSpec` is asked for: several methods can share it.

    Args:
        clip: What :func:`load_clip` shall give.
        spec: What it was loaded from.
    """

    clip: Clip

    def __init__(self, clip: Clip, spec: ClipSpec) -> None:
        super().__init__(**{field.name: getattr(spec, field.name) for field in fields(ClipSpec)})
        object.__setattr__(self, "clip", clip)  # the specification is frozen


def load_clip(spec: ClipSpec) -> Clip:
    """Build the model, load its weights, freeze it and put it in evaluation mode, on the CPU.

    A :class:`LoadedClip` gives its own as it is.

    Raises:
        UserError: If the model or the tag is unknown, the file is missing, damaged or of another model, its
            activation (quick GELU) is not the model's, its tokenizer needs what is not there, or the file
            ``open_clip_config.json`` beside the weights is of no use.
    """
    if isinstance(spec, LoadedClip):
        return spec.clip
    config = _model_config(spec.model)
    weights = _find_weights(spec, config)
    preprocess = resolve_preprocess(spec.model, weights, {key: getattr(spec, key) for key in KEYS})
    if spec.model == demo.MODEL_NAME:
        model = _build_demo(config, spec.dtype)
        tokenizer = truncated_tokenizer(demo.MERGES, model.context_length)
    else:
        tokenizer = _tokenizer(spec.model)  # before gigabytes of weights are fetched
        model = _build(spec.model, weights if isinstance(weights, str) else None, spec.dtype)
    if isinstance(weights, Path):
        load_file(model, weights, spec.model)
        quick = activation_of(weights)
        if quick is not None:
            _check_activation(spec.model, config, quick, f"checkpoint {weights}")
    if weights is None:
        warnings.warn(f"{spec.model} has random weights: pretrained is null", stacklevel=2)
    clip = Clip(model.requires_grad_(False), tokenizer, spec.model, preprocess).eval()
    if spec.compile:
        clip.vit.compile_passes()
    return clip


def _model_config(name: str) -> dict[str, Any]:
    if name == demo.MODEL_NAME:
        return dict(demo.MODEL_CONFIG)
    if ":" in name:  # open_clip would ask a hub for it
        raise UserError(
            f"model {quoted(name)}: give open_clip's name of the architecture, and the weights as a file in pretrained"
        )
    config: dict[str, Any] | None = open_clip.get_model_config(name.replace("/", "-"))
    if config is None:
        near = difflib.get_close_matches(name, [*open_clip.list_models(), demo.MODEL_NAME], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see open_clip.list_models()"
        raise UserError(f"unknown model {quoted(name)}: {hint}")
    return config


def _find_weights(spec: ClipSpec, config: dict[str, Any]) -> str | Path | None:
    """The tag, the file, or None for random weights, once they are known to exist; a tag also fits in activation."""
    if spec.pretrained is None:
        return None
    if spec.model == demo.MODEL_NAME and spec.pretrained == DEMO_TAG:
        return demo.CHECKPOINT
    known = tags.get_pretrained_cfg(spec.model.replace("/", "-"), spec.pretrained)
    if known:
        _check_activation(spec.model, config, bool(known.get("quick_gelu", False)), f"tag {quoted(spec.pretrained)}")
        return spec.pretrained
    path = find_file(spec.pretrained)
    if path is None:
        offered = [DEMO_TAG] if spec.model == demo.MODEL_NAME else tags.list_pretrained_tags_by_model(spec.model)
        raise UserError(
            f"pretrained {quoted(spec.pretrained)} is neither an existing file nor a tag of {spec.model}; "
            f"its tags are {', '.join(offered) or 'none'}"
        )
    return path


def _check_activation(name: str, config: dict[str, Any], checkpoint_quick: bool, what: str) -> None:
    """open_clip only warns when a checkpoint's activation is not the model's; the accuracy is lost all the same."""
    if checkpoint_quick == bool(config.get("quick_gelu", False)):
        return
    plain = name.removesuffix("-quickgelu")
    right = f"{plain}-quickgelu" if checkpoint_quick else plain
    kind = "quick GELU" if checkpoint_quick else "exact GELU"
    fix = (
        f"use model {right}"
        if open_clip.get_model_config(right.replace("/", "-")) is not None
        else "open_clip has no such variant of this model; use a checkpoint of the other activation"
    )
    raise UserError(f"{what} was trained with {kind}, but model {name} is not: {fix}")


def _tokenizer(name: str) -> Any:
    try:
        with _quiet():
            return open_clip.get_tokenizer(name)
    except ImportError as error:
        package = error.name or "transformers"
        raise UserError(f"the tokenizer of {name} needs {package}: pip install {package}") from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"the tokenizer of {name} cannot be loaded ({first_line(error)}): open_clip fetches it when the model is "
            "first used, whatever the weights: run once where there is a network"
        ) from error


def _build(name: str, tag: str | None, dtype: Dtype) -> nn.Module:
    """The model with the weights of its tag, or with random ones: never with base weights of a part of it."""
    path: Path | None = None
    try:
        with _quiet():
            # Weights are loaded afterwards, into a model that is cast.
            model: nn.Module = open_clip.create_model(
                name, pretrained=tag, precision=dtype, load_weights=False, pretrained_text=False
            )
            if tag is not None:
                path = Path(open_clip.download_pretrained(tags.get_pretrained_cfg(name.replace("/", "-"), tag)))
    except (RuntimeError, OSError) as error:
        if tag is None:
            raise UserError(f"cannot make {name}: {first_line(error)}") from error
        raise UserError(
            f"cannot fetch the weights {quoted(tag)} of {name}: check the connection, or name a file in "
            f"model.clip.pretrained ({first_line(error)})"
        ) from error
    except (AttributeError, TypeError) as error:  # open_clip's cast knows no projection with a bias
        if dtype == "fp32":
            raise
        raise UserError(
            f"open_clip cannot make {name} in {dtype}: set model.clip.dtype to fp32 ({first_line(error)})"
        ) from error
    low = _LOW[dtype]
    if low is not None:
        finish_cast(model, low)
    if path is not None and tag is not None:
        load_tag(model, path, name, tag)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries log on their way; their errors are raised as well as logged."""
    # open_clip logs a warning for every model without a tag, the hub's client each of its attempts to reach it.
    level, hub = logging.root.level, logging.getLogger("huggingface_hub")
    hub_level = hub.level
    logging.root.setLevel(max(level, logging.CRITICAL))
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
        hub.setLevel(hub_level)


def _build_demo(config: dict[str, Any], dtype: Dtype) -> open_clip.CLIP:
    low = _LOW[dtype]
    model = open_clip.CLIP(**config, cast_dtype=low)
    if low is not None:
        open_clip.convert_weights_to_lp(model, dtype=low)
    return model
