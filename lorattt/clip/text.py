"""Class names to text features: templates filled in, encoded once, on sequences no longer than needed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.text_tower import TextTower, find_text_parts
from lorattt.errors import UserError, quoted

Tokenizer = Callable[[list[str]], Tensor]


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """Text features of token sequences, cut after the last end-of-text token of the batch.

    The text tower of CLIP is causal and pools at the end-of-text token, so what stands behind it is read
    by nothing and the cut is exact. Towers of another make (bidirectional, or pooled elsewhere) get the
    whole sequences.

    Args:
        model: An open_clip model.
        tokens: ``(N, L)`` int64 token ids, zero behind the end-of-text token.

    Returns:
        ``(N, D)`` features, not of unit length; float32 or wider where the cut applies.
    """
    if find_text_parts(model) is None:
        whole: Tensor = model.encode_text(tokens)
        return whole
    tower = TextTower(model, "the model")
    ends = tokens.argmax(dim=-1)
    tokens = tokens[:, : int(ends.max()) + 1]
    return tower.encode(None, tower.embed(tokens).unsqueeze(0), ends=ends).squeeze(0)


def word_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text alone, without start and end, however many: the tokenizer's own call would cut them."""
    found: list[int] = tokenizer.encode(text)
    return found


@torch.no_grad()
def class_features(
    model: Any,
    tokenizer: Tokenizer,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    chunk: int = 256,
) -> Tensor:
    """One unit vector per class: the mean over templates of unit features, normalised again.

    Args:
        model: An open_clip model.
        tokenizer: Text to token ids.
        class_names: K names, in label order; equal names are allowed.
        templates: Texts with one ``{}`` for the class name.
        chunk: Sequences encoded at a time.

    Returns:
        ``(K, D)`` float32 on the model's device.

    Raises:
        UserError: If there is no class or no template, a template has no single ``{}``, or a text is longer than
            the tower's sequences.
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
    _refuse_cut_texts(tokenizer, texts, tokens)
    # Sequences of like length share a chunk, so that each chunk is cut as short as it can be.
    order = tokens.argmax(dim=-1).argsort(stable=True)
    features = torch.cat(
        [F.normalize(encode_text(model, part.to(device)).float(), dim=-1) for part in tokens[order].split(chunk)]
    )
    unit = torch.empty_like(features)
    unit[order.to(device)] = features
    return F.normalize(unit.view(len(class_names), len(templates), -1).mean(dim=1), dim=-1)


def _refuse_cut_texts(tokenizer: Any, texts: Sequence[str], tokens: Tensor) -> None:
    """Refuse a text that the tokenizer has cut: what is lost is the end, and with it perhaps the class name."""
    if not hasattr(tokenizer, "sot_token_id"):  # another make, whose ids cannot be counted like this
        return
    for row in tokens[:, -1].nonzero().flatten().tolist():  # the others have room left
        needed = len(word_ids(tokenizer, texts[row])) + 2
        if needed > tokens.shape[1]:
            raise UserError(
                f"the text {quoted(texts[row])} has {needed} tokens, start and end included, but the model's texts "
                f"have {tokens.shape[1]}: use a shorter class name or template"
            )
