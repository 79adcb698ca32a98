"""Where a context comes from: words, random vectors, files; and every refusal."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F

from lorattt.clip.model import Clip
from lorattt.errors import UserError
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.files import Prompt, save_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt
from tiny_models import VISION, wrapped

NAMES = ["cat", "golden retriever", "t-shirt"]


def _features(clip: Clip, prompt: Prompt) -> torch.Tensor:
    prompts = ClassPrompts(clip, NAMES, prompt.position, prompt.tokens, class_specific=prompt.class_specific)
    return prompts.features(prompt.context)


@pytest.mark.parametrize(
    ("words", "text", "tokens"),
    [(None, "a photo of a", 4), ("itap_of  my ", "itap of my", 4), ("X", "X", 1)],  # "itap" is two tokens
)
@pytest.mark.parametrize("specific", [False, True])
def test_words(clip: Clip, words: str | None, text: str, tokens: int, specific: bool) -> None:
    prompt = build_prompt(PromptSpec(words=words, class_specific=specific), clip, NAMES, seed=0)
    assert (prompt.position, prompt.words, prompt.model) == ("end", text, "tiny")
    assert prompt.class_names == (tuple(NAMES) if specific else None)
    assert prompt.context.dtype == torch.float32
    assert prompt.tokens == tokens
    expected = F.normalize(clip.model.encode_text(clip.tokenizer([f"{text} {name}." for name in NAMES])), dim=-1)
    torch.testing.assert_close(_features(clip, prompt), expected, rtol=1e-5, atol=1e-6)
    if specific:
        prompt.context[0] = 0  # each class has memory of its own
        assert prompt.context[1:].abs().sum() > 0


def test_random_vectors(clip: Clip) -> None:
    spec = PromptSpec(tokens=16, position="middle")
    prompt = build_prompt(spec, clip, NAMES, seed=3)
    assert prompt.context.shape == (16, 32)
    assert (prompt.position, prompt.words, prompt.class_names) == ("middle", None, None)
    assert prompt.context.std().item() == pytest.approx(0.02, rel=0.1)
    assert abs(prompt.context.mean().item()) < 0.003
    torch.manual_seed(12)
    assert torch.equal(build_prompt(spec, clip, ["other"], seed=3).context, prompt.context)
    assert not torch.equal(build_prompt(spec, clip, NAMES, seed=4).context, prompt.context)
    specific = build_prompt(PromptSpec(tokens=16, class_specific=True), clip, NAMES, seed=3)
    assert specific.context.shape == (3, 16, 32)
    assert specific.class_names == tuple(NAMES)
    assert not torch.equal(specific.context[0], specific.context[1])


def test_files(clip: Clip, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "prompt.safetensors"), str(tmp_path / "model.pth.tar-50")
    context = torch.randn(4, 32)
    save_prompt(Prompt(context, "front", "a b c d", "tiny"), ours)
    torch.save({"state_dict": {"ctx": context}}, theirs)
    for spec, position in ((PromptSpec(file=ours), "front"), (PromptSpec(file=ours, position="front"), "front")):
        prompt = build_prompt(spec, clip, NAMES, seed=0)
        assert (prompt.position, prompt.words, prompt.model, prompt.class_names) == (position, "a b c d", "tiny", None)
        assert torch.equal(prompt.context, context)
    # A checkpoint of CoOp tells neither the model nor the position.
    assert build_prompt(PromptSpec(file=theirs), clip, NAMES, seed=0).position == "end"
    prompt = build_prompt(PromptSpec(file=theirs, position="middle", class_specific=True), clip, NAMES, seed=0)
    assert (prompt.position, prompt.model, prompt.class_names) == ("middle", "tiny", tuple(NAMES))
    assert torch.equal(prompt.context, context.expand(3, 4, 32))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    spec = PromptSpec(file=str(path))
    for length in (2, 3):
        save_prompt(Prompt(torch.ones(length, 8), "end"), path)
        assert spec.content.tokens == length
        assert spec.content is spec.content


def test_class_specific_files(clip: Clip, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "prompt.safetensors"), str(tmp_path / "model.pth.tar-50")
    context = torch.randn(3, 4, 32)
    save_prompt(Prompt(context, "end", None, "tiny", tuple(NAMES)), ours)
    torch.save({"state_dict": {"ctx": context}}, theirs)
    for file in (ours, theirs):
        prompt = build_prompt(PromptSpec(file=file), clip, NAMES, seed=0)
        assert prompt.class_specific
        assert prompt.class_names == tuple(NAMES)
        assert torch.equal(prompt.context, context)
        message = _refused(PromptSpec(file=file), clip, NAMES[:2])
        assert f"{file}: it has a context for each of 3 classes, and the list has 2" in message
    message = _refused(PromptSpec(file=ours), clip, ["cat", "dog", "t-shirt"])
    assert f"prompt.file {ours}: its class 1 is 'golden retriever', and the list says 'dog'" in message


def _refused(spec: PromptSpec, clip: Clip, names: list[str]) -> str:
    with pytest.raises(UserError) as error:
        build_prompt(spec, clip, names, seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_that_do_not_fit(clip: Clip, tmp_path: Path) -> None:
    file = str(tmp_path / "prompt.safetensors")
    assert f"prompt file {file}: no such file" in _refused(PromptSpec(file=file), clip, NAMES)
    save_prompt(Prompt(torch.zeros(4, 48), "end", None, "tiny"), file)
    message = _refused(PromptSpec(file=file), clip, NAMES)
    assert f"prompt.file {file}: its context is 48 wide, the text tower of tiny 32" in message
    save_prompt(Prompt(torch.zeros(4, 32), "end", None, "ViT-L-14"), file)
    assert f"prompt.file {file}: it was made for ViT-L-14, and the model is tiny" in _refused(
        PromptSpec(file=file), clip, NAMES
    )
    save_prompt(Prompt(torch.zeros(4, 32), "end", None, "tiny"), file)
    message = _refused(PromptSpec(file=file, position="front"), clip, NAMES)
    assert f"prompt.file {file}: it was made for position end, and prompt.position is front" in message
    other = open_clip.model.CustomTextCLIP(24, VISION, {"layers": 1, "width": 32, "heads": 2, "no_causal_mask": True})
    odd = wrapped(other, "odd")
    assert "model odd has no causal text tower" in _refused(PromptSpec(file=file), odd, NAMES)
    assert "prompt.words '\\x00'" in _refused(PromptSpec(words="\x00"), clip, NAMES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"file": "f", "words": "w"}, "prompt.file and prompt.words are both given"),
        ({"words": "w", "tokens": 4}, "prompt.words and prompt.tokens are both given"),
        ({"file": "f", "tokens": 4}, "prompt.file and prompt.tokens are both given"),
        ({"tokens": 0}, "prompt.tokens 0"),
        ({"words": " _ "}, "prompt.words ' _ '"),
        ({"position": "back"}, "prompt.position 'back'"),
    ],
)
def test_contradictions(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PromptSpec(**values)
