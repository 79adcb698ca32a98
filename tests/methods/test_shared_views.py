"""Views are encoded once, for all that methods need of them, and as open_clip encodes them."""

from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.adapters.lora import LoRASpec, LoRATuner
from lorattt.clip.model import Clip
from lorattt.clip.vision import VisionTower
from lorattt.episodes.optim import OptimiserSpec
from lorattt.errors import UserError
from lorattt.methods.lora_ttt_engine import LoRATTTEngine, LossSpec
from lorattt.methods.shared_views import Needs, SharedViews, encode_views, views_at_once
from tiny_models import tiny_clip

E, V = 3, 5
PREPROCESS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


def _clip(**vision: object) -> Clip:
    return Clip(tiny_clip(**vision).float(), open_clip.get_tokenizer("ViT-B-32"), "tiny", PREPROCESS).eval()


@pytest.fixture(scope="module", params=["vit", "resnet"])
def clip(request: pytest.FixtureRequest) -> Clip:
    if request.param == "vit":
        return _clip()
    return _clip(layers=[1, 1, 1, 1], patch_size=None, width=8, head_width=8)


@pytest.fixture(scope="module")
def vit() -> Clip:
    return _clip()


@pytest.fixture(scope="module")
def views() -> Tensor:
    return torch.randint(0, 256, (E, V, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many views each call of the ViT's first layer took."""
    calls: list[int] = []
    whole = VisionTower.embed

    def counted(self: VisionTower, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        calls.append(len(pixels))
        return whole(self, pixels, kept)

    monkeypatch.setattr(VisionTower, "embed", counted)
    return calls


def _encoded(clip: Clip, views: Tensor, *trunks: int, **needs: Any) -> SharedViews:
    return encode_views(clip, views, torch.arange(len(views)), 0, Needs(trunks=frozenset(trunks), **needs))


def _expected(clip: Clip, views: Tensor) -> Tensor:
    """View by view through open_clip's own tower."""
    mean, std = (torch.tensor(PREPROCESS[key]).view(3, 1, 1) for key in ("mean", "std"))
    rows = []
    for image in views:
        pixels = torch.stack([(view.float() / 255 - mean) / std for view in image])
        rows.append(torch.cat([F.normalize(clip.model.visual(x[None]), dim=-1) for x in pixels]))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_features_are_those_of_open_clip(clip: Clip, views: Tensor, chunk: int | None) -> None:
    shared = _encoded(clip, views, chunk=chunk)
    expected = _expected(clip, views)
    assert shared.features.shape == (E, V, 24)
    torch.testing.assert_close(shared.features, expected, rtol=0, atol=1e-5)
    assert not shared.features.requires_grad
    assert (len(shared), shared.number) == (E, V)
    assert (shared.pixels, shared.tokens, dict(shared.trunks)) == (None, None, {}), "only what is needed is kept"


def test_the_plain_view_alone_is_encoded_alone(vit: Clip, views: Tensor, embedded: list[int]) -> None:
    shared = _encoded(vit, views, all_views=False)
    assert embedded == [E]
    assert shared.features.shape == (E, 1, 24)
    torch.testing.assert_close(shared.plain_features, _expected(vit, views)[:, 0], rtol=0, atol=1e-5)


def test_all_trunks_come_from_one_pass(vit: Clip, views: Tensor, embedded: list[int]) -> None:
    shared = _encoded(vit, views, 2, 3, chunk=4)
    assert embedded == [4, 4, 4, 3]
    assert shared.pixels is not None
    for first in (3, 2):
        tokens = vit.vit.blocks(vit.vit.embed(shared.pixels.flatten(0, 1)), 0, first).unflatten(0, (E, V))
        torch.testing.assert_close(shared.trunks[first], tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(shared.features, _expected(vit, views), rtol=0, atol=1e-5)


def test_needs_are_joined() -> None:
    plain, all_views = Needs(all_views=False), Needs()
    assert Needs.join([plain, plain]) == plain
    assert Needs.join([plain, all_views]) == all_views
    first, second = Needs(trunks=frozenset([1]), chunk=8), Needs(trunks=frozenset([1, 3]), chunk=4)
    assert Needs.join([first, plain, second]) == Needs(True, frozenset([1, 3]), 4)


def test_one_image_alone(vit: Clip, views: Tensor) -> None:
    shared = _encoded(vit, views, 2)
    one = shared.image(1)
    assert (len(one), one.index.tolist()) == (1, [1])
    assert shared.pixels is not None
    assert one.pixels is not None
    for part, whole in (
        (one.features, shared.features),
        (one.pixels, shared.pixels),
        (one.trunks[2], shared.trunks[2]),
    ):
        assert torch.equal(part, whole[1:2])
    assert _encoded(vit, views).image(0).trunks == {}


def test_what_is_encoded_is_what_the_engine_encodes(vit: Clip, views: Tensor) -> None:
    tuner = LoRATuner(vit.vit, LoRASpec(rank=2), seed=0)
    engine = LoRATTTEngine(vit.vit, tuner, loss=LossSpec(selection=0.5), optimiser=OptimiserSpec())
    ours, (trunk, tokens, features) = _encoded(vit, views, engine.first), engine.encode(vit.normalise(views))
    assert ours.tokens is not None
    assert torch.equal(ours.trunks[engine.first], trunk)
    assert torch.equal(ours.tokens, tokens)
    assert torch.equal(ours.features, features)


def test_low_precision_gives_float32_features(views: Tensor) -> None:
    full = _clip()
    half = Clip(full.model.bfloat16(), full.tokenizer, "tiny", PREPROCESS)
    shared = _encoded(half, views, 2)
    assert shared.pixels is not None
    assert shared.pixels.dtype == shared.trunks[2].dtype == torch.bfloat16
    assert shared.features.dtype == _encoded(half, views, all_views=False).features.dtype == torch.float32
    torch.testing.assert_close(shared.features.norm(dim=-1), torch.ones(E, V), rtol=0, atol=1e-5)
    torch.testing.assert_close(shared.features, _expected(_clip(), views), rtol=0, atol=0.1)


def test_a_tower_without_tokens_has_no_trunk(views: Tensor) -> None:
    resnet = _clip(layers=[1, 1, 1, 1], patch_size=None, width=8, head_width=8)
    with pytest.raises(UserError, match="no class-token ViT"):
        _encoded(resnet, views, 1)


def test_keys_come_from_seed_and_number(vit: Clip, views: Tensor) -> None:
    index = torch.tensor([7, 0, 3])
    keys = encode_views(vit, views, index, 5).keys
    assert torch.equal(encode_views(vit, views[:1], index[:1], 5).keys, keys[:1])
    assert not torch.equal(encode_views(vit, views, index, 6).keys, keys)


@pytest.mark.parametrize("trunks", [(), (1,), (0, 1)])
def test_a_compiled_pass_gives_the_same_in_parts_of_one_shape(
    views: Tensor, trunks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        shapes.append(next(tuple(each.shape) for each in inputs if each.dim() == 4 and each.shape[-1] == 32))
        return graph.forward

    monkeypatch.setattr("lorattt.clip.vision.BACKEND", backend)
    plain, compiled = _clip(), _clip()
    compiled.model.load_state_dict(plain.model.state_dict())
    compiled.vit.compile_passes()
    expected, found = (_encoded(clip, views, *trunks, chunk=4) for clip in (plain, compiled))
    assert torch.allclose(found.features, expected.features, atol=1e-5)
    for first in trunks:
        assert torch.allclose(found.trunks[first], expected.trunks[first], atol=1e-4)
    assert shapes == [(4, 3, 32, 32)], "15 views in parts of 4 are compiled once"


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, 4), (torch.bfloat16, 8), (torch.float64, 2)])
def test_views_at_once_on_a_cpu_follow_the_bytes_of_the_dtype(dtype: torch.dtype, expected: int) -> None:
    tower = _clip(image_size=224, patch_size=16, width=768, layers=1).vit
    tower.visual.to(dtype)
    assert views_at_once(tower, torch.device("cpu")) == expected
