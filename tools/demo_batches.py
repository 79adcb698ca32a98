"""Batches for pretraining the demo's tiny CLIP: drawn once, then cropped anew at every step."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lorattt.demo import draw
from lorattt.demo.draw import SIZE, Split, place, scene_key


class Pool(NamedTuple):
    """Drawn images, in memory.

    Attributes:
        pixels: ``(N, 3, 96, 96)`` uint8.
        labels: ``(N,)`` int64.
        objects: ``(N, 4)`` float32, a square around each shape: top, left, height, width, in pixels.
    """

    pixels: Tensor
    labels: Tensor
    objects: Tensor


def locate(index: int, *, split: Split, seed: int) -> tuple[float, float, float, float]:
    """A square around the shape but for the tips of its corners: (left, top, right, bottom) in pixels."""
    _, radius, centre = place(np.random.default_rng(scene_key(index, split, seed)))
    side = 2.4 * radius
    left, top = (float(np.clip(middle - side / 2, 0.0, SIZE - side)) for middle in centre)
    return left, top, left + side, top + side


def draw_pool(count: int, split: Split, seed: int, domain: str = "source") -> Pool:
    """The first images of a split, in one domain."""
    pixels = torch.empty(count, 3, SIZE, SIZE, dtype=torch.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    objects = torch.empty(count, 4)
    for index in range(count):
        image, label = draw(index, domain=domain, split=split, seed=seed)
        rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIZE, SIZE, 3)
        pixels[index] = rows.permute(2, 0, 1)
        labels[index] = label
        left, top, right, bottom = locate(index, split=split, seed=seed)
        objects[index] = torch.tensor([top, left, bottom - top, right - left])
    return Pool(pixels, labels, objects)


def plain_views(pixels: Tensor, side: int) -> Tensor:
    """``(N, 3, S, S)`` uint8 to ``(N, 3, side, side)`` floats in [0, 1]: bicubic, as at test time."""
    resized = F.interpolate(pixels.float() / 255, size=(side, side), mode="bicubic", antialias=True)
    return resized.clamp(0.0, 1.0)


def _resampling(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Weights ``(N, side, size)`` that resample [start, start + length) of ``size`` pixels to ``side``.

    The antialiased bilinear filter: a triangle as wide as the larger of a source and a target pixel.
    """
    step = (length / side)[:, None, None]
    support = step.clamp(min=1.0)
    centre = start[:, None, None] + (torch.arange(side)[None, :, None] + 0.5) * step
    pixel = torch.arange(size)[None, None, :] + 0.5
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = (1.0 - (pixel - centre).abs() / support).clamp(min=0.0) * inside
    return weights / weights.sum(dim=-1, keepdim=True)


