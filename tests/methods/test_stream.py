"""A method with a state: the example, whatever the batches, and what it cannot run with."""

import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

import lorattt
from conftest import CPU, Cli
from lorattt import demo
from lorattt.clip.load import ClipSpec
from lorattt.data.datamodule import EpisodeData
from lorattt.data.demo import DemoImages
from lorattt.errors import UserError
from lorattt.methods.batch import EpisodeBatch, MicroBatcher
from lorattt.methods.mean_of_views import MeanOfViews
from lorattt.methods.several import Several
from lorattt.methods.shared_views import SharedViews
from lorattt.methods.stream import State, StreamMethod
from lorattt.views.crops import ViewSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP = ClipSpec("lorattt-demo", "demo")
NAMES = ["red circle", "blue square", "green star", "a cross"]
N = 7


@pytest.fixture(scope="module")
def example() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import my_stream
    finally:
        sys.path.remove(str(EXAMPLES))
    return my_stream.ClassMeans


@pytest.fixture
def method(example: Any) -> StreamMethod:
    made: StreamMethod = example(clip=CLIP, views=ViewSpec(number=2, scale=(0.5, 1.0)), weight=1.0)
    made.eval().use_classes(NAMES)
    return made


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randint(0, 256, (N, 2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _batch(pixels: Tensor, first: int, end: int) -> EpisodeBatch:
    index = torch.arange(first, end)
    return {
        "views": pixels[first:end],
        "label": index % 4,
        "index": index,
        "path": list("abcdefg"[first:end]),
        "skipped": [],
    }


def _after(method: Any, pixels: Tensor, *borders: int) -> Tensor:
    parts = [_batch(pixels, *part) for part in pairwise(borders)]
    return torch.cat([method.test_step(part, 0)["after"] for part in parts])


def _loop(method: Any, pixels: Tensor) -> Tensor:
    """Plain Python, image by image."""
    seen: dict[int, list[Tensor]] = {}
    rows = []
    for feature in method.clip.image_features(pixels[:, 0]):
        means = torch.stack([torch.stack(seen[k]).mean(0) if k in seen else 0 * feature for k in range(len(NAMES))])
        rows.append(method.clip.logit_scale * F.normalize(method.text + method.weight * means, dim=-1) @ feature)
        seen.setdefault(int(rows[-1].argmax()), []).append(feature)
    return torch.stack(rows)


def test_the_example_is_its_loop_for_any_batches(method: Any, pixels: Tensor) -> None:
    expected = _loop(method, pixels)
    zero_shot = method.clip.logit_scale * method.clip.image_features(pixels[:, 0]) @ method.text.T
    assert (expected - zero_shot).abs().max() > 0.1
    for borders in ((0, N), (0, 1, 2, 3, 4, 5, 6, N), (0, 4, N)):
        method.use_classes(NAMES)
        torch.testing.assert_close(_after(method, pixels, *borders), expected, rtol=0, atol=1e-3)
        assert (method.last, float(method.state["counts"].sum())) == (N - 1, N)


def test_parts_of_a_batch_that_are_done_again_count_once(
    method: Any, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another method, after this one, was short of memory."""
    expected = _after(method, pixels, 0, N)
    several = Several(
        methods=["mean_of_views"], clip=CLIP, views=ViewSpec(number=2), options={"mean_of_views": {"selection": 1.0}}
    )
    several.members = nn.ModuleDict({"class_means": method, **several.members})
    several.eval().use_classes(NAMES)
    whole, sizes = MeanOfViews.classify, []

    def small(self: MeanOfViews, views: SharedViews) -> Any:
        sizes.append(len(views))
        if len(views) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, views)

    monkeypatch.setattr(MeanOfViews, "classify", small)
    found = MicroBatcher().classify(_batch(pixels, 0, N), several.predictions)
    assert sizes[:2] == [7, 3]
    torch.testing.assert_close(found["class_means"]["after"], expected, rtol=0, atol=1e-3)


def test_a_restored_state_continues(method: Any, example: Any, pixels: Tensor) -> None:
    expected = _after(method, pixels, 0, N)
    method.use_classes(NAMES)
    _after(method, pixels, 0, 3)
    saved = {name: value for name, value in method.state_dict().items() if name == "_extra_state"}
    other = example(clip=CLIP, views=method.views, weight=1.0).eval()
    other.load_state_dict(saved, strict=False)
    other.use_classes(NAMES)
    torch.testing.assert_close(_after(other, pixels, 3, N), expected[3:], rtol=0, atol=1e-3)
    other.use_classes(NAMES)
    assert other.last == -1, "a new run begins anew"


def test_an_image_that_is_not_finite_falls_back_and_leaves_no_trace(method: Any, pixels: Tensor) -> None:
    views = method.encode_views(_batch(pixels, 0, N))
    views.features[2] = float("nan")
    _, after, fallback = method.classify(views)
    assert fallback.tolist() == [number == 2 for number in range(N)]
    method.advance()
    assert float(method.state["counts"].sum()) == N - 1
    assert after[3:].isfinite().all()


def test_images_out_of_order(method: Any, pixels: Tensor) -> None:
    _after(method, pixels, 0, 3)
    with pytest.raises(UserError, match=r"^ClassMeans needs the images in the order of their numbers, and 2 follows 2"):
        _after(method, pixels, 2, N)


def test_the_python_call(method: Any) -> None:
    images = [demo.draw(number, domain="contrast", severity=3, split="test")[0] for number in range(5)]
    one, other = (lorattt.classify(images, NAMES, method=method, batch_size=size) for size in (1, 4))
    for first, second in zip(one, other, strict=True):
        assert dict(first.after) == pytest.approx(dict(second.after), abs=1e-4)


def test_what_it_cannot_run_with(method: Any) -> None:
    for trainer, message in (
        (SimpleNamespace(world_size=2, callbacks=[]), "^ClassMeans has a state .* use one device, trainer.devices 1$"),
        (SimpleNamespace(world_size=1, callbacks=[SimpleNamespace(resumed=3)]), "^run.folder holds images .* is gone"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            method.check_run(trainer)
        assert "\n" not in str(caught.value)


class _Resumed(Callback):
    resumed = 3


def _trainer(*callbacks: Callback) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu",
        devices=1,
        inference_mode=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
        **quiet,
    )  # type: ignore[arg-type]


def _data(images: int | None = None) -> EpisodeData:
    return EpisodeData(DemoImages("noise", 3, 6, "test"), batch_size=4, workers=0, limit=images)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_run_that_goes_on_equals_one_go(example: Any) -> None:
    first, second = (example(clip=CLIP, weight=1.0) for _ in range(2))
    _trainer().test(first, datamodule=_data(), verbose=False)
    data = _data()
    data.indices = data.indices[:4]
    _trainer().test(second, datamodule=data, verbose=False)
    saved = second.get_extra_state()
    third = example(clip=CLIP, weight=1.0)
    left = _data()
    left.indices = left.indices[4:]
    with pytest.raises(UserError, match="^run.folder holds images of an earlier attempt"):
        _trainer(_Resumed()).test(third, datamodule=left, verbose=False)
    third.set_extra_state(saved)
    _trainer(_Resumed()).test(third, datamodule=left, verbose=False)
    for name, value in first.state.items():
        torch.testing.assert_close(third.state[name], value, rtol=0, atol=1e-4)


def test_an_interrupted_run_is_refused_in_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    model = ["--model", "my_stream.ClassMeans", "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    data = ["--data", "DemoData", "--data.images", "6", "--data.batch_size", "2", "--data.workers", "0"]
    args = ["test", *model, *data, "--run.folder", "here", *CPU]
    import my_stream

    whole = my_stream.ClassMeans.step

    def interrupted(self: Any, state: State, views: SharedViews) -> Any:
        if int(views.index) > 3:
            raise UserError("stopped")
        return whole(self, state, views)

    monkeypatch.setattr(my_stream.ClassMeans, "step", interrupted)
    assert cli(*args).code == 2
    monkeypatch.setattr(my_stream.ClassMeans, "step", whole)
    again = cli(*args)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "run.folder holds images of an earlier attempt, and the state of ClassMeans after them is gone" in again.err
    assert cli(*args, "--run.folder", "other").code == 0
