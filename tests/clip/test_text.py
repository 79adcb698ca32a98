"""Text features against open_clip's encode_text, in float64."""

from collections.abc import Sequence
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, get_clean_fn

from lorattt.clip.model import Clip
from lorattt.clip.text import class_features, encode_text, resolve_templates
from lorattt.errors import UserError
from tiny_models import tiny_clip

NAMES = ["cat", "a very long name of a rather unusual bird, in several words", "dog", "missile", "missile"]


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    return tiny_clip()


@pytest.fixture(scope="module")
def tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


def test_the_cut_is_exact(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer) -> None:
    tokens = tokenizer([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(encode_text(model, tokens), model.encode_text(tokens), rtol=1e-10, atol=1e-10)


def test_full_length_text_is_exact(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer) -> None:
    tokens = tokenizer(["word " * 100])  # fills the context: nothing to cut
    torch.testing.assert_close(encode_text(model, tokens), model.encode_text(tokens), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 3, 256])
@pytest.mark.parametrize("templates", [["a photo of a {}."], ["a {}.", "one {} among other things, seen from afar"]])
def test_class_features_are_the_mean_of_unit_vectors(
    model: open_clip.CLIP,
    tokenizer: open_clip.SimpleTokenizer,
    templates: list[str],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lorattt.clip.text._CHUNK", chunk)
    expected = []
    for name in NAMES:
        units = [F.normalize(model.encode_text(tokenizer([t.format(name)]))[0], dim=0) for t in templates]
        expected.append(F.normalize(torch.stack(units).mean(0), dim=0))
    ours = class_features(model, tokenizer, NAMES, templates)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, torch.stack(expected).float(), rtol=1e-5, atol=1e-6)


def test_other_braces_of_a_template_are_text(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer) -> None:
    ours = class_features(model, tokenizer, ["cat"], ["{{ {name} {} {0"])
    expected = F.normalize(model.encode_text(tokenizer(["{{ {name} cat {0"])), dim=-1)
    torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-6)


def test_another_kind_of_text_tower_gets_whole_sequences(tokenizer: open_clip.SimpleTokenizer) -> None:
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    model = open_clip.model.CustomTextCLIP(24, vision, text).eval()
    tokens = tokenizer(NAMES)
    assert torch.equal(encode_text(model, tokens), model.encode_text(tokens))


def test_template_sets() -> None:
    assert resolve_templates("single") == ["a photo of a {}."]
    assert len(resolve_templates("openai-7")) == 7
    assert len(resolve_templates("openai-80")) == 80
    assert "itap of a {}." in resolve_templates("openai-7")
    for templates in ("openai-7", "openai-80"):
        assert all(t.count("{}") == 1 for t in resolve_templates(templates))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "templates"), [([], ["a {}."]), (["cat"], []), (["cat"], ["a photo"]), (["c"], ["{} {}"])]
)
def test_empty_lists_and_broken_templates_are_refused(
    model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, names: list[str], templates: list[str]
) -> None:
    with pytest.raises(UserError, match="empty|template"):
        class_features(model, tokenizer, names, templates)


def test_a_text_that_would_be_cut_is_refused(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer) -> None:
    fits = " ".join(["word"] * 75)
    assert class_features(model, tokenizer, [fits], ["{}"]).shape == (1, 24)
    with pytest.raises(UserError, match="has 78 tokens, start and end included, but the model's texts have 77"):
        class_features(model, tokenizer, ["cat", f"{fits} more"], ["{}"])


class _Inner:
    """A tokenizer with the interface of Hugging Face's: a word a token, start 1, end 2, padding 0."""

    bos_token_id, eos_token_id, sep_token_id, cls_token_id, pad_token_id = 1, 2, 2, 3, 0

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, max_length: int = 0, **how: Any
    ) -> Any:
        rows = [[10 + len(word) for word in text.split()] for text in texts]
        if how["truncation"]:
            rows = [row[: max_length - 2] for row in rows]
        if add_special_tokens:
            rows = [[1, *row, 2] for row in rows]
        if how["padding"]:
            rows = [row + [0] * (max_length - len(row)) for row in rows]
        return _Encoding({"input_ids": torch.tensor(rows) if how.get("return_tensors") else rows})

    batch_encode_plus = __call__  # what open_clip calls before version 3.3


class _Encoding(dict[str, Any]):
    @property
    def input_ids(self) -> Any:
        return self["input_ids"]


def _wrapped(kind: str) -> Any:
    """open_clip's own wrappers around it, without the hub that they ask when they are made."""
    made: Any = object.__new__(SigLipTokenizer if kind == "siglip" else HFTokenizer)
    made.tokenizer, made.context_length = _Inner(), 16
    if kind != "siglip":
        made.clean_fn = get_clean_fn("canonicalize" if kind == "canonicalize" else "whitespace")
        made.strip_sep_token, made.tokenizer_mode = kind == "strip", "clips" if kind == "clips" else ""
    return made


@pytest.mark.parametrize(
    ("kind", "fits"), [("plain", 14), ("strip", 14), ("clips", 13), ("canonicalize", 14), ("siglip", 14)]
)
def test_other_tokenizers_do_not_cut_either(model: open_clip.CLIP, kind: str, fits: int) -> None:
    """SigLIP SO400M has 16 tokens; start, end and class token of its kind leave so many words."""
    tokenizer = _wrapped(kind)
    names = ["cat", " ".join(["word"] * fits)]
    assert tokenizer(names)[1].ne(0).sum() >= fits, "all words are there"
    assert class_features(_AnyText(), tokenizer, names, ["{}"]).shape == (2, 16)
    with pytest.raises(
        UserError, match=r"^the text 'word word .*' has 17 tokens.* but the model's texts have 16: use a"
    ):
        class_features(_AnyText(), tokenizer, ["cat", f"{names[1]} more"], ["{}"])


@pytest.mark.parametrize("kind", ["canonicalize", "siglip"])
def test_tokens_are_counted_as_the_tokenizer_cleans_texts(kind: str) -> None:
    """Punctuation that stands alone is no word for SigLIP."""
    texts = [" . ".join(["word"] * 14)]
    assert class_features(_AnyText(), _wrapped(kind), texts, ["{}"]).shape == (1, 16)
    with pytest.raises(UserError, match="has 29 tokens"):
        class_features(_AnyText(), _wrapped("plain"), texts, ["{}"])


class _AnyText(torch.nn.Module):
    """A text tower of another make."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.float() * self.factor


def test_a_message_quotes_a_part_of_a_long_text(model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer) -> None:
    for text in ("word " * 1000, "x" * 5000):
        with pytest.raises(UserError) as caught:
            class_features(model, tokenizer, [text], ["{}"])
        assert len(str(caught.value)) < 400


def test_text_features_that_are_no_numbers(tokenizer: open_clip.SimpleTokenizer) -> None:
    with pytest.raises(UserError, match="not finite: with model.clip.dtype fp16 try bf16"):
        class_features(_AnyText(float("inf")), tokenizer, NAMES, ["a {}."])


def test_learned_prompts_need_clips_own_tokenizer(model: open_clip.CLIP) -> None:
    clip = Clip(model, _wrapped("plain"), "tiny", {"mean": (0, 0, 0), "std": (1, 1, 1)})
    with pytest.raises(UserError, match="tiny has a tokenizer of Hugging Face"):
        _ = clip.text_tower
