"""Where a prompt's context comes from: words, a file, or random vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from lorattt import demo
from lorattt.clip.model import Clip
from lorattt.clip.text import word_ids
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least
from lorattt.prompts.files import POSITIONS, Position, Prompt, load_prompt
from lorattt.rng import Stream, episode_keys, fold

WORDS = "a photo of a"
_DEVIATION = 0.02  # as CoOp draws its vectors


@dataclass(frozen=True)
class PromptSpec:
    """Where the context of a prompt comes from; one of file, words and tokens.

    Args:
        file: A prompt that lorattt saved (``.safetensors``), or a checkpoint of CoOp's program; ``demo``,
            ``demo-sapt`` and ``demo-self-tpt`` for those that come with the embedded demo.
        words: The context begins as the vectors of these words (``_`` reads as a space); "a photo of a" where
            neither file nor tokens is given.
        tokens: Begin with so many random vectors (normal, standard deviation 0.02).
        class_specific: Every class has a context of its own.
        position: Where the class name stands: behind the context (``end``), in its middle, or before it
            (``front``); null for the file's, or ``end``.
    """

    file: str | None = None
    words: str | None = None
    tokens: int | None = None
    class_specific: bool = False
    position: Position | None = None

    @property
    def path(self) -> Path:
        """The file, where the demo's names are known."""
        return demo.PROMPTS.get(str(self.file)) or Path(str(self.file)).expanduser()

    @property
    def content(self) -> Prompt:
        """The prompt that the file holds, read once until the file changes."""
        written = self.path.stat() if self.path.is_file() else None
        return _read(self.path, written and (written.st_mtime_ns, written.st_size))

    def __post_init__(self) -> None:
        """Validate that the values do not contradict each other."""
        given = [name for name in ("file", "words", "tokens") if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(
                f"prompt.{given[0]} and prompt.{given[1]} are both given: the context comes from one of them"
            )
        at_least(1, prompt__tokens=self.tokens)
        if self.words is not None and not self.words.replace("_", " ").strip():
            raise UserError(f"prompt.words {quoted(self.words)}: give at least one word, such as {WORDS!r}")
        if self.position is not None and self.position not in POSITIONS:
            raise UserError(f"prompt.position {quoted(self.position)}: must be one of {', '.join(POSITIONS)}")


@lru_cache(maxsize=4)
def _read(path: Path, version: tuple[int, int] | None) -> Prompt:
    return load_prompt(path)


def build_prompt(spec: PromptSpec, clip: Clip, class_names: Sequence[str], seed: int) -> Prompt:
    """The prompt that a specification means for a model and a list of classes, on the CPU.

    The names are read where every class has a context of its own; the seed is for random vectors. A file that was made
    for another model, position or list of classes is a ``UserError``.
    """
    tower, words = clip.text_tower, None
    if spec.file is not None:
        return _from_file(spec, clip, class_names)
    if spec.tokens is not None:
        shape = (*((len(class_names),) if spec.class_specific else ()), spec.tokens, tower.width)
        key = fold(episode_keys(seed, torch.tensor(0)), Stream.CONTEXT_INIT)
        context = torch.randn(shape, generator=torch.Generator().manual_seed(int(key))) * _DEVIATION
    else:
        words = " ".join((spec.words or WORDS).replace("_", " ").split())
        ids = word_ids(clip.tokenizer, words)
        if not ids:
            raise UserError(f"prompt.words {quoted(spec.words)}: the tokenizer of {clip.name} finds no word in them")
        with torch.no_grad():
            context = tower.embed(torch.tensor([ids], device=tower.device))[0].float().cpu()
    return _for_classes(Prompt(context, spec.position or "end", words, clip.name), spec, class_names)


def _from_file(spec: PromptSpec, clip: Clip, class_names: Sequence[str]) -> Prompt:
    found, file = spec.content, f"prompt.file {spec.path}"
    width, expected = found.context.shape[-1], clip.text_tower.width
    if found.model not in (None, clip.name):
        raise UserError(f"{file}: it was made for {found.model}, and the model is {clip.name}: use that one")
    if width != expected:
        raise UserError(
            f"{file}: its context is {width} wide, the text tower of {clip.name} {expected}: use the model it was made "
            "for"
        )
    if found.model is not None and spec.position not in (None, found.position):
        raise UserError(
            f"{file}: it was made for position {found.position}, and prompt.position is {spec.position}: leave the key "
            "out"
        )
    if found.class_specific:
        fix = "use it with its own list of classes, or a prompt with one context for all"
        count, other = len(found.context), len(class_names)
        if count != other:
            raise UserError(f"{file}: it has a context for each of {count} classes, and the list has {other}: {fix}")
        for label, (theirs, ours) in enumerate(zip(found.class_names or class_names, class_names, strict=True)):
            if theirs != ours:
                says = f"its class {label} is {quoted(theirs)}, and the list says {quoted(ours)}"
                raise UserError(f"{file}: {says}: {fix}")
    found = replace(found, position=spec.position or found.position, model=clip.name)
    return _for_classes(found, spec, class_names)


def _for_classes(prompt: Prompt, spec: PromptSpec, class_names: Sequence[str]) -> Prompt:
    """The prompt with the classes' names, and a copy of its context for each, if they shall have their own."""
    if not (spec.class_specific or prompt.class_specific):
        return prompt
    context = prompt.context if prompt.class_specific else prompt.context.expand(len(class_names), -1, -1).clone()
    return replace(prompt, context=context, class_names=tuple(class_names))
