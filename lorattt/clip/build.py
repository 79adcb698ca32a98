"""Models and tokenizers by open_clip's names; weights are loaded later."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip import pretrained as tags
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import Attention, AttentionalPooler, LayerScale, TextTransformer
from torch import nn

from lorattt import demo
from lorattt.errors import UserError, first_line, quoted
from lorattt.inputs import did_you_mean

Dtype = Literal["fp32", "bf16", "fp16"]
_LOW: dict[Dtype, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Parameters that open_clip computes with as they are. In float32 they would widen what passes through them.
_LEFT_WIDE: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (LayerScale, ("gamma",)),
    (Attention, ("head_scale", "logit_scale")),
    (AttentionalPooler, ("query",)),
    (TextTransformer, ("cls_emb",)),
)
_BYTES = 512  # tokens of CLIP's tokenizer: every byte, within a word and at its end
_SPECIAL = ("<start_of_text>", "<end_of_text>")


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model; a UserError if it has none of that name."""
    if name == demo.MODEL_NAME:
        return dict(demo.MODEL_CONFIG)
    if ":" in name:  # open_clip would ask a hub for it
        raise UserError(
            f"model {quoted(name)}: give open_clip's name of the architecture, and the weights as a file in pretrained"
        )
    config: dict[str, Any] | None = open_clip.get_model_config(name.replace("/", "-"))
    if config is None:
        known = [*open_clip.list_models(), demo.MODEL_NAME]
        raise UserError(
            f"unknown model {quoted(name)}: {did_you_mean(name, known, 'see open_clip.list_models()', 0.5)}"
        )
    return config


def build_model(name: str, tag: str | None, dtype: Dtype) -> tuple[nn.Module, Path | None]:
    """A model in that dtype with random weights, and the file of its tag, which open_clip fetches."""
    low = _LOW[dtype]
    if name == demo.MODEL_NAME:
        model: nn.Module = open_clip.CLIP(**demo.MODEL_CONFIG, cast_dtype=low)
        if low is not None:
            open_clip.convert_weights_to_lp(model, dtype=low)
        return model, None
    try:
        with _quiet():
            # Weights are loaded afterwards, into a model that is cast: neither the tag's, nor those of one tower.
            model = open_clip.create_model(
                name, pretrained=tag, precision=dtype, load_weights=False, pretrained_text=False
            )
            config = tag and tags.get_pretrained_cfg(name.replace("/", "-"), tag)
            file = Path(open_clip.download_pretrained(config)) if config else None
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
    if low is not None:
        _finish_cast(model, low)
    return model, file


@torch.no_grad()
def _finish_cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast what open_clip's own cast leaves out, and undo what it does to the scale of logits.

    open_clip casts matrices and keeps norms in float32, but leaves layer scales, attention pooling, CoCa's class
    token and Hugging Face's text towers in float32, which then meet matrices in low precision. A model with one of
    timm's image towers it casts as a whole, its logit scale too: bf16 makes 98.9 of 100.
    """
    casts = [(model, name, torch.float32) for name in ("logit_scale", "logit_bias")]
    for module in model.modules():
        if isinstance(module, HFTextEncoder):
            module.to(dtype)
        casts += [(module, name, dtype) for kind, names in _LEFT_WIDE if isinstance(module, kind) for name in names]
    for module, name, wanted in casts:
        parameter = getattr(module, name, None)
        if parameter is not None:
            parameter.data = parameter.data.to(wanted)


def build_architecture(config: Mapping[str, Any]) -> nn.Module:
    """The model of one of open_clip's configurations, as its factory makes it, with random weights."""
    settings = deepcopy(dict(config))
    settings["vision_cfg"]["timm_model_pretrained"] = False
    kind = open_clip.CLIP
    if settings.pop("custom_text", False):
        kind = open_clip.CoCa if "multimodal_cfg" in settings else open_clip.CustomTextCLIP
    model: nn.Module = kind(**settings)
    return model


def build_tokenizer(name: str) -> Any:
    """The tokenizer of a model; a UserError if it needs a package or a file that is not there."""
    if name == demo.MODEL_NAME:
        return truncated_tokenizer(demo.MERGES, model_config(name)["text_cfg"]["context_length"])
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


def truncated_tokenizer(merges: int, context_length: int) -> SimpleTokenizer:
    """CLIP's own byte-pair tokenizer with only the first ``merges`` of its table, which cuts longer texts.

    Merges are ordered by frequency, so common words stay whole and rare ones fall into more pieces, down to single
    bytes: any text can be encoded. Ids are those of the full tokenizer, except that the start and end of text move down
    to ``512 + merges`` and ``512 + merges + 1``; the end stays the largest id, by which CLIP's text tower finds it.
    """
    tokenizer = SimpleTokenizer(context_length=context_length)
    kept = _BYTES + merges
    tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < merges}
    tokenizer.encoder = {token: number for token, number in tokenizer.encoder.items() if number < kept}
    tokenizer.encoder |= {token: kept + offset for offset, token in enumerate(_SPECIAL)}
    tokenizer.decoder = {number: token for token, number in tokenizer.encoder.items()}
    tokenizer.vocab_size = len(tokenizer.encoder)
    tokenizer.sot_token_id, tokenizer.eot_token_id = kept, kept + 1
    tokenizer.all_special_ids = [kept, kept + 1]
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute what libraries log meanwhile; their errors are raised as well as logged."""
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
