"""Load any open_clip model by name and pretrained tag or checkpoint file, frozen and ready to evaluate."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip import pretrained as tags

from lorattt import demo
from lorattt.clip.build import Dtype, build_model, build_tokenizer, model_config
from lorattt.clip.checkpoint import load_file, load_tag
from lorattt.clip.checkpoint_file import activation_of, find_file
from lorattt.clip.model import Clip
from lorattt.clip.preprocess import KEYS, checked, resolve_preprocess
from lorattt.errors import UserError, quoted
from lorattt.views.crops import Interpolation, ResizeMode

_DEMO_TAG = "demo"


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
        """Check that images can be made with the values."""
        for key in KEYS:
            if (value := getattr(self, key)) is not None:
                # The specification is frozen; a list becomes a tuple, so that equal ones compare equal.
                object.__setattr__(self, key, checked(key, value, f"model.clip.{key}"))


class LoadedClip(ClipSpec):
    """A CLIP that is loaded already from ``spec``, in place of a :class:`ClipSpec`: several methods can share it."""

    clip: Clip

    def __init__(self, clip: Clip, spec: ClipSpec) -> None:
        vars(self).update(vars(spec), clip=clip)


def load_clip(spec: ClipSpec) -> Clip:
    """Build the model, load its weights, freeze it and put it in evaluation mode, on the CPU.

    A UserError if a name is unknown, a file is missing, damaged or of another model, the weights' activation (quick
    GELU) is not the model's, or the tokenizer needs a package or file that is not there.
    """
    if isinstance(spec, LoadedClip):
        return spec.clip
    config = model_config(spec.model)
    weights = _find_weights(spec, config)
    tag = weights if isinstance(weights, str) else None
    preprocess = resolve_preprocess(spec.model, weights, {key: getattr(spec, key) for key in KEYS})
    tokenizer = build_tokenizer(spec.model)  # before gigabytes of weights are fetched
    model, fetched = build_model(spec.model, tag, spec.dtype)
    if tag is not None and fetched is not None:
        load_tag(model, fetched, spec.model, tag)
    elif isinstance(weights, Path):
        load_file(model, weights, spec.model)
        quick = activation_of(weights)
        if quick is not None:
            _check_activation(spec.model, config, quick, f"checkpoint {weights}")
    else:
        warnings.warn(f"{spec.model} has random weights: pretrained is null", stacklevel=2)
    clip = Clip(model.requires_grad_(False), tokenizer, spec.model, preprocess).eval()
    if spec.compile:
        clip.vit.compile_passes()
    return clip


def _find_weights(spec: ClipSpec, config: dict[str, Any]) -> str | Path | None:
    """The tag, the file, or None for random weights. They exist, and a tag has the model's activation."""
    name, pretrained = spec.model, spec.pretrained
    if pretrained is None:
        return None
    if name == demo.MODEL_NAME and pretrained == _DEMO_TAG:
        return demo.CHECKPOINT
    if known := tags.get_pretrained_cfg(name.replace("/", "-"), pretrained):
        _check_activation(name, config, bool(known.get("quick_gelu", False)), f"tag {quoted(pretrained)}")
        return pretrained
    path = find_file(pretrained)
    if path is None:
        offered = [_DEMO_TAG] if name == demo.MODEL_NAME else tags.list_pretrained_tags_by_model(name)
        raise UserError(
            f"pretrained {quoted(pretrained)} is neither an existing file nor a tag of {name}; "
            f"its tags are {', '.join(offered) or 'none'}"
        )
    return path


def _check_activation(name: str, config: dict[str, Any], checkpoint_quick: bool, what: str) -> None:
    """open_clip only warns when a checkpoint's activation is not the model's, though accuracy is lost."""
    if checkpoint_quick == bool(config.get("quick_gelu", False)):
        return
    plain = name.removesuffix("-quickgelu")
    right = f"{plain}-quickgelu" if checkpoint_quick else plain
    kind = "quick GELU" if checkpoint_quick else "exact GELU"
    fix = "open_clip has no such variant of this model; use a checkpoint of the other activation"
    if open_clip.get_model_config(right.replace("/", "-")) is not None:
        fix = f"use model {right}"
    raise UserError(f"{what} was trained with {kind}, but model {name} is not: {fix}")
