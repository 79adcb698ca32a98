"""A loaded CLIP: pixels to unit image features, class names to unit text features, both to logits."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.clip.preprocess import OPENAI
from lorattt.clip.text import TemplateSet, Tokenizer, class_features, resolve_templates
from lorattt.clip.text_tower import TextTower, find_text_parts
from lorattt.clip.vision import ImageTower, VisionTower, wrap_tower
from lorattt.errors import UserError
from lorattt.views.crops import PlainView


class Clip(nn.Module):
    """A frozen open_clip model with its tokenizer and preprocessing; ``name`` is for messages and results.

    ``preprocess`` is in open_clip's terms; what is left out is OpenAI's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, tokenizer: Tokenizer, name: str, preprocess: Mapping[str, Any]) -> None:
        super().__init__()
        self.model: Any = model  # open_clip publishes no types
        self.tokenizer = tokenizer
        self.name = name
        self.vision: ImageTower = wrap_tower(model.visual, name)
        size = model.visual.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        if height != width:
            raise UserError(f"model {name} takes {height} x {width} images: only square ones are supported")
        self.image_size = int(height)  # side of the images it takes, in pixels
        self.preprocess = OPENAI | dict(preprocess)
        self.plain_view = PlainView(*(self.preprocess[key] for key in ("resize_mode", "interpolation", "fill_color")))
        self.register_buffer("mean", torch.tensor(self.preprocess["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocess["std"]).view(3, 1, 1), persistent=False)

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosines (100 for OpenAI's models), a float32 scalar."""
        return cast("Tensor", self.model.logit_scale.float().exp().squeeze())

    @property
    def vit(self) -> VisionTower:
        """The image tower at the level of tokens; a UserError if it is not a ViT pooled by its class token."""
        if not isinstance(self.vision, VisionTower):
            raise UserError(
                f"model {self.name} has no class-token ViT as its image tower, and this method adapts one: "
                "use a ViT such as ViT-B-16-quickgelu, or a method that needs image features only"
            )
        return self.vision

    @property
    def text_tower(self) -> TextTower:
        """The text tower at the level of tokens; a UserError if it is not causal with CLIP's own tokenizer."""
        if find_text_parts(self.model) is not None and not hasattr(self.tokenizer, "sot_token_id"):
            raise UserError(
                f"model {self.name} has a tokenizer of Hugging Face, and prompts of learned vectors need CLIP's own: "
                "use a CLIP such as ViT-B-16-quickgelu, or a method that leaves texts alone"
            )
        return TextTower(self.model, self.name)

    def normalise(self, pixels: Tensor) -> Tensor:
        """``(*, 3, S, S)`` uint8 images to normalised ones of the tower's dtype."""
        return ((pixels.float() / 255 - self.mean) / self.std).to(self.vision.dtype)

    def image_features(self, pixels: Tensor) -> Tensor:
        """``(N, 3, S, S)`` uint8 images to ``(N, D)`` float32 unit features."""
        return F.normalize(self.vision.features(self.normalise(pixels)).float(), dim=-1)

    def text_features(self, class_names: Sequence[str], templates: TemplateSet | Sequence[str]) -> Tensor:
        """``(K, D)`` float32: one unit feature per class name, of a named set of templates or texts with one ``{}``."""
        return class_features(self.model, self.tokenizer, class_names, resolve_templates(templates))
