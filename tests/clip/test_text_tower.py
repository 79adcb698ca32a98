"""The text tower from embedded tokens against open_clip's encode_text, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from lorattt.clip import text_tower
from lorattt.clip.model import Clip
from lorattt.clip.text import encode_text
from lorattt.clip.text_tower import TextTower
from lorattt.errors import UserError
from tiny_models import TEXT, VISION, tiny_clip

TEXTS = ["a photo of a cat.", "a photo of a dog.", "a photo of a fox."]  # equal numbers of tokens
UNEVEN = ["a cat.", "a photo of a rather unusual bird.", "two dogs.", "x"]


def _model(text: dict[str, Any], *, custom: bool = False, quick: bool = False) -> Any:
    torch.manual_seed(0)
    make = open_clip.model.CustomTextCLIP if custom else open_clip.CLIP
    model = make(24, VISION, {**TEXT, **text}, quick_gelu=quick)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    return tiny_clip()


@pytest.fixture(scope="module")
def tower(model: open_clip.CLIP) -> TextTower:
    return TextTower(model, "tiny")


@pytest.fixture(scope="module")
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def _tokens(tokenizer: open_clip.SimpleTokenizer, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Whole sequences, cut ones, and where their ends are."""
    tokens = tokenizer(texts)
    ends = tokens.argmax(dim=-1)
    return tokens, tokens[:, : int(ends.max()) + 1], ends


