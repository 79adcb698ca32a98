"""Text features against open_clip's encode_text, in float64."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from lorattt.clip.templates import resolve_templates
from lorattt.clip.text import class_features, encode_text
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
    model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, templates: list[str], chunk: int
) -> None:
    expected = []
    for name in NAMES:
        units = [F.normalize(model.encode_text(tokenizer([t.format(name)]))[0], dim=0) for t in templates]
        expected.append(F.normalize(torch.stack(units).mean(0), dim=0))
    ours = class_features(model, tokenizer, NAMES, templates, chunk=chunk)
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
