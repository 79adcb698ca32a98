"""Class features from a context against the plain way: 77 embedded tokens through open_clip's own blocks."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lorattt.clip import text_tower
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError, quoted
from lorattt.prompts import class_prompts
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.files import Position
from tiny_models import VISION, tiny_clip, wrapped

GOLDEN = Path(__file__).parent.parent / "golden"
# One name is there twice, one has an underscore, some end in punctuation, and they are not sorted by length.
NAMES = [
    "a rather unusual bird, in several words",
    "t-shirt",
    "cat",
    "EuroSAT river",
    "St.",
    "dog_house",
    "Wow!",
    "cat",
]
NAMES += ["737-200", "U.S."]
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
POSITIONS: list[Position] = ["end", "middle", "front"]


def _plain(clip: Clip, context: Tensor, position: Position, names: list[str]) -> Tensor:
    """``(M, d)``, or ``(K, M, d)`` for contexts of the classes, to ``(K, D)``; the steps of CoOp's prompt learner."""
    model, tokenizer = clip.model, clip.tokenizer
    tokens = context.shape[-2]
    rows = []
    for label, name in enumerate(names):
        name = name.replace("_", " ")
        ids = tokenizer([" ".join(["X"] * tokens) + " " + name + "."])[0]
        embedded = model.token_embedding(ids)
        prefix, suffix = embedded[:1], embedded[1 + tokens :]
        own = context[label] if context.dim() == 3 else context
        words = len(tokenizer.encode(name))  # type: ignore[attr-defined]
        half = tokens // 2
        row = {
            "end": [prefix, own, suffix],
            "middle": [prefix, own[:half], suffix[:words], own[half:], suffix[words:]],
            "front": [prefix, suffix[:words], own, suffix[words:]],
        }[position]
        x = (torch.cat(row) + model.positional_embedding).unsqueeze(0)
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
        rows.append(F.normalize(x[0, ids.argmax()] @ model.text_projection, dim=-1))
    return torch.stack(rows)


