"""Batches of the demo's images with their views, for the benchmarks of accuracy."""

from typing import Any

from torch.utils.data import DataLoader

from lorattt.data.demo import DemoImages
from lorattt.data.source import EpisodeDataset, collate_episodes
from lorattt.views.render import Views


def episode_batches(images: DemoImages, views: Views, batch_size: int) -> "DataLoader[Any]":
    """All of the images in order, views made in one worker; batches as methods take them."""
    dataset = EpisodeDataset(images, images.numbers, views)
    return DataLoader(dataset, batch_size=batch_size, num_workers=1, collate_fn=collate_episodes)
