"""Class names to text features: templates filled in, encoded once, on sequences no longer than needed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from open_clip.tokenizer import get_clean_fn
from torch import Tensor

from lorattt.clip.text_tower import TextTower, find_text_parts
from lorattt.errors import UserError, quoted
from lorattt.inputs import nearest

Tokenizer = Callable[[list[str]], Tensor]
TemplateSet = Literal["single", "openai-7", "openai-80"]
SINGLE = "a photo of a {}."
_CHUNK = 256  # sequences encoded at a time


def resolve_templates(templates: TemplateSet | Sequence[str]) -> list[str]:
    """A named set, one text or several, as a list of texts with one ``{}`` each."""
    if not isinstance(templates, str):
        return list(templates)
    if templates not in get_args(TemplateSet):
        return [templates]
    if templates == "single":
        return [SINGLE]
    functions = SIMPLE_IMAGENET_TEMPLATES if templates == "openai-7" else OPENAI_IMAGENET_TEMPLATES
    return [function("{}") for function in functions]  # open_clip has functions of the class name


def check_templates(templates: str | Sequence[str]) -> None:
    """Require that a single text is a template or the name of a set; a UserError for a misspelled name."""
    known = [*get_args(TemplateSet), "dataset"]
    if isinstance(templates, str) and templates not in known and templates.count("{}") != 1:
        near = nearest(templates, known)
        hint = f"did you mean {near}? " if near else ""
        raise UserError(
            f"model.templates {quoted(templates)}: {hint}use {', '.join(known)}, or texts that contain {{}} exactly "
            "once, for the class name"
        )


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """``(N, D)`` features, not of unit length, of ``(N, L)`` int64 token ids, zero behind the end-of-text token.

    Sequences are cut after the last end-of-text token of the batch. CLIP's text tower is causal and pools at that
    token: nothing reads the tokens behind it, so the cut is exact. Features are then float32 or wider. Other towers
    (bidirectional, or pooled elsewhere) get the whole sequences.
    """
    if find_text_parts(model) is None:
        return cast("Tensor", model.encode_text(tokens))
    tower = TextTower(model, "the model")
    ends = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(ends.max()) + 1]
    return tower.encode((), tower.embed(tokens).unsqueeze(0), ends=ends).squeeze(0)


def word_ids(tokenizer: Any, text: str) -> list[int]:
    """All token ids of a text, without start and end; the tokenizer's own call would cut them."""
    return cast("list[int]", tokenizer.encode(text))


@torch.no_grad()
def class_features(model: Any, tokenizer: Tokenizer, class_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """``(K, D)`` float32 unit vectors, one per class: the mean over templates of unit features, normalised again.

    They are in the order of the K names, of which some may be equal, on the model's device. Templates are texts with
    one ``{}`` for the class name.
    """
    if not class_names:
        raise UserError("the class list is empty: give at least one class name")
    if not templates:
        raise UserError("the list of templates is empty: give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template {quoted(template)}: it must contain {{}} exactly once, for the class name")
    device = next(model.parameters()).device
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    tokens = tokenizer(texts)
    for text, needed in _lengths(tokenizer, texts, tokens):
        if needed > tokens.shape[1]:  # the tokenizer has cut its end, and with it perhaps the class name
            raise UserError(
                f"the text {quoted(text)} has {needed} tokens, start and end included, but the model's texts "
                f"have {tokens.shape[1]}: use a shorter class name or template"
            )
    # Sequences of like length share a chunk, so that each chunk is cut as short as it can be.
    order = tokens.argmax(dim=-1).argsort(stable=True)
    features = torch.cat(
        [F.normalize(encode_text(model, part.to(device)).float(), dim=-1) for part in tokens[order].split(_CHUNK)]
    )
    if not features.isfinite().all():
        raise UserError(
            "the texts have features that are not finite: with model.clip.dtype fp16 try bf16 or fp32, else check the "
            "weights"
        )
    unit = torch.empty_like(features)
    unit[order.to(device)] = features
    return F.normalize(unit.view(len(class_names), len(templates), -1).mean(dim=1), dim=-1)


def _lengths(tokenizer: Any, texts: Sequence[str], tokens: Tensor) -> Iterator[tuple[str, int]]:
    """Texts that may not fit, with the number of tokens that each needs."""
    if hasattr(tokenizer, "sot_token_id"):  # CLIP's own
        for row in tokens[:, -1].nonzero().flatten().tolist():  # the others have room left
            yield texts[row], len(word_ids(tokenizer, texts[row])) + 2
    elif hasattr(tokenizer, "tokenizer"):  # open_clip's wrappers of Hugging Face's, which cut without a word
        clean = getattr(tokenizer, "clean_fn", None) or get_clean_fn("canonicalize")
        # In the mode "clips" start, end and a class token are added afterwards.
        added = 3 if getattr(tokenizer, "tokenizer_mode", None) == "clips" else 0
        cleaned = [clean(text) for text in texts]
        ids = tokenizer.tokenizer(cleaned, add_special_tokens=not added, padding=False, truncation=False)["input_ids"]
        yield from zip(texts, (len(each) + added for each in ids), strict=True)