def crop_resize(pixels: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut a box from each image and resize it, all at once.

    Args:
        pixels: ``(N, 3, S, S)`` uint8.
        boxes: ``(N, 4)`` float32: top, left, height, width, in whole pixels.
        side: Side of the result.

    Returns:
        ``(N, 3, side, side)`` floats in [0, 1].
    """
    rows = _resampling(boxes[:, 0], boxes[:, 2], pixels.shape[-2], side)
    columns = _resampling(boxes[:, 1], boxes[:, 3], pixels.shape[-1], side)
    return rows[:, None] @ (pixels.float() / 255) @ columns.mT[:, None]


def random_boxes(count: int, size: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Boxes of random area (a fraction of the image), ratio 3/4 to 4/3 and place: ``(count, 4)``."""
    area, tilt, top, left = torch.rand(4, count, generator=generator)
    area = scale[0] + area * (scale[1] - scale[0])
    ratio = (4 / 3) ** (2 * tilt - 1)
    height = (size * (area / ratio).sqrt()).round().clamp(1, size)
    width = (size * (area * ratio).sqrt()).round().clamp(1, size)
    return torch.stack([(top * (size - height + 1)).floor(), (left * (size - width + 1)).floor(), height, width], dim=1)


class CroppedBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batch number k as one item: a function of the seed and k, whoever asks for it.

    Training starts zoomed in on the shapes and widens to what the model is for, crops and whole images:
    from the start on whole images a tiny model sees colours at once but no shapes for a long time.

    Args:
        pool: The images.
        steps: Number of batches.
        batch_size: Images of a batch.
        side: Side of the model's input, in pixels.
        crop_share: Share of the images that are cropped at random; the others are seen whole.
        scale: Smallest and largest area of a crop, as fractions of the image's.
        zoom_steps: Batches over which the view widens from the shape to the crop.
        seed: Seed of choice, crops and flips.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        steps: int,
        batch_size: int,
        side: int,
        crop_share: float,
        scale: tuple[float, float],
        zoom_steps: int,
        seed: int,
    ) -> None:
        self.pool = pool
        self.steps = steps
        self.batch_size = batch_size
        self.side = side
        self.cropped = round(crop_share * batch_size)
        self.scale = scale
        self.zoom_steps = zoom_steps
        self.seed = seed

    def __len__(self) -> int:
        """Number of batches."""
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(B, 3, side, side)``, floats in [0, 1], and labels ``(B,)``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.randint(len(self.pool.labels), (self.batch_size,), generator=generator)
        pixels = self.pool.pixels[chosen]
        size = pixels.shape[-1]
        boxes = random_boxes(self.batch_size, size, self.scale, generator)
        boxes[self.cropped :] = torch.tensor([0.0, 0.0, size, size])
        if step < self.zoom_steps:
            # Half-way through, the images of a batch are spread evenly from zoomed in to not at all.
            spread = torch.rand(self.batch_size, 1, generator=generator)
            zoom = (1 + spread - 2 * step / self.zoom_steps).clamp(0.0, 1.0)
            boxes = boxes.lerp(self.pool.objects[chosen], zoom).round()
        images = crop_resize(pixels, boxes, self.side)
        flip = torch.rand(self.batch_size, 1, 1, 1, generator=generator) < 0.5
        return torch.where(flip, images.flip(-1), images), self.pool.labels[chosen]


class DemoPretrainData(LightningDataModule):
    """Drawn images for pretraining; one epoch is the whole training.

    The pool is drawn before the first step (about 2 ms an image) and kept in memory (28 kB an image).

    Args:
        steps: Training batches.
        batch_size: Images of a batch.
        pool: Training images to draw.
        validation: Images to draw from split ``val``, of all classes.
        side: Side of the model's input, in pixels.
        crop_share: Share of the training images that are cropped.
        crop_scale: Smallest and largest area of a crop, as fractions of the image's.
        zoom_steps: Steps over which the view widens from the shape to the crop.
        seed: Seed of the drawings and of the crops.
    """

    def __init__(
        self,
        *,
        steps: int = 3200,
        batch_size: int = 64,
        pool: int = 10000,
        validation: int = 384,
        side: int = 48,
        crop_share: float = 0.5,
        crop_scale: tuple[float, float] = (0.25, 1.0),
        zoom_steps: int = 1600,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.batch_size = batch_size
        self.pool = pool
        self.validation = validation
        self.side = side
        self.crop_share = crop_share
        self.crop_scale = crop_scale
        self.zoom_steps = zoom_steps
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Draw both sets."""
        self.train_set = CroppedBatches(
            draw_pool(self.pool, "train", self.seed),
            steps=self.steps,
            batch_size=self.batch_size,
            side=self.side,
            crop_share=self.crop_share,
            scale=self.crop_scale,
            zoom_steps=self.zoom_steps,
            seed=self.seed,
        )
        validation = draw_pool(self.validation, "val", self.seed)
        self.val_set = TensorDataset(plain_views(validation.pixels, self.side), validation.labels)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Whole batches, in order: the data set has already shuffled."""
        return DataLoader(self.train_set, batch_size=None, shuffle=False)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Plain views of split ``val``."""
        return DataLoader(self.val_set, batch_size=self.batch_size)
