"""The reference loop of each method, as its authors' program works: one image at a time, views made by Pillow.

Loader processes make the views of an image with Pillow and normalise them; the main process takes one image after
another: all its views through the whole tower, the method's rule for this one image, everything again for the next.
LoRA-TTT is :mod:`benchmarks.reference`; TPT encodes all class texts, of as many tokens as the tower has, at every
step. In half precision the model has float32 weights under autocast, as in those programs. The rules share no code
with the product; what is computed once per list of classes is given to both.
"""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.reference import ReferenceLoop, ReferenceSettings, half_precision
from benchmarks.throughput_setup import LORA_MEM, Settings
from lorattt.adapters.lora import LoRASpec, LoRATuner
from lorattt.clip.model import Clip
from lorattt.data.source import ImageSource
from lorattt.methods.base import Method
from lorattt.views.render import Views

Rule: TypeAlias = Callable[[Tensor], Tensor]
"""Normalised views ``(V, 3, S, S)`` of one image to its logits ``(K,)``, or anything with their arg-max."""
WORDS = "a photo of a"


class RivalViews(Dataset[tuple[Tensor, int]]):
    """The views of an image as normalised floats, made by Pillow in a loader process."""

    def __init__(self, source: ImageSource, make: Views, mean: Tensor, std: Tensor) -> None:
        self._source, self._make, self._mean, self._std = source, make, mean.cpu(), std.cpu()

    def __len__(self) -> int:
        """Number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """``(V, 3, S, S)`` float32, and the image's number."""
        views = self._make(self._source.read(index), index)
        return (views.float() / 255 - self._mean) / self._std, index


def measure(rule: Rule, method: Method, source: ImageSource, settings: Settings) -> dict[str, Any]:
    """Images a second of the loop, from the first image on; of eight or more, a quarter comes before the clock."""
    clip, device = method.clip, settings.device
    dataset = RivalViews(source, method.make_views(), clip.mean, clip.std)
    loader = DataLoader(dataset, batch_size=1, num_workers=settings.reference_workers, pin_memory=device.type == "cuda")
    before = len(dataset) // 4 if len(dataset) >= 8 else 0
    low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[settings.dtype]
    predicted: dict[int, int] = {}
    started = 0.0
    for place, (views, index) in enumerate(loader):
        if place == before:
            started = time.perf_counter()
        with half_precision(device, low):
            logits = rule(views[0].to(device, non_blocking=True))
        predicted[int(index)] = int(logits.argmax())  # waits for the device, as those programs do
    return {
        "images": len(dataset) - before,
        "images_per_second": (len(dataset) - before) / (time.perf_counter() - started),
        "predictions": predicted,
    }


def rule_of(row: str, clip: Clip, method: Method, names: list[str]) -> Rule:
    """The rule of a row.

    Args:
        row: One of :data:`benchmarks.throughput_setup.METHODS`.
        clip: The loop's own model.
        method: Ours, whose class texts the loop takes over.
        names: K class names.
    """
    views = method.views.number
    text, scale, kept = method.text.float(), clip.logit_scale, max(1, int(views * 0.1))

    def features(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return F.normalize(clip.model.encode_image(pixels).float(), dim=-1)

    def zero_shot(pixels: Tensor) -> Tensor:
        return scale * features(pixels[:1])[0] @ text.T

    def self_tpt(pixels: Tensor) -> Tensor:
        return scale * features(pixels[:1])[0] @ torch.as_tensor(method.adapted).float().T

    def mean_of_views(pixels: Tensor) -> Tensor:
        p = (scale * features(pixels) @ text.T).softmax(-1)
        return p[_entropy(p).argsort()[:kept]].mean(0)

    def tlla(pixels: Tensor) -> Tensor:
        encoded = features(pixels)
        p = (scale * encoded @ text.T).softmax(-1)
        around = [
            _entropy((scale * encoded @ bank.T).softmax(-1)) for bank in torch.as_tensor(method.neighbour_text_features)
        ]
        return p[torch.stack(around).amax(0).argsort()[: min(6, views)]].mean(0)

    def zero(pixels: Tensor) -> Tensor:
        p = (scale * features(pixels) @ text.T).softmax(-1)
        return _vote(p, _entropy(p).argsort(), int(views * 0.3))

    def mta(pixels: Tensor) -> Tensor:
        return _mode(features(pixels), text, scale) @ text.T

    rules: dict[str, Rule] = {
        "zero_shot": zero_shot,
        "self_tpt": self_tpt,
        "mean_of_views": mean_of_views,
        "tlla": tlla,
        "zero": zero,
        "mta": mta,
    }
    if row == "tpt":
        return TPTLoop(clip, names, kept)
    return rules[row] if row in rules else _lora(row, clip, text, kept)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp(min=1e-30).log()).sum(-1)


