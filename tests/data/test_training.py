"""Images to fit on: order, shares, crops and epochs; what they do not depend on; what is refused."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from fits import trainer
from lorattt.data.source import EpochShard, TrainingDataset
from lorattt.data.training import CachedImages, SourceData
from lorattt.errors import UserError
from tests.data.fake import Fake, on_device

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*isinstance.treespec", "ignore:Total length of `list`"
)


class Several(Fake):
    """Images at numbers 100, 101, ...; one may be broken."""

    def __init__(self, count: int = 11, *, broken: int | None = None, names: int = 3, label: int | None = None) -> None:
        bad = [] if broken is None else [broken]
        super().__init__("several", range(100, 100 + count), broken=bad, classes=names, label=label, size=(4, 2))


def cut(image: Image.Image, index: int, epoch: int) -> Tensor:
    """Epoch, number and colour, as a view of three pixels' worth."""
    red = int(np.asarray(image)[0, 0, 0])
    return torch.tensor([epoch, index, red], dtype=torch.uint8).view(1, 3, 1, 1)


def plain(image: Image.Image, index: int) -> Tensor:
    return torch.tensor([7, index, 0], dtype=torch.uint8).view(1, 3, 1, 1)


def data_of(
    train: Any = None, validation: Any = None, *, batch_size: int = 4, seed: int = 3, **values: Any
) -> SourceData:
    data = SourceData(
        Several() if train is None else train, validation, **{"batch_size": batch_size, "workers": 0, **values}
    )
    data.train_transform, data.transform, data.seed = cut, plain, seed
    return data


Step = tuple[list[int], list[int], bytes]


def epochs(data: SourceData, numbers: Iterator[int] | range) -> list[list[Step]]:
    """Of each epoch, the steps' images, labels and views."""
    loader = data.train_dataloader()
    found = []
    for epoch in numbers:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        found.append([(b["index"].tolist(), b["label"].tolist(), bytes(b["views"].flatten().tolist())) for b in loader])
    return found


def test_an_epoch_has_each_image_at_most_once_and_whole_batches() -> None:
    for steps in epochs(data_of(), range(3)):
        assert [len(indices) for indices, _, _ in steps] == [4, 4]
        seen = [index for indices, _, _ in steps for index in indices]
        assert len(set(seen)) == 8
        assert set(seen) <= set(range(100, 111))
        for indices, labels, _ in steps:
            assert labels == [index % 3 for index in indices]


def test_all_images_come_in_other_orders_in_other_epochs_and_of_other_seeds() -> None:
    data = data_of(batch_size=11)
    orders = [step[0] for steps in epochs(data, range(6)) for step in steps]
    assert all(sorted(order) == list(range(100, 111)) for order in orders)
    assert len(set(map(tuple, orders))) == 6
    other = [step[0] for steps in epochs(data_of(batch_size=11, seed=4), range(6)) for step in steps]
    assert not set(map(tuple, other)) & set(map(tuple, orders))


def test_positions_are_uniform_over_epochs() -> None:
    sampler = EpochShard(TrainingDataset(Several(5), list(range(100, 105)), None), batch_size=5)
    counts = np.zeros((5, 5))
    for epoch in range(1000):
        sampler.set_epoch(epoch)
        for place, (_, position) in enumerate(sampler):
            counts[place, position] += 1
    assert abs(counts - 200).max() < 4 * np.sqrt(1000 * 0.2 * 0.8)


def test_every_image_is_cut_for_its_epoch() -> None:
    for epoch, steps in enumerate(epochs(data_of(), range(3))):
        for indices, _, views in steps:
            assert views == bytes(value for index in indices for value in (epoch, index, index))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_results_depend_neither_on_workers_nor_on_the_cache(workers: int, cache: bool) -> None:
    expected = epochs(data_of(cache=False), range(3))
    data = data_of(workers=workers, cache=cache)
    assert epochs(data, range(3)) == expected
    assert data.train_dataloader().persistent_workers == (workers > 0)


def test_an_epoch_is_the_same_without_those_before() -> None:
    assert epochs(data_of(workers=1), iter([3])) == epochs(data_of(), range(4))[3:]


