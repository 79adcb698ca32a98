"""Batches in parts, and batches of images whose views the method makes itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lorattt.clip.load import ClipSpec
from lorattt.data.demo import DemoImages
from lorattt.data.source import EpisodeDataset, collate_episodes
from lorattt.methods import batch as module
from lorattt.methods.base import Method
from lorattt.methods.batch import EpisodeBatch, MicroBatcher, Predictions, part_of
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.several import Several
from lorattt.methods.tlla import TLLA
from lorattt.methods.zero_shot import ZeroShot
from lorattt.views.crops import ViewSpec
from lorattt.views.device import DeviceViews

CLIP = ClipSpec("lorattt-demo", "demo")
VIEWS = ViewSpec(number=12, scale=(0.5, 1.0))


def batch_of(method: Method, indices: list[int], *, on_device: bool) -> EpisodeBatch:
    images = DemoImages("noise", 3, 8, "test")
    method.use_classes(images.class_names)
    make = method.make_views()
    planner = DeviceViews(make).plan if on_device else None
    dataset = EpisodeDataset(images, indices, None if on_device else make, planner)
    batch: Any = collate_episodes([dataset[position] for position in range(len(indices))])
    return batch  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "method",
    [
        ZeroShot(clip=CLIP),
        TLLA(clip=CLIP, views=VIEWS, views_kept=3),
        LoRATTT(clip=CLIP, views=ViewSpec(number=12, augmix=True)),
    ],
    ids=lambda method: method.name,
)
def test_views_made_where_the_model_is_are_those_of_the_workers(method: Method) -> None:
    sent, made = (batch_of(method, [0, 1, 2], on_device=on_device) for on_device in (False, True))
    assert "views" not in made
    assert method.render(made).equal(method.clip.normalise(sent["views"]))
    for one, other in zip(
        method.classify(method.encode_views(sent)), method.classify(method.encode_views(made)), strict=True
    ):
        assert torch.allclose(one.float(), other.float(), atol=1e-5)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_part_that_does_not_fit_is_halved_and_nothing_else_is_done_again(on_device: bool) -> None:
    method = Several(methods=["zero_shot", "tlla", "lora_ttt"], clip=CLIP, views=VIEWS)
    batch = batch_of(method, list(range(7)), on_device=on_device)
    whole = method.predictions(batch)
    seen: list[list[int]] = []

    def small(part: EpisodeBatch) -> Predictions:
        seen.append(part["index"].tolist())
        if len(part["index"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return method.predictions(part)

    parts = MicroBatcher()
    found = parts.classify(batch, small)
    assert seen == [list(range(7)), [0, 1, 2], [0], [1], [2], [3], [4], [5], [6]]
    assert (parts.limit, parts.halved) == (1, 2)
    assert list(found) == list(whole)
    for name, answer in whole.items():
        for key, expected in answer.items():
            assert torch.allclose(found[name][key].float(), expected.float(), atol=1e-4), (name, key)  # type: ignore
    seen.clear()
    parts.classify(batch, small)
    assert [len(part) for part in seen] == [1] * 7, "what does not fit is not tried again"


def test_an_episode_that_does_not_fit_alone_is_an_error() -> None:
    def never(part: EpisodeBatch) -> Predictions:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        MicroBatcher().classify(numbered(5), never)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    calls = []

    def broken(part: EpisodeBatch) -> Predictions:
        calls.append(part)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatcher().classify(numbered(5), broken)
    assert len(calls) == 1


class Gpu:
    """A device with room for ``room`` bytes, on which an episode takes ``each``, after a peak of something else."""

    def __init__(self, room: int, each: int, earlier: int) -> None:
        self.room, self.each, self.peak = room, each, earlier

    def fitting(self, device: torch.device, used: int, size: int) -> int:
        return max(1, int(0.8 * self.room * size / self.peak))

    def answers(self, part: EpisodeBatch) -> Predictions:
        size = len(part["index"])
        if size * self.each > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.peak = max(self.peak, size * self.each)
        logits = part["index"].float().unsqueeze(1)
        return {"": {"before": logits, "after": logits, "fallback": part["index"] < 0}}


@pytest.mark.parametrize("earlier", [0, 300])
def test_parts_grow_to_what_fits_on_a_gpu(monkeypatch: pytest.MonkeyPatch, earlier: int) -> None:
    gpu = Gpu(room=1000, each=10, earlier=earlier)
    monkeypatch.setattr(module, "_fitting", gpu.fitting)
    monkeypatch.setattr(module, "_allocated", lambda device: 0)
    sizes: list[int] = []

    def answers(part: EpisodeBatch) -> Predictions:
        sizes.append(len(part["index"]))
        return gpu.answers(part)

    parts, batch = MicroBatcher(), numbered(500)
    batch["index"] = batch["index"].as_subclass(Elsewhere)
    found = parts.classify(batch, answers)[""]
    assert found["after"].squeeze(1).tolist() == list(range(500))
    assert sizes[0] == 1
    assert parts.limit == 80
    assert max(sizes) == 80
    assert parts.halved == 0


class Elsewhere(Tensor):
    """A tensor that says it is on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def numbered(count: int) -> EpisodeBatch:
    index = torch.arange(count)
    return {"index": index, "label": index, "path": [str(number) for number in range(count)], "skipped": []}


def test_parts_of_a_batch_have_all_but_what_was_skipped() -> None:
    batch = numbered(5)
    batch["skipped"] = [{"index": 9, "path": "x", "reason": "y"}]
    batch["views"] = torch.arange(5).view(5, 1, 1, 1, 1)
    part = part_of(batch, 1, 3)
    assert part["path"] == ["1", "2"]
    assert part["index"].tolist() == part["label"].tolist() == part["views"].flatten().tolist() == [1, 2]
    assert part["skipped"] == [], "these are told once, with the whole batch"