def _vote(p: Tensor, order: Tensor, voters: int) -> Tensor:
    """ZERO's vote; of tied classes, the one wins for which one of the next most confident views votes first."""
    ballots = p.argmax(-1)[order]
    votes = torch.bincount(ballots[:voters], minlength=p.shape[-1])
    tied = set((votes == votes.max()).nonzero().flatten().tolist())
    deciding = [winner for winner in ballots[voters:].tolist() if winner in tied]
    if len(tied) > 1 and deciding:
        tied = {deciding[0]}
    mean = p[order[:voters]].mean(0).tolist()
    return F.one_hot(torch.tensor(max(tied, key=lambda place: mean[place])), p.shape[-1])


def _mode(f: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """MTA's mode of the features ``(V, D)``, with its authors' constants."""
    distance = torch.cdist(f, f).sort(dim=-1).values
    width = (0.5 * (distance[:, 1 : int(0.3 * (len(f) - 1)) + 1] ** 2).mean(-1)).sqrt()
    p = (scale * f @ text.T).softmax(-1)
    affinity = p @ p.T
    y, mode = f.new_full((len(f),), 1 / len(f)), f[0]
    for _ in range(5):
        density = _density(f, mode, width)
        for _ in range(5):
            new = ((density + 4.0 * affinity @ y) / 0.2).softmax(-1)
            moved, y = float(torch.linalg.vector_norm(new - y)), new
            if moved < 1e-6:
                break
        for _ in range(5):
            weights = _density(f, mode, width) * y
            new = F.normalize((weights[:, None] * f).sum(0), dim=-1)
            moved, mode = float(torch.linalg.vector_norm(new - mode)), new
            if moved < 1e-6:
                break
    return mode


def _density(f: Tensor, mode: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-(torch.linalg.vector_norm(f - mode, dim=-1) ** 2) / (2 * width**2))


def _lora(row: str, clip: Clip, text: Tensor, kept: int) -> Rule:
    """LoRA-TTT, with the entropy alone in the row of that name."""
    alone = row == "lora_ttt_mem"
    lora = LoRASpec(**LORA_MEM["lora"]) if alone else LoRASpec()
    initial = {key: value.to(text.device) for key, value in LoRATuner(clip.vit, lora, 0).initial.items()}
    reconstruction = LORA_MEM["loss"]["reconstruction"] if alone else 16.0
    settings = ReferenceSettings(multiplier=lora.multiplier, reconstruction=reconstruction, selected=kept)
    loop = ReferenceLoop(clip.model.visual, initial, settings)
    patches = clip.vit.patches

    def rule(pixels: Tensor) -> Tensor:
        noise = torch.rand(1, len(pixels), patches, device=pixels.device)
        places = noise.argsort(-1)[..., : patches - int(settings.mask_ratio * patches)]
        return loop.episode(pixels, text, clip.logit_scale, places)[1]

    return rule


class TPTLoop:
    """TPT on one image: every step encodes all views, and all class texts at full length with their graph.

    Args:
        clip: The model.
        names: K class names.
        kept: How many views take part in the loss.
    """

    def __init__(self, clip: Clip, names: list[str], kept: int) -> None:
        self._clip, self._kept, model = clip, kept, clip.model
        device = clip.text_tower.device
        tokens = torch.as_tensor(clip.tokenizer([f"{WORDS} {name}." for name in names])).to(device)
        self._ends, self._places = tokens.argmax(-1), torch.arange(len(names), device=device)
        with torch.no_grad():
            embedded = model.token_embedding(tokens).float()
        words = len(WORDS.split())
        self._start, self._initial, self._rest = embedded[:, :1], embedded[0, 1 : 1 + words], embedded[:, 1 + words :]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits ``(K,)`` of the plain view with the tuned prompt."""
        context = self._initial.clone().requires_grad_()
        optimiser = torch.optim.AdamW([context], lr=5e-3, weight_decay=0.01)
        logits = self._logits(pixels, context)
        p = logits.softmax(-1)
        mean = p[_entropy(p.detach()).argsort()[: self._kept]].mean(0)
        _entropy(mean).backward()
        optimiser.step()
        with torch.no_grad():
            return self._logits(pixels[:1], context)[0]

    def _logits(self, pixels: Tensor, context: Tensor) -> Tensor:
        with torch.no_grad():
            images = F.normalize(self._clip.model.encode_image(pixels).float(), dim=-1)
        return self._clip.logit_scale * images @ self._texts(context).T

    def _texts(self, context: Tensor) -> Tensor:
        model = self._clip.model
        shared = context.expand(len(self._places), -1, -1)
        x = torch.cat([self._start, shared, self._rest], dim=1) + model.positional_embedding
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        return F.normalize((x[self._places, self._ends] @ model.text_projection).float(), dim=-1)
