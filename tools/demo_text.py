"""The second stage of the demo's model: a text tower for a finished image tower, learned from captions.

    python -m tools.demo_text [--image-tower FILE] [--checkpoint FILE]

The image tower is locked, as in LiT (Zhai et al., CVPR 2022): its features of cropped training images are computed
once, and a new text tower is trained with them. The weights in the package do not come from here: they have the text
tower of ``tools.pretrain_demo``, whose captions are a few wordings of the class names.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor

from lorattt.clip.build import truncated_tokenizer
from lorattt.clip.text import class_features, encode_text
from lorattt.demo import CHECKPOINT, CLASS_NAMES, DOMAINS, HELD_OUT, MERGES, MODEL_CONFIG, SEEN
from lorattt.ranking import is_right
from tools.demo_batches import CroppedBatches, Pool, draw_pool, plain_views
from tools.demo_captions import SHARES, Picture, Shares, caption
from tools.demo_clip import adamw, build_clip, normalise, write_weights

_BATCH = 256


class Pictures(NamedTuple):
    """Encoded images, and what captions tell of them.

    Attributes:
        features: ``(N, D)`` float32, unit length.
        told: What captions may tell, of each.
    """

    features: Tensor
    told: list[Picture]


@torch.no_grad()
def encode_pictures(clip: CLIP, pool: Pool, batches: int, seed: int) -> Pictures:
    """Features of so many batches of 256 crops and whole images of the pool."""
    numbered = pool._replace(labels=torch.arange(len(pool.labels)))  # a batch tells which images it has
    crops = CroppedBatches(
        numbered, steps=batches, batch_size=_BATCH, side=48, crop_share=0.5, scale=(0.25, 1.0), zoom_steps=0, seed=seed
    )
    features, told = [], []
    sides = pool.objects[:, 2]
    centres = pool.objects[:, :2] + sides[:, None] / 2
    borders = torch.cat([pool.pixels[:, :, :6], pool.pixels[:, :, -6:]], dim=2).float().mean((1, 2, 3)) / 255
    places = centres / pool.pixels.shape[-1] - 0.5
    for step in range(batches):
        images, chosen = crops[step]
        features.append(F.normalize(clip.encode_image(normalise(images)), dim=-1))
        told += [
            Picture(int(pool.labels[i]), float(sides[i]), float(places[i, 1]), float(places[i, 0]), float(borders[i]))
            for i in chosen.tolist()
        ]
    return Pictures(torch.cat(features), told)


def class_aware_loss(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The contrastive loss of pairs, in which all captions of a class count as an image's own (as UniCL's labels do).

    Args:
        images: ``(B, D)`` unit image features.
        texts: ``(B, D)`` unit features of their captions.
        labels: ``(B,)`` int64 classes of the images.
        scale: Factor on the cosine similarities.

    Returns:
        The mean of both directions, a scalar: the negative log of the probability of all captions (images) of a class.
    """
    logits = scale * images @ texts.T
    other = labels[:, None] != labels[None]
    losses = [rows.logsumexp(1) - rows.masked_fill(other, -torch.inf).logsumexp(1) for rows in (logits, logits.T)]
    return torch.cat(losses).mean()


def train_text(clip: CLIP, pictures: Pictures, steps: int, seed: int, shares: Shares = SHARES) -> list[float]:
    """Train all but the image tower: AdamW, warm-up of 50 steps, cosine to zero; the losses of the steps."""
    parameters = [value for name, value in clip.named_parameters() if not name.startswith("visual.")]
    optimiser = adamw(parameters, lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    tokenizer = truncated_tokenizer(MERGES, clip.context_length)
    rng, labels = np.random.default_rng(seed), torch.tensor([picture.label for picture in pictures.told])
    losses = []
    for _ in range(steps):
        rows = rng.integers(len(labels), size=_BATCH)
        tokens = tokenizer([caption(pictures.told[row], rng, shares) for row in rows])
        texts = F.normalize(encode_text(clip, tokens), dim=-1)
        loss = class_aware_loss(pictures.features[rows], texts, labels[rows], clip.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        clip.logit_scale.data.clamp_(max=math.log(100))
        losses.append(loss.item())
    return losses


@torch.no_grad()
def plain_features(clip: CLIP, domain: str, images: int) -> tuple[Tensor, Tensor]:
    """Features ``(N, D)`` and labels ``(N,)`` of the first images of split val in a domain, seen whole."""
    pool = draw_pool(images, "val", 0, domain)
    return clip.encode_image(normalise(plain_views(pool.pixels, 48))), pool.labels


def accuracy(features: Tensor, labels: Tensor, texts: Tensor, classes: Sequence[int]) -> float:
    """Top-1 in percent of the images of some classes (rising) among these, of ``(64, D)`` class features."""
    chosen = torch.tensor(classes)
    some = torch.isin(labels, chosen)
    hits = is_right(features[some] @ texts[chosen].T, torch.searchsorted(chosen, labels[some]))
    return float(100 * hits.double().mean())


def main() -> None:
    """Encode, train, write the file, say how words matter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--image-tower", type=Path, default=CHECKPOINT, help="file that has it (default: the package's)"
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/demo/clip_captions.safetensors"), help="to write")
    parser.add_argument("--seed", type=int, default=0, help="of weights and captions (default: 0)")
    parser.add_argument("--steps", type=int, default=400, help="training batches of 256 captions (default: 400)")
    parser.add_argument("--pool", type=int, default=10000, help="training images to draw (default: 10000)")
    parser.add_argument("--validation", type=int, default=512, help="images of each domain to validate on")
    parser.add_argument("--batches", type=int, default=160, help="batches of 256 crops to encode (default: 160)")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    clip = build_clip(MODEL_CONFIG)
    tower = {name: value for name, value in load_file(arguments.image_tower).items() if name.startswith("visual.")}
    clip.load_state_dict({name: value.float() for name, value in tower.items()}, strict=False)
    pictures = encode_pictures(clip, draw_pool(arguments.pool, "train", 0), arguments.batches, 0)
    losses = train_text(clip, pictures, arguments.steps, arguments.seed)
    print(f"loss of the first step {losses[0]:.2f}, of the last ten {sum(losses[-10:]) / len(losses[-10:]):.2f}")
    write_weights(arguments.checkpoint, clip, "python -m tools.demo_text", arguments.steps, arguments.seed)
    encoded = {domain: plain_features(clip, domain, arguments.validation) for domain in DOMAINS}
    tokenizer = truncated_tokenizer(MERGES, clip.context_length)
    for template in ("a photo of a {}.", "a drawing of a {}."):
        texts = class_features(clip, tokenizer, CLASS_NAMES, [template])
        for part, classes in (("all", range(len(CLASS_NAMES))), ("seen", SEEN), ("held out", HELD_OUT)):
            values = ", ".join(f"{domain} {accuracy(*each, texts, classes):.1f}" for domain, each in encoded.items())
            print(f"{template} {part}: {values}", flush=True)


if __name__ == "__main__":
    main()