KINDS: dict[str, Callable[[], Any]] = {
    "quick GELU": tiny_clip,
    "GELU": lambda: _model({}),
    "layer scale": lambda: _model({"ls_init_value": 0.3}, quick=True),
    "linear projection": lambda: _model({"proj_bias": True}, custom=True),
    "one block": lambda: _model({"layers": 1}),
    "custom": lambda: _model({}, custom=True, quick=True),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_shared_prefix_changes_nothing(kind: str, tokenizer: open_clip.SimpleTokenizer) -> None:
    model = KINDS[kind]()
    tower = TextTower(model, kind)
    whole, cut, _ = _tokens(tokenizer, TEXTS)
    expected = model.encode_text(whole)
    embedded = tower.embed(cut)
    for shared in (1, 3, 5):
        ours = tower.encode(tower.begin(embedded[:1, :shared]), embedded[None, :, shared:])
        assert ours.shape == (1, 3, 24)
        torch.testing.assert_close(ours[0], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(tower.encode((), embedded[None])[0], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(encode_text(model, whole), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_what_stands_behind_the_ends_is_read_by_nothing(
    model: open_clip.CLIP, tower: TextTower, tokenizer: open_clip.SimpleTokenizer, chunk: int | None
) -> None:
    whole, cut, ends = _tokens(tokenizer, UNEVEN)
    embedded = tower.embed(cut)
    for row, end in zip(embedded, ends, strict=True):
        row[int(end) + 1 :] = 1e3
    ours = tower.encode(tower.begin(embedded[:1, :1]), embedded[None, :, 1:], ends=ends - 1, chunk=chunk)
    torch.testing.assert_close(ours[0], model.encode_text(whole), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("prefixes", "rests"), [(3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("chunk", [None, 2])
def test_each_episode_is_what_it_would_be_alone(tower: TextTower, prefixes: int, rests: int, chunk: int | None) -> None:
    torch.manual_seed(2)
    prefix = torch.randn(prefixes, 4, 32, dtype=torch.float64)
    rest = torch.randn(rests, 5, 3, 32, dtype=torch.float64)
    together = tower.encode(tower.begin(prefix), rest, chunk=chunk)
    assert together.shape == (3, 5, 24)
    for number in range(3):
        one = slice(number, number + 1)
        own = tower.begin(prefix[one] if prefixes > 1 else prefix)
        alone = tower.encode(own, rest[one] if rests > 1 else rest, checkpointed=False)
        torch.testing.assert_close(together[one], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"chunk": 2, "checkpointed": True}])
def test_first_and_second_derivatives(options: dict[str, Any]) -> None:
    """Gradient matching takes the gradient of a gradient."""
    torch.manual_seed(3)
    text = {"context_length": 9, "vocab_size": 8, "width": 4, "heads": 2, "layers": 2}
    model = open_clip.CLIP(3, {**VISION, "layers": 1}, text, quick_gelu=True).double().requires_grad_(False)
    tower = TextTower(model, "tiny")
    prefix = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    rest = torch.randn(1, 3, 2, 4, dtype=torch.float64, requires_grad=True)

    def run(prefix: Tensor, rest: Tensor) -> Tensor:
        return tower.encode(tower.begin(prefix), rest, **options)

    assert torch.autograd.gradcheck(run, (prefix, rest))
    assert torch.autograd.gradgradcheck(run, (prefix, rest), fast_mode=True)


def test_too_little_memory_means_chunks_that_are_computed_again(
    tower: TextTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = text_tower.checkpoint

    def counting(run: Any, part: Tensor, *rest: Any, **options: Any) -> Any:
        calls.append(part.shape[1])
        return real(run, part, *rest, **options)

    monkeypatch.setattr(text_tower, "checkpoint", counting)
    torch.manual_seed(4)
    rest = torch.randn(1, 6, 3, 32).double()

    def run(bytes_left: int) -> tuple[Tensor, Tensor, int]:
        """Features, gradient, and how much the graph keeps."""
        monkeypatch.setattr(text_tower, "available_bytes", lambda device: bytes_left)
        kept: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        prefix = torch.linspace(-1, 1, 2 * 4 * 32).double().view(2, 4, 32).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            features = tower.encode(tower.begin(prefix), rest)
        (gradient,) = torch.autograd.grad(features.square().sum(), prefix)
        return features.detach(), gradient, sum(kept.values())

    features, gradient, kept = run(2**40)
    assert calls == []
    needed = 2 * 6 * 3 * 32 * 2 * text_tower._KEPT_WIDTHS * 8  # E K S d, blocks, widths, bytes
    assert needed < 2**40
    for bytes_left, parts in ((2 * needed, []), (2 * needed - 2, [5, 1]), (needed, [3, 3]), (0, [1] * 6)):
        calls.clear()
        again, slope, less = run(bytes_left)
        assert calls == parts
        torch.testing.assert_close(again, features, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-10)
        assert less < 0.6 * kept if parts else less == kept
    calls.clear()
    with torch.no_grad():
        monkeypatch.setattr(text_tower, "available_bytes", lambda device: 0)
        tower.encode(tower.begin(torch.zeros(1, 1, 32)), rest)
    assert calls == [], "without a graph there is nothing to compute again"


def test_the_estimate_of_memory_covers_what_the_graph_keeps(tower: TextTower) -> None:
    weights = {parameter.untyped_storage().data_ptr() for parameter in tower._parts.parameters()}
    for classes, length in ((40, 4), (10, 30)):
        kept: dict[int, int] = {}
        held = []

        def pack(x: Tensor, kept: dict[int, int] = kept, held: list[Tensor] = held) -> Tensor:
            if x.untyped_storage().data_ptr() not in weights:
                kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            held.append(x)  # so that no address is used twice
            return x

        rest = torch.randn(1, classes, length, 32).double().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            tower.encode(tower.begin(torch.zeros(1, 1, 32)), rest, checkpointed=False)
        estimate = classes * length * 32 * 2 * text_tower._KEPT_WIDTHS * 8
        assert 0.4 * estimate < sum(kept.values()) < 1.5 * estimate  # heads of 16: scores weigh more than in CLIP


def test_one_graph_serves_several_backward_passes(tower: TextTower) -> None:
    torch.manual_seed(5)
    prefix, rest = torch.randn(1, 3, 32, dtype=torch.float64, requires_grad=True), torch.randn(1, 4, 3, 32).double()
    factors = torch.randn(3, 1, 4, 24, dtype=torch.float64)
    slopes = []
    for checkpointed in (False, True):
        features = tower.encode(tower.begin(prefix), rest, chunk=3, checkpointed=checkpointed)
        again = [torch.autograd.grad(features, prefix, factor, retain_graph=True)[0] for factor in factors]
        slopes.append(torch.stack(again))
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-10, atol=1e-10)


def test_half_precision_gives_float32() -> None:
    model = tiny_clip().float()
    rest, prefix = torch.randn(2, 4, 3, 32), torch.randn(2, 2, 32, requires_grad=True)
    wide = TextTower(model, "tiny").encode(TextTower(model, "tiny").begin(prefix), rest)
    assert wide.dtype == torch.float32
    open_clip.convert_weights_to_lp(model, dtype=torch.bfloat16)
    tower = TextTower(model, "tiny")
    low = tower.encode(tower.begin(prefix), rest)
    assert low.dtype == torch.float32
    assert tower.embed(torch.zeros(1, 1, dtype=torch.int64)).dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(low, wide, dim=-1).min() > 0.99
    low.sum().backward()
    assert prefix.grad is not None
    assert prefix.grad.isfinite().all()


def test_it_follows_the_model(tokenizer: open_clip.SimpleTokenizer) -> None:
    clip = Clip(tiny_clip(), tokenizer, "tiny", {"mean": (0, 0, 0), "std": (1, 1, 1)})
    tower = clip.text_tower
    assert (tower.width, tower.length, tower.dtype, tower.device.type) == (32, 77, torch.float64, "cpu")
    clip.float()
    assert tower.dtype == torch.float32
    clip.to("meta")
    assert tower.device.type == "meta"


@pytest.mark.parametrize(
    ("text", "custom"), [({"no_causal_mask": True}, True), ({"pool_type": "last"}, True), ({"embed_cls": True}, True)]
)
def test_other_towers_are_refused(text: dict[str, Any], custom: bool) -> None:
    with pytest.raises(UserError, match="model odd has no causal text tower"):
        TextTower(_model(text, custom=custom), "odd")


def test_available_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert text_tower.available_bytes(cpu) > 0
    info, limit, used = (tmp_path / name for name in ("meminfo", "max", "current"))
    for name, path in (("_MEMINFO", info), ("_LIMIT", limit), ("_USED", used)):
        monkeypatch.setattr(text_tower, name, path)
    info.write_text("MemTotal:  9000 kB\nMemAvailable:    7000 kB\n")
    assert text_tower.available_bytes(cpu) == 7000 * 1024
    limit.write_text("max\n")
    used.write_text("1000\n")
    assert text_tower.available_bytes(cpu) == 7000 * 1024
    limit.write_text("5000\n")
    assert text_tower.available_bytes(cpu) == 4000
    limit.unlink()
    info.unlink()
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.__getitem__, raising=False)
    assert text_tower.available_bytes(cpu) == 10 * 4096 // 2
    monkeypatch.delattr("os.sysconf")
    assert text_tower.available_bytes(cpu) == 4 * 2**30
