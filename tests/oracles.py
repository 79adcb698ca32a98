"""Plain calculations that several tests compare with."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_models import tokenizer


def plain_texts(model: Any, names: Sequence[str], context: Tensor) -> Tensor:
    """Texts ``(K, D)`` of "a photo of a NAME." with the context in place of the first four words.

    All 77 tokens go through open_clip's own tower.

    Args:
        model: open_clip's CLIP.
        names: K names.
        context: ``(4, d)``, or ``(K, 4, d)`` for one of each class.
    """
    tokens = tokenizer()([f"a photo of a {name}." for name in names])
    embedded = model.token_embedding(tokens)
    x = torch.cat([embedded[:, :1], context.expand(len(names), -1, -1), embedded[:, 5:]], dim=1)
    x = model.ln_final(model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask))
    return F.normalize(x[torch.arange(len(names)), tokens.argmax(dim=-1)] @ model.text_projection, dim=-1)
