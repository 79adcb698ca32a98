"""Low precision where open_clip leaves a tower half cast, so that its features come out and not an error."""

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import Attention, AttentionalPooler, LayerScale, TextTransformer
from torch import nn

# Parameters that open_clip computes with as they are. In float32 they would widen what passes through them.
_LEFT_WIDE: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (LayerScale, ("gamma",)),
    (Attention, ("head_scale", "logit_scale")),
    (AttentionalPooler, ("query",)),
    (TextTransformer, ("cls_emb",)),
)


@torch.no_grad()
def finish_cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast what open_clip's own cast leaves out, and undo what it does to the scale of logits.

    open_clip casts matrices and keeps norms in float32, but leaves layer scales, attention pooling, CoCa's class
    token and Hugging Face's text towers in float32, which then meet matrices in low precision. A model with one of
    timm's image towers it casts as a whole, its logit scale too: bf16 makes 98.9 of 100.

    Args:
        model: What open_clip made in that dtype; changed in place.
        dtype: ``torch.bfloat16`` or ``torch.float16``.
    """
    for module in model.modules():
        if isinstance(module, HFTextEncoder):
            module.to(dtype)
        for kind, names in _LEFT_WIDE:
            for name in names if isinstance(module, kind) else ():
                parameter = getattr(module, name, None)
                if parameter is not None:
                    parameter.data = parameter.data.to(dtype)
    for name in ("logit_scale", "logit_bias"):
        parameter = getattr(model, name, None)
        if parameter is not None:
            parameter.data = parameter.data.float()
