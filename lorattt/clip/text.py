"""Class names to text features: templates filled in, encoded once, on sequences no longer than needed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP
from open_clip.transformer import ResidualAttentionBlock, text_global_pool
from torch import Tensor, nn

from lorattt.clip.attention import layer_norm, run_block
from lorattt.errors import UserError

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
        ``(N, D)`` features, not of unit length.
    """
    if not _causal_with_end_pooling(model):
        whole: Tensor = model.encode_text(tokens)
        return whole
    tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]
    length = tokens.shape[1]
    dtype = model.transformer.get_cast_dtype()
    x = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    mask = model.attn_mask[:length, :length].to(dtype)
    for block in model.transformer.resblocks:
        x = run_block(block, x, mask=mask)
    pooled: Tensor = text_global_pool(layer_norm(x, model.ln_final), tokens, model.text_pool_type)
    projection = model.text_projection
    if projection is None:
        return pooled
    return torch.as_tensor(projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection)


def _causal_with_end_pooling(model: Any) -> bool:
    return (
        isinstance(model, CLIP)
        and model.attn_mask is not None
        and model.text_pool_type == "argmax"
        and all(type(block) is ResidualAttentionBlock for block in model.transformer.resblocks)
    )


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
        UserError: If there is no class or no template, or a template has no single ``{}``.
    """
    if not class_names:
        raise UserError("the class list is empty: give at least one class name")
    if not templates:
        raise UserError("the list of templates is empty: give at least one, such as 'a photo of a {}.'")
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template {template!r}: it must contain {{}} exactly once, for the class name")
    device = next(model.parameters()).device
    tokens = tokenizer([template.format(name) for name in class_names for template in templates])
    # Sequences of like length share a chunk, so that each chunk is cut as short as it can be.
    order = tokens.argmax(dim=-1).argsort(stable=True)
    features = torch.cat(
        [F.normalize(encode_text(model, part.to(device)).float(), dim=-1) for part in tokens[order].split(chunk)]
    )
    unit = torch.empty_like(features)
    unit[order.to(device)] = features
    return F.normalize(unit.view(len(class_names), len(templates), -1).mean(dim=1), dim=-1)
