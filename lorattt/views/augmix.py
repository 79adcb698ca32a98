"""AugMix (Hendrycks et al., ICLR 2020) as TPT uses it on views: nine operations, three chains.

The operations are those of AugMix in PIL, whole degrees and pixels included. Each chain applies one to three of them to
the view; the chains are averaged with Dirichlet(1, 1, 1) weights, and the average is mixed with the view itself by a
Beta(1, 1) weight. TPT mixes normalised floats; a normalisation is affine and the weights sum to one, so mixing before
it is the same up to the final rounding to 8 bits.
"""

from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from lorattt.rng import Stream, uniform
from lorattt.views.crops import ViewSpec, view_keys

_CHAINS, _LONGEST = 3, 3
OPERATIONS = (
    *("autocontrast", "equalize", "posterize", "rotate", "solarize"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)


@dataclass(frozen=True)
class AugMixParams:
    """The chains of one view."""

    operations: Tensor  # (3, 3) int64 numbers of OPERATIONS; -1 past a chain's end
    levels: Tensor  # (3, 3) float64 strengths in [0, 1)
    signs: Tensor  # (3, 3) bool, true where a geometric operation goes the other way
    weights: Tensor  # (3,) float64 chain weights, summing to 1
    keep: float  # weight of the unchanged view, in [0, 1)


def sample_augmix(spec: ViewSpec, *, seed: int, index: int) -> list[AugMixParams]:
    """Draw the chains of views 1 to V - 1 of one sample."""
    cells = _CHAINS * _LONGEST
    draws = uniform(view_keys(seed, index, spec.number, Stream.AUGMIX), (3 * cells + 2 * _CHAINS + 1,), torch.float64)
    numbers, levels, signs = (part.unflatten(-1, (_CHAINS, _LONGEST)) for part in draws[:, : 3 * cells].split(cells, 1))
    lengths, exponentials = draws[:, 3 * cells : -1].split(_CHAINS, 1)
    beyond = torch.arange(_LONGEST) >= 1 + (lengths * _LONGEST).long().unsqueeze(-1)
    operations = (numbers * len(OPERATIONS)).long().masked_fill(beyond, -1)
    weights = -torch.log1p(-exponentials)  # Exponential(1); normalised, Dirichlet(1, 1, 1)
    weights = weights / weights.sum(-1, keepdim=True)
    views = zip(operations, levels, signs < 0.5, weights, draws[:, -1].tolist(), strict=True)
    return [AugMixParams(*view) for view in views]


def augmix(view: Image.Image, params: AugMixParams, severity: int) -> Tensor:
    """Apply chains of severity 1 to 10 to an RGB view: ``(3, H, W)`` uint8."""
    mixed: Tensor = torch.zeros(3, view.height, view.width, dtype=torch.float64)
    for chain in range(_CHAINS):
        image = view
        for step in range(_LONGEST):
            number = int(params.operations[chain, step])
            if number >= 0:
                level = float(params.levels[chain, step])
                image = _apply(image, OPERATIONS[number], level, bool(params.signs[chain, step]), severity)
        mixed += params.weights[chain] * F.pil_to_tensor(image)
    mixed = params.keep * F.pil_to_tensor(view) + (1 - params.keep) * mixed
    return torch.as_tensor(mixed.round().clamp(0, 255), dtype=torch.uint8)


def _apply(image: Image.Image, operation: str, level: float, negative: bool, severity: int) -> Image.Image:
    """One operation, as AugMix defines it: its level is U(0.1, severity) on a scale of 10, its sign random."""
    strength = (0.1 + level * (severity - 0.1)) / 10
    sign = -1 if negative else 1
    shear, width, height = sign * strength * 0.3, *image.size
    match operation:
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "posterize":
            return ImageOps.posterize(image, 4 - int(strength * 4))
        case "solarize":
            return ImageOps.solarize(image, 256 - int(strength * 256))
        case "rotate":
            return image.rotate(sign * int(strength * 30), resample=Image.Resampling.BILINEAR)
    matrices = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, sign * int(strength * width / 3), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * int(strength * height / 3)),
    }
    # Pixel (x, y) of the result is (a x + b y + c, d x + e y + f) of the image.
    return image.transform(image.size, Image.Transform.AFFINE, matrices[operation], resample=Image.Resampling.BILINEAR)
