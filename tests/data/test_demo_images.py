"""The embedded demo as a source of images."""

from typing import Any

import pytest
import torch

from lorattt import demo
from lorattt.data.demo import DemoData, DemoImages
from lorattt.errors import UserError


def test_images_are_the_drawn_ones() -> None:
    images = DemoImages("noise", 3, 5, "test")
    assert len(images) == 5
    assert images.name == "demo-noise"
    assert images.class_names == list(demo.CLASS_NAMES)
    for index in (0, 4):
        image, label = demo.draw(index, domain="noise", severity=3, split="test")
        assert images.read(index).tobytes() == image.tobytes()
        assert images.read(index).mode == "RGB"
        assert images.label(index) == label
    assert images.path(4) == "noise-3/test/000004"


def test_paths_name_domain_severity_split_and_number() -> None:
    every = [
        DemoImages(domain, severity, 2, split).path(index)
        for domain in ("noise", "blur")
        for severity in (1, 5)
        for split in ("val", "test")
        for index in (0, 1)
    ]
    assert len(set(every)) == 16


@pytest.mark.parametrize(
    ("key", "value"), [("domain", "fog"), ("severity", 0), ("severity", 6), ("images", 0), ("images", -1)]
)
def test_what_cannot_be_drawn_is_refused_by_value(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{key}.*{value}"):
        DemoData(**{key: value}, workers=0)


def test_batches_are_made_without_any_file() -> None:
    data = DemoData(domain="blur", severity=2, images=5, split="val", batch_size=4, workers=0)
    data.transform = lambda image, index: torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    first, second = data.test_dataloader()
    assert torch.cat([first["index"], second["index"]]).tolist() == list(range(5))
    for index, label in zip(first["index"].tolist(), first["label"].tolist(), strict=True):
        image, expected = demo.draw(index, domain="blur", severity=2, split="val")
        assert label == expected
        assert bytes(first["views"][index].tolist()) == image.tobytes()