@pytest.mark.parametrize("count", [8, 11, 12, 17])
@pytest.mark.parametrize("world", [2, 3, 4])
def test_devices_together_step_as_one_with_the_whole_batch(count: int, world: int) -> None:
    alone = epochs(data_of(Several(count), batch_size=2 * world), range(2))
    shares = [epochs(on_device(data_of(Several(count), batch_size=2), world, rank), range(2)) for rank in range(world)]
    for epoch, steps in enumerate(alone):
        assert {len(share[epoch]) for share in shares} == {len(steps)}
        assert len(steps) == count // (2 * world)
        for number, (indices, _, _) in enumerate(steps):
            parts = [share[epoch][number][0] for share in shares]
            assert all(len(part) == 2 for part in parts)
            assert sorted(index for part in parts for index in part) == sorted(indices)


def test_fewer_images_than_a_batch_make_one_smaller_batch() -> None:
    assert [[len(step[0]) for step in steps] for steps in epochs(data_of(Several(3)), range(2))] == [[3], [3]]
    shares = [epochs(on_device(data_of(Several(6)), 3, rank), range(1))[0] for rank in range(3)]
    assert sorted(index for ((indices, _, _),) in shares for index in indices) == list(range(100, 106))
    for count, world in ((5, 2), (1, 2)):
        with pytest.raises(UserError, match=rf"^{count} training images are less than one step of {world} devices"):
            on_device(data_of(Several(count)), world, 0).train_dataloader()


def test_the_sampler_is_what_lightning_leaves_alone() -> None:
    loader = data_of().train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler)
    assert len(loader) == 2
    with pytest.raises(ValueError, match="rank"):
        EpochShard(TrainingDataset(Several(), [100], None), batch_size=1, world=2, rank=2)


def test_a_position_alone_is_one_of_epoch_0() -> None:
    dataset = TrainingDataset(Several(), [105, 103], cut)
    assert len(dataset) == 2
    assert torch.equal(dataset[1]["views"], dataset[0, 1]["views"])
    assert dataset[4, 0]["views"].flatten().tolist() == [4, 105, 105]


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_transform_batches_hold_the_images(workers: int) -> None:
    data = data_of(workers=workers)
    data.train_transform = None
    for batch in data.train_dataloader():
        assert [image[0, 0, 0].item() for image in batch["image"]] == batch["index"].tolist()


def test_validation_images_come_in_order_and_are_shared_out_once() -> None:
    data = data_of(validation=Several(5))
    batches = list(data.val_dataloader())
    assert [batch["index"].tolist() for batch in batches] == [[100, 101, 102, 103], [104]]
    assert batches[0]["views"][:, 0, :, 0, 0].tolist() == [[7, index, 0] for index in range(100, 104)]
    shares = [list(on_device(data_of(validation=Several(5)), 2, rank).val_dataloader()) for rank in range(2)]
    assert [[i for batch in share for i in batch["index"].tolist()] for share in shares] == [
        [100, 102, 104],
        [101, 103],
    ]
    assert data_of().val_dataloader() == []


def test_a_limit_spreads_over_both() -> None:
    data = data_of(Several(10), Several(6), limit=2)
    assert data.indices == [100, 105]
    assert data.validation_indices == [100, 103]


def test_an_image_is_decoded_once_while_there_is_room() -> None:
    source = Several(4)
    cached = CachedImages(source, 3 * 8 * 2)  # of 4 x 2 pixels each, two fit
    for _ in range(2):
        for index in source.numbers:
            assert cached.read(index).tobytes() == Image.new("RGB", (4, 2), (index, 0, 0)).tobytes()
    assert source.reads == [100, 101, 102, 103, 102, 103]
    assert cached.kept_bytes == 48
    assert (cached.path(101), cached.label(101), len(cached), list(cached.numbers)) == (
        "several/101.png",
        2,
        4,
        [100, 101, 102, 103],
    )
    cached.read(100).putpixel((0, 0), (1, 2, 3))
    assert cached.read(100).getpixel((0, 0)) == (100, 0, 0)
    copy = pickle.loads(pickle.dumps(cached))
    assert copy.kept_bytes == 0
    copy.read(100), copy.read(101), copy.read(102)
    assert copy.kept_bytes == 48


def test_without_the_cache_every_epoch_decodes_anew() -> None:
    for cache, reads in ((False, 22), (True, 11)):
        source = Several()
        epochs(data_of(source, batch_size=11, cache=cache), range(2))
        assert len(source.reads) == reads