def _context(episodes: int | None, classes: int | None, tokens: int) -> Tensor:
    shape = [size for size in (episodes, classes, tokens) if size is not None]
    return torch.randn(*shape, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("tokens", [1, 4, 5])
def test_features_and_gradients_are_the_plain_ones(
    clip: Clip, position: Position, tokens: int, specific: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ClassPrompts(clip, NAMES, position, tokens, class_specific=specific)
    context = _context(2, len(NAMES) if specific else None, tokens).requires_grad_()
    expected = torch.stack([_plain(clip, one, position, NAMES) for one in context])
    factor = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    (slope,) = torch.autograd.grad((expected * factor).sum(), context)
    for chunk, padding, room in ((None, 0, 2**40), (None, 10**6, 2**40), (3, 20, 2**40), (None, 128, 0)):
        monkeypatch.setattr(class_prompts, "_PASS_TOKENS", {"cpu": padding})
        monkeypatch.setattr(text_tower, "available_bytes", lambda device, room=room: room)
        ours = prompts.features(context, chunk=chunk)
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
        (gradient,) = torch.autograd.grad((ours * factor).sum(), context)
        torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(prompts.features(context[0]), expected[0], rtol=1e-10, atol=1e-10)


def test_lengths_share_passes_only_where_padding_is_cheap(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ClassPrompts(clip, ["cat"] * 50 + ["golden retriever"] * 2 + ["a very long name of a bird"], "end", 2)

    def shapes(episodes: int, padding: int) -> list[tuple[int, int]]:
        """Classes and tokens of each pass."""
        monkeypatch.setattr(class_prompts, "_PASS_TOKENS", {"cpu": padding})
        seen = []
        monkeypatch.setattr(
            type(prompts._tower),
            "encode",
            lambda self, begun, rest, **options: (
                seen.append(tuple(rest.shape[1:3])) or torch.zeros(1, rest.shape[1], 24)
            ),
        )
        prompts.features(torch.zeros(episodes, 2, 32))
        monkeypatch.undo()
        return seen

    # Lengths behind the context: 3 (50 classes), 4 (two), 9 (one).
    assert shapes(1, 0) == [(50, 3), (2, 4), (1, 9)]
    assert shapes(1, 10) == [(50, 3), (3, 9)]  # two classes by five tokens
    assert shapes(2, 10) == [(50, 3), (2, 4), (1, 9)]
    assert shapes(1, 50) == [(50, 3), (3, 9)]
    assert shapes(1, 1000) == [(53, 9)]


@pytest.mark.parametrize("specific", [False, True])
def test_an_episode_is_what_it_would_be_alone(clip: Clip, specific: bool) -> None:
    prompts = ClassPrompts(clip, NAMES, "middle", 4, class_specific=specific)
    context = _context(3, len(NAMES) if specific else None, 4)
    together = prompts.features(context)
    context[0] = 1e3
    again = prompts.features(context)
    torch.testing.assert_close(again[1:], together[1:], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prompts.features(context[2]), together[2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("words", ["a photo of a", "itap of the", "a centred satellite photo of"])
def test_a_context_of_words_is_the_text_of_the_words(clip: Clip, words: str) -> None:
    ids = clip.tokenizer.encode(words)  # type: ignore[attr-defined]
    context = clip.text_tower.embed(torch.tensor([ids]))[0]
    ours = ClassPrompts(clip, NAMES, "end", len(ids)).features(context)
    texts = clip.tokenizer([f"{words} {name.replace('_', ' ')}." for name in NAMES])
    torch.testing.assert_close(ours, F.normalize(clip.model.encode_text(texts), dim=-1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("file", ["tpt", "tpt_4steps", "tpt_front"])
def test_golden_class_features(file: str) -> None:
    """As the authors of TPT computed them."""
    path = GOLDEN / f"{file}.safetensors"
    with safe_open(path, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    tensors = load_file(path)
    text = {key: config[f"text_{key}"] for key in ("width", "heads", "layers")}
    vision = {"image_size": config["image_size"], "patch_size": config["patch_size"], "width": config["vision_width"]}
    vision |= {"layers": config["vision_layers"], "head_width": config["vision_width"] // config["vision_heads"]}
    model = open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"])
    weights = {key.removeprefix("clip."): value for key, value in tensors.items() if key.startswith("clip.")}
    model.load_state_dict(weights)
    clip = Clip(model.requires_grad_(False), open_clip.SimpleTokenizer(), file, PLAIN)
    prompts = ClassPrompts(clip, config["classes"], config["class_token_position"], 4)
    ours = prompts.features(tensors["ctx_init"])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, tensors["text_features_init"], rtol=0, atol=1e-5)


def test_dtypes() -> None:
    clip = wrapped(tiny_clip().float())
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    context = _context(None, None, 4)
    assert prompts.features(context).dtype == torch.float64
    single = prompts.features(context.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.norm(dim=-1), torch.ones(len(NAMES)))
    clip.double()
    assert prompts.features(context.float()).dtype == torch.float64
    open_clip.convert_weights_to_lp(clip.model.float(), dtype=torch.bfloat16)
    low = prompts.features(context.float())
    assert low.dtype == torch.float32
    assert F.cosine_similarity(low, single, dim=-1).min() > 0.99


def test_the_demo_model() -> None:
    """Its tokenizer is cut down: ids of start and end are others, and most words fall into bytes."""
    clip = load_clip(ClipSpec("lorattt-demo", "demo"))
    names = ["red circle", "blue_square", "zebra"]
    ids = clip.tokenizer.encode("a photo of a")  # type: ignore[attr-defined]
    context = clip.text_tower.embed(torch.tensor([ids]))[0]
    ours = ClassPrompts(clip, names, "end", len(ids)).features(context)
    expected = clip.text_features([name.replace("_", " ") for name in names], "single")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_moving_and_shapes(clip: Clip) -> None:
    prompts = ClassPrompts(clip, NAMES, "end", 4)
    for wrong in (torch.zeros(3, 32), torch.zeros(4, 31), torch.zeros(2, 2, 4, 32), torch.zeros(32)):
        with pytest.raises(ValueError, match="last axes"):
            prompts.features(wrong)
    specific = ClassPrompts(clip, NAMES, "end", 4, class_specific=True)
    with pytest.raises(ValueError, match="last axes"):
        specific.features(torch.zeros(4, 32))
    meta = wrapped(tiny_clip())
    prompts = ClassPrompts(meta, NAMES, "middle", 4)
    meta.to("meta")
    found = prompts.features(torch.zeros(2, 4, 32, device="meta"))
    assert (found.device.type, found.shape) == ("meta", (2, len(NAMES), 24))


def _refused(clip: Clip, names: list[str], position: Any, tokens: int) -> str:
    with pytest.raises(UserError) as error:
        ClassPrompts(clip, names, position, tokens)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refusals(clip: Clip) -> None:
    assert "class list is empty" in _refused(clip, [], "end", 4)
    assert "prompt.tokens 0" in _refused(clip, ["cat"], "end", 0)
    assert "prompt.position 'back'" in _refused(clip, ["cat"], "back", 4)
    assert "context of 76 tokens is too long" in _refused(clip, ["cat"], "end", 76)
    long = "bird " * 71
    assert ClassPrompts(clip, ["cat", long], "end", 3).count == 2  # start, 3, 71, full stop, end: just 77
    message = _refused(clip, ["cat", long], "end", 4)
    assert quoted(long) in message
    assert "78 tokens" in message
    assert "have 77" in message
    other = open_clip.model.CustomTextCLIP(24, VISION, {"layers": 1, "width": 32, "heads": 2, "no_causal_mask": True})
    bidirectional = wrapped(other, "odd")
    assert "model odd has no causal text tower" in _refused(bidirectional, ["cat"], "end", 4)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("taken", [[3], [7, 0, 9, 2], list(range(10))[::-1]])
def test_some_of_the_classes(clip: Clip, position: Position, taken: list[int]) -> None:
    prompts = ClassPrompts(clip, NAMES, position, 4)
    context = _context(None, None, 4)
    whole = prompts.features(context)
    some = prompts.take(torch.tensor(taken))
    assert some.count == len(taken)
    assert torch.allclose(some.features(context), whole[taken], atol=1e-12)
    assert torch.equal(prompts.features(context), whole)  # the list itself is as it was
    again = some.take(torch.tensor([len(taken) - 1]))
    assert torch.allclose(again.features(context), whole[taken[-1:]], atol=1e-12)


def test_what_is_taken_keeps_its_gradient_whether_the_graph_is_kept_or_not(clip: Clip) -> None:
    prompts = ClassPrompts(clip, NAMES, "end", 4).take(torch.tensor([1, 4, 6]))
    found = []
    for checkpointed in (True, False):
        context = _context(None, None, 4).requires_grad_()
        features = prompts.features(context, checkpointed=checkpointed)
        found.append(torch.autograd.grad((features**3).sum(), context)[0])
    assert torch.allclose(*found, atol=1e-12)
