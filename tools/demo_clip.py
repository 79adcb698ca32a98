"""The demo's tiny CLIP: how it is built, its losses, and its training."""

import copy
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lorattt.clip.build import truncated_tokenizer
from lorattt.clip.text import SINGLE, TemplateSet, encode_text, resolve_templates
from lorattt.demo import CLASS_NAMES, HELD_OUT, MERGES, MODEL_CONFIG, MODEL_NAME, SEEN
from lorattt.ranking import is_right


def build_clip(config: Mapping[str, Any]) -> CLIP:
    """An untrained CLIP of that configuration (keyword arguments of ``open_clip.model.CLIP``)."""
    model = CLIP(**config)
    visual = model.visual
    with torch.no_grad():
        visual.positional_embedding.copy_(sincos_positions(visual.grid_size[0], visual.class_embedding.shape[0]))
    return model


def sincos_positions(grid: int, width: int) -> Tensor:
    """Position embeddings that tell neighbours apart from the first step: ``(1 + grid^2, width)``.

    A quarter of the channels each holds sines and cosines of the column and of the row; the class
    token's row is zero. With CLIP's small random ones a tiny model learns colours at once but needs
    thousands of steps to relate patches to each other, hence to see shapes.
    """
    frequency = 1.0 / 100.0 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(grid)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width / 2)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    patches = torch.cat([wave[columns.flatten()], wave[rows.flatten()]], dim=1)
    return torch.cat([torch.zeros(1, width), patches])


def drop_patches(model: CLIP, share: float) -> None:
    """Let the image tower drop that share of its patches, at random, whenever it is in training mode."""
    # The layer has no parameters: the names in the state dict stay those of a model without it.
    model.visual.patch_dropout = PatchDropout(share)