def test_a_bad_image_ends_the_run_or_is_counted_and_left_out() -> None:
    data = data_of(Several(broken=103), batch_size=11)
    (batch,) = data.train_dataloader()
    with pytest.raises(UserError) as caught:
        data.on_before_batch_transfer(batch, 0)
    assert str(caught.value) == (
        "cannot read image several/103.png (image file is truncated): fix or remove it, "
        "or set data.on_bad_image to skip"
    )
    data = data_of(Several(broken=103), batch_size=11, on_bad_image="skip")
    for number in range(2):
        (batch,) = data.train_dataloader()
        if number == 0:
            with pytest.warns(UserWarning, match=r"several/103\.png is left out \(image file is truncated\)"):
                assert data.on_before_batch_transfer(batch, 0) is batch
        else:
            data.on_before_batch_transfer(batch, 0)
        assert 103 not in batch["index"]
        assert len(batch["index"]) == 10
    assert data.skipped == {"several/103.png": "image file is truncated"}


@pytest.mark.parametrize(
    ("arguments", "values", "message"),
    [
        ((Several(names=0),), {}, "several has no class names"),
        ((Several(0),), {}, "several has no training images"),
        ((Several(), Several(0)), {}, "several has no validation images"),
        ((Several(label=-1),), {}, r"training image several/100\.png has no label"),
        ((Several(), Several(label=-1)), {}, r"validation image several/100\.png has no label"),
        ((Several(), Several(names=4)), {}, "other classes"),
        ((), {"batch_size": 0}, r"data\.batch_size 0: must be at least 1"),
        ((), {"workers": -1}, r"data\.workers -1"),
        ((), {"limit": 0}, r"data\.limit 0"),
        ((), {"prefetch": 0}, r"data\.prefetch 0"),
    ],
)
def test_what_cannot_be_fitted_on_is_refused(arguments: tuple[Any, ...], values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data_of(*arguments, **values)


class Noting(LightningModule):
    """Fits one number and notes what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], list[int]]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        epochs = batch["views"][:, 0, 0, 0, 0].unique().tolist()
        self.seen.append((self.current_epoch, epochs, batch["index"].tolist()))
        return self.weight.square()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated += batch["index"].tolist()

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None: ...

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None: ...

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def saving(folder: Path, **values: Any) -> Trainer:
    saved = ModelCheckpoint(folder, save_last=True, every_n_epochs=1)
    return trainer(enable_checkpointing=True, callbacks=[saved], default_root_dir=folder, **values)


@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_tells_the_epoch_also_after_a_resume(workers: int, tmp_path: Path) -> None:
    whole = Noting()
    saving(tmp_path / "a", max_epochs=3).fit(whole, data_of(validation=Several(5), workers=workers))
    assert [(epoch, told) for epoch, told, _ in whole.seen] == [(e, [e]) for e in range(3) for _ in range(2)]
    assert whole.validated == 3 * list(range(100, 105))
    expected = epochs(data_of(), range(3))
    assert [indices for _, _, indices in whole.seen] == [step[0] for steps in expected for step in steps]

    saving(tmp_path / "b", max_epochs=2).fit(Noting(), data_of())
    resumed = Noting()
    saving(tmp_path / "c", max_epochs=3).fit(resumed, data_of(workers=workers), ckpt_path=tmp_path / "b" / "last.ckpt")
    assert resumed.seen == whole.seen[4:]


def test_without_validation_images_lightning_skips_validation() -> None:
    module = Noting()
    trainer().fit(module, data_of())
    assert len(module.seen) == 2
    assert module.validated == []
    with pytest.raises(UserError, match="several has no validation images"):
        trainer().validate(module, data_of(), verbose=False)


def test_lightning_can_overfit_a_batch() -> None:
    module = Noting()
    with pytest.warns(UserWarning, match="overfit"):
        trainer(max_epochs=2, overfit_batches=1).fit(module, data_of())
    first, second = module.seen
    assert first[1:] == second[1:] == ([0], [100, 101, 102, 103])


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_fitting_is_all_it_is_for(stage: str) -> None:
    message = f"^SourceData is for fit: to {stage}, use BenchmarkData or DemoData$"
    with pytest.raises(UserError, match=message):
        getattr(trainer(), stage)(Noting(), data_of())
