"""The base of all sources: arguments, loaders, shares, and the end at a bad image."""

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor

from fits import trainer
from lorattt.data.datamodule import EpisodeData
from lorattt.data.source import ExactShard
from lorattt.errors import UserError
from tests.data.fake import Fake, on_device


def few(count: int = 5, *, broken: bool = False, label: int = 0) -> Fake:
    """Images, the third of which may be broken."""
    return Fake("few", range(count), broken=[2] if broken else [], label=label)


def data_of(source: Fake | None = None, **values: Any) -> EpisodeData:
    data = EpisodeData(few() if source is None else source, **{"batch_size": 2, "workers": 0, **values})
    data.transform = red
    return data


def red(image: Image.Image, index: int) -> Tensor:
    return torch.full((1, 3, 1, 1), index, dtype=torch.uint8)


def numbers(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("batch_size", -1), ("workers", -1), ("limit", 0), ("limit", -5), ("prefetch", 0)],
)
def test_arguments_that_make_no_batches_are_refused_by_name(key: str, value: int) -> None:
    values: dict[str, Any] = {key: value}
    with pytest.raises(UserError, match=rf"^data\.{key} {value}: must be at least"):
        data_of(**values)


def test_batches_go_through_the_images_in_order() -> None:
    data = data_of()
    for loader in (data.test_dataloader(), data.val_dataloader(), data.predict_dataloader()):
        assert numbers(loader) == [[0, 1], [2, 3], [4]]
    assert numbers(data_of(batch_size=9).test_dataloader()) == [[0, 1, 2, 3, 4]]


def test_a_limit_spreads_over_the_images() -> None:
    assert numbers(data_of(limit=2).test_dataloader()) == [[0, 2]]
    assert numbers(data_of(limit=9).test_dataloader()) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("workers", [0, 1])
def test_without_views_batches_hold_the_images_themselves(workers: int) -> None:
    data = data_of(few(broken=True), workers=workers)
    data.transform = None
    batches = list(data.predict_dataloader())
    assert numbers(batches) == [[0, 1], [3], [4]]
    for batch in batches:
        assert set(batch) == {"image", "label", "index", "path", "skipped"}
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            assert image.dtype == torch.uint8
            assert image.flatten().tolist() == [index, 0, 0]


def test_images_without_classes_are_predicted_and_not_tested() -> None:
    for source in (few(label=-1), few()):
        if source.label(0) == 0:
            source.class_names = []
        data = data_of(source)
        assert numbers(data.predict_dataloader()) == [[0, 1], [2, 3], [4]]
        for loader in (data.test_dataloader, data.val_dataloader):
            with pytest.raises(UserError, match=r"^few has no class folders"):
                loader()


def test_devices_share_the_images_out() -> None:
    shares = [numbers(on_device(data_of(limit=4), 3, rank).test_dataloader()) for rank in range(3)]
    # Of 5 images, 4 are used: 0, 1, 2, 3.
    assert shares == [[[0, 3]], [[1]], [[2]]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_device_without_images_gets_one_batch_of_none(workers: int) -> None:
    """Lightning leaves out the loop of a device without batches, and the others would wait for it."""
    loaders = [on_device(data_of(workers=workers), 7, rank).test_dataloader() for rank in (4, 5, 6)]
    assert [len(loader) for loader in loaders] == [1, 1, 1]
    assert [numbers(loader) for loader in loaders] == [[[4]], [[]], [[]]]
    (batch,) = loaders[1]
    assert (batch["path"], batch["skipped"], batch["label"].dtype) == ([], [], torch.long)


@pytest.mark.parametrize(
    ("device", "ahead"), [("cpu", None), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("mps", None)]
)
def test_pixels_are_sent_ahead_to_a_gpu_that_copies_while_it_works(device: str, ahead: str | None) -> None:
    loader: Any = on_device(data_of(), 1, 0, device).test_dataloader()
    assert loader.send_to == (None if ahead is None else torch.device(ahead))
    assert not loader.pin_memory  # what is sent ahead is pinned there
    assert data_of().test_dataloader().send_to is None  # type: ignore[attr-defined]


def test_a_source_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"^few has no images$"):
        data_of(few(0)).predict_dataloader()


def test_what_is_done_is_left_out_and_what_was_unreadable_comes_last() -> None:
    data = data_of()
    data.leave_out({1: "few/1.png"}, [0, 3])
    assert numbers(data.test_dataloader()) == [[2, 4], [0, 3]]
    data.leave_out({index: f"few/{index}.png" for index in range(5)}, [])
    assert numbers(data.test_dataloader()) == [[]]
    data.leave_out({}, [])
    assert numbers(data.test_dataloader()) == [[0, 1], [2, 3], [4]]


def test_devices_share_out_what_is_left() -> None:
    shares = []
    for rank in range(2):
        data = on_device(data_of(), 2, rank)
        data.leave_out({0: "few/0.png", 2: "few/2.png"}, [])
        shares.append(numbers(data.test_dataloader()))
    assert shares == [[[1, 4]], [[3]]]


def test_images_that_are_others_now_are_refused() -> None:
    with pytest.raises(UserError, match=r"^few has changed since the run began: image 1 was a\.png and is few/1\.png"):
        data_of().leave_out({0: "few/0.png", 1: "a.png"}, [])
    with pytest.raises(UserError, match=r"image 4 was few/4\.png and is no longer there"):
        data_of(limit=2).leave_out({4: "few/4.png"}, [])


def test_a_bad_image_ends_the_run_by_name() -> None:
    data = data_of(few(broken=True))
    batches = list(data.test_dataloader())
    assert data.on_before_batch_transfer(batches[0], 0) is batches[0]
    with pytest.raises(UserError) as caught:
        data.on_before_batch_transfer(batches[1], 0)
    assert str(caught.value) == (
        "cannot read image few/2.png (image file is truncated): fix or remove it, or set data.on_bad_image to skip"
    )


def test_a_bad_image_is_passed_on_where_asked_for() -> None:
    data = data_of(few(broken=True), on_bad_image="skip")
    for batch in data.test_dataloader():
        assert data.on_before_batch_transfer(batch, 0) is batch
    assert numbers(data.test_dataloader()) == [[0, 1], [3], [4]]


class Collector(LightningModule):
    """Notes what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        assert isinstance(self.trainer.test_dataloaders.sampler, ExactShard)
        self.seen += batch["index"].tolist()


@pytest.mark.filterwarnings("ignore:The 'test_dataloader' does not have many workers")
def test_lightning_keeps_the_sampler_and_ends_at_a_bad_image() -> None:
    collector = Collector()
    trainer().test(collector, data_of(), verbose=False)
    assert collector.seen == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match=r"few/2\.png"):
        trainer().test(Collector(), data_of(few(broken=True)), verbose=False)