def normalise(images: Tensor) -> Tensor:
    """``(N, 3, H, W)`` floats in [0, 1] to what CLIP expects: minus the mean, over the deviation."""
    mean = torch.tensor(OPENAI_DATASET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(OPENAI_DATASET_STD, device=images.device).view(3, 1, 1)
    return (images - mean) / std


def contrastive_loss(images: Tensor, texts: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each image against one text per class.

    Args:
        images: ``(B, D)`` image features, of any length.
        texts: ``(K, D)`` text features, of any length.
        labels: ``(B,)`` int64 rows of ``texts``.
        scale: Factor on the cosine similarities.

    Returns:
        The mean over the batch, a scalar.
    """
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    return F.cross_entropy(logits, labels)


def crowding(texts: Tensor) -> Tensor:
    """How close the classes' texts lie: the log of the mean of ``exp(-2 d^2)`` over pairs of unit vectors.

    While the image tower sees colours alone, the contrastive loss pulls the texts of a colour together, and
    from texts that are the same no image can learn its shape.

    Args:
        texts: ``(K, D)`` text features, of any length.

    Returns:
        A scalar from about -4 (orthogonal) to 0 (all the same).
    """
    return torch.pdist(F.normalize(texts, dim=-1)).square().mul(-2).exp().mean().log()


def adamw(parameters: Iterable[Tensor], lr: float, weight_decay: float) -> torch.optim.AdamW:
    """CLIP's optimiser, with weight decay on matrices only."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in parameters:
        (matrices if parameter.dim() >= 2 else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)


def write_weights(file: Path, clip: CLIP, command: str, steps: int, seed: object) -> None:
    """Write a model in half precision but for the logit scale, and how it was made."""
    weights = {
        name: (value.float() if name == "logit_scale" else value.half()).cpu().contiguous()
        for name, value in clip.state_dict().items()
        if name != "attn_mask"
    }
    metadata = {"model": MODEL_NAME, "merges": str(MERGES), "command": command, "steps": str(steps), "seed": str(seed)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file, metadata=metadata)


class PretrainCLIP(LightningModule):
    """Trains the demo's CLIP on drawn images against the texts of the classes seen in training.

    Each step draws a template for every class and a share of patches to drop. The running average of the
    weights is what is validated, on all 64 classes, and what is written when training ends.

    Args:
        checkpoint: The safetensors file to write.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW, on matrices only.
        warmup: Steps of linear warm-up; a cosine to zero follows.
        average: Decay of the running average of the weights.
        templates: Texts or a named set that vary the caption, beside "a photo of a {}.".
        template_share: Share of the captions that use them.
        drop_from: Step from which patches are dropped; shapes are learned sooner from whole images.
        drop_share: Share of the later steps that drop patches.
        drop_limit: Largest share of patches to drop; each such step draws one below it.
        spread: Weight of the loss that keeps texts apart, at the start; it falls to zero linearly.
    """

    def __init__(
        self,
        *,
        checkpoint: Path = Path("runs/demo/clip.safetensors"),
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        warmup: int = 100,
        average: float = 0.998,
        templates: TemplateSet | Sequence[str] = "openai-7",
        template_share: float = 0.5,
        drop_from: int = 1400,
        drop_share: float = 0.6,
        drop_limit: float = 0.75,
        spread: float = 0.5,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.average = average
        self.template_share = template_share
        self.drop_from = drop_from
        self.drop_share = drop_share
        self.drop_limit = drop_limit
        self.spread = spread

        self.clip = build_clip(MODEL_CONFIG)
        self.averaged = copy.deepcopy(self.clip).requires_grad_(False)
        # (T, 64, L): template 0 is the plain one.
        tokenizer = truncated_tokenizer(MERGES, self.clip.context_length)
        texts = [SINGLE, *resolve_templates(templates)]
        self.tokens: Tensor
        self.register_buffer(
            "tokens",
            torch.stack([tokenizer([text.replace("{}", name) for name in CLASS_NAMES]) for text in texts]),
            persistent=False,
        )
        position = torch.full((len(CLASS_NAMES),), -1)
        position[list(SEEN)] = torch.arange(len(SEEN))
        self.position: Tensor
        self.register_buffer("position", position, persistent=False)
        self.hits: list[Tensor] = []
        self.labels: list[Tensor] = []

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.global_step / max(1, int(self.trainer.estimated_stepping_batches))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch: images ``(B, 3, S, S)`` in [0, 1] and labels ``(B,)`` in 0..63."""
        pixels, labels = batch
        dropping = self.global_step >= self.drop_from and bool(torch.rand(()) < self.drop_share)
        dropped = torch.rand(()).item() * self.drop_limit if dropping else 0.0
        drop_patches(self.clip, dropped)
        varied = torch.rand(len(SEEN)) < self.template_share
        choice = torch.randint(1, len(self.tokens), (len(SEEN),)) * varied
        tokens = self.tokens[choice.to(self.device), list(SEEN)]
        # The fused attention of torch's CPU kernels takes more than twice the time of plain products in bfloat16.
        with sdpa_kernel(SDPBackend.MATH):
            images, texts = self.clip.encode_image(normalise(pixels)), encode_text(self.clip, tokens)
        with torch.autocast(self.device.type, enabled=False):
            scale = self.clip.logit_scale.exp()
            loss = contrastive_loss(images.float(), texts.float(), self.position[labels], scale)
            spread = crowding(texts.float())
        self.log_dict({"train/loss": loss, "train/scale": scale, "train/crowding": spread}, prog_bar=True)
        return loss + self.spread * (1 - self.progress) * spread

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Bound the logit scale, as CLIP does, and update the running average."""
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(100))
            for mean, value in zip(self.averaged.parameters(), self.clip.parameters(), strict=True):
                mean.lerp_(value, 1 - self.average)

    def on_validation_epoch_start(self) -> None:
        """Encode the texts of all classes."""
        self.text_features = F.normalize(encode_text(self.averaged, self.tokens[0]), dim=-1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Classify images ``(B, 3, S, S)`` among all 64 classes."""
        pixels, labels = batch
        features = self.averaged.encode_image(normalise(pixels))
        self.hits.append(is_right(features @ self.text_features.T, labels))
        self.labels.append(labels)

    def on_validation_epoch_end(self) -> None:
        """Log top-1 (percent) of seen and of held-out compositions."""
        hits, labels = torch.cat(self.hits).float(), torch.cat(self.labels)
        self.hits.clear()
        self.labels.clear()
        held_out = torch.isin(labels, torch.tensor(HELD_OUT, device=labels.device))
        top1 = {"val/seen": hits[~held_out].mean(), "val/held_out": hits[held_out].mean()}
        self.log_dict({name: 100 * value for name, value in top1.items()}, prog_bar=True)

    def on_fit_end(self) -> None:
        """Write the averaged weights."""
        if self.trainer.is_global_zero:
            seed = os.environ.get("PL_GLOBAL_SEED", "not set")
            command = "python -m tools.pretrain_demo"
            write_weights(self.checkpoint, self.averaged, command, self.trainer.global_step, seed)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine, stepped every batch."""
        optimizer = adamw(self.clip.parameters(), self.lr, self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, total - self.warmup)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
