"""The Python call in a process whose torch is set otherwise, on devices, and where memory does not suffice."""

from typing import Any

import pytest
import torch

from lorattt import demo
from lorattt.api import classify
from lorattt.clip.load import ClipSpec
from lorattt.errors import UserError
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.mean_of_views import MeanOfViews
from lorattt.methods.shared_views import SharedViews
from lorattt.methods.zero_shot import ZeroShot
from lorattt.views.crops import ViewSpec
from lorattt.views.device import DeviceViews, Normalization, ViewPlan
from test_torch_state import STATES, default_device

MODEL = "lorattt-demo:demo"
NAMES = ["red circle", "blue square", "green star", "a cross"]
VIEWS = {"number": 10}
IMAGES = [demo.draw(number, domain="contrast", severity=3, split="test")[0] for number in range(4)]


@pytest.fixture(scope="module")
def zero_shot() -> ZeroShot:
    return ZeroShot(clip=ClipSpec("lorattt-demo", "demo"))


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", ["lora_ttt", "zero_shot"])
def test_what_other_code_has_set_in_torch_changes_nothing(method: str, state: str) -> None:
    options = {} if method == "zero_shot" else {"views": VIEWS}
    expected = classify(IMAGES[:1], NAMES, method=method, model=MODEL, **options)
    with STATES[state]():
        assert classify(IMAGES[:1], NAMES, method=method, model=MODEL, **options) == expected


def test_a_default_device_that_was_set_and_unset() -> None:
    expected = classify(IMAGES[:1], NAMES, method="zero_shot", model=MODEL)
    with default_device("meta"):
        torch.set_default_device(None)
        assert classify(IMAGES[:1], NAMES, method="zero_shot", model=MODEL) == expected


def test_deterministic_algorithms_and_training_mode(zero_shot: ZeroShot) -> None:
    expected = classify(IMAGES[:1], NAMES, method=zero_shot)
    torch.use_deterministic_algorithms(True)
    try:
        assert classify(IMAGES[:1], NAMES, method=zero_shot.train()) == expected
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(module.training for module in zero_shot.modules())


def test_a_method_that_was_made_in_a_state_it_cannot_work_in() -> None:
    def make() -> LoRATTT:
        return LoRATTT(clip=ClipSpec("lorattt-demo", "demo"), views=ViewSpec(number=10))

    with torch.inference_mode():
        within = make()
    with pytest.raises(UserError, match=r"made within torch\.inference_mode, and needs gradients: make it outside"):
        classify(IMAGES[:1], NAMES, method=within)
    with STATES["float64"]():
        wide = make()
    for method in (wide, make().double()):
        with pytest.raises(UserError, match="its model is in float64"):
            classify(IMAGES[:1], NAMES, method=method)
    for device in (None, "cpu"):
        with pytest.raises(UserError, match="device meta holds no numbers"):
            classify(IMAGES[:1], NAMES, method=make().to("meta"), device=device)


@pytest.mark.parametrize("workers", [0, 1])
def test_views_are_made_where_the_command_line_makes_them(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    render = DeviceViews.render

    def spied(self: DeviceViews, images: Any, plan: ViewPlan, norm: Normalization | None = None) -> torch.Tensor:
        made.append(len(images))
        return render(self, images, plan, norm)

    monkeypatch.setattr(DeviceViews, "render", spied)
    found = []
    for place in ("workers", "auto", "device"):
        views: Any = {**VIEWS, "place": place}
        found.append(classify(IMAGES, NAMES, method="mta", model=MODEL, views=views, batch_size=3, workers=workers))
        assert made == ([3, 1] if place == "device" else [])
    for workers_made, device_made in zip(found[0], found[2], strict=True):
        assert dict(workers_made.after) == pytest.approx(dict(device_made.after), abs=1e-5)
    assert found[1] == found[0]
    method = ZeroShot(clip=ClipSpec("lorattt-demo", "demo"))
    assert method.makes_views_on(torch.device("cuda", 1))
    assert not method.makes_views_on(torch.device("cpu"))


def test_what_does_not_fit_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = classify(IMAGES, NAMES, method="mean_of_views", model=MODEL, views=VIEWS)
    sizes: list[int] = []
    most = 1
    original = MeanOfViews.classify

    def small(self: MeanOfViews, views: SharedViews) -> Any:
        sizes.append(len(views))
        if len(views) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return original(self, views)

    monkeypatch.setattr(MeanOfViews, "classify", small)
    found = classify(IMAGES, NAMES, method="mean_of_views", model=MODEL, views=VIEWS)
    assert sizes == [4, 2, 1, 1, 1, 1]
    for one, other in zip(found, expected, strict=True):
        assert dict(one.after) == pytest.approx(dict(other.after), abs=1e-5)
    most = 0
    with pytest.raises(UserError, match="^memory does not suffice for one image at a time: use a smaller views"):
        classify(IMAGES, NAMES, method="mean_of_views", model=MODEL, views=VIEWS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Killed. ",
            r"^DataLoader worker \(pid 7\) is killed .*workers=0",
        ),
        ("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory", "^memory does not suffice"),
    ],
)
def test_what_the_machine_lacks_is_one_line(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch, zero_shot: ZeroShot
) -> None:
    def fail(self: ZeroShot, views: SharedViews) -> Any:
        raise RuntimeError(text)

    monkeypatch.setattr(ZeroShot, "classify", fail)
    with pytest.raises(UserError, match=expected):
        classify(IMAGES[:1], NAMES, method=zero_shot)


def test_an_operation_that_is_not_deterministic(monkeypatch: pytest.MonkeyPatch, zero_shot: ZeroShot) -> None:
    def fail(self: ZeroShot, views: SharedViews) -> Any:
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set\nmore")

    monkeypatch.setattr(ZeroShot, "classify", fail)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UserError, match=r"^torch\.use_deterministic_algorithms is set, .* but you set$"):
            classify(IMAGES[:1], NAMES, method=zero_shot)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_defect_is_no_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch, zero_shot: ZeroShot) -> None:
    def fail(self: ZeroShot, views: SharedViews) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(ZeroShot, "classify", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        classify(IMAGES[:1], NAMES, method=zero_shot)
