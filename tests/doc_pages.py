"""Pages read as their readers see them: headings' anchors, and the commands, programs and configurations in them."""

import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = sorted((ROOT / "lightning_configs").rglob("*.yaml"))
SHELLS = ("", "sh", "bash")
PROGRAMS = (
    "lorattt",
    "python",
    "pip",
    "pytest",
    "torchrun",
    "srun",
    "[",
    "scontrol",
    "exit",
    "export",
    "tensorboard",
    "wandb",
)
_MARKDOWN = MarkdownIt("commonmark").enable("table")

# What pages write where the reader has something of his own, and what stands for it here; longer ones first.
PLACEHOLDERS = {
    "/data/datasets": "path/to/datasets",
    "/data/runs": "runs",
    "PATH/TO/DATASETS": "path/to/datasets",
    "PATH/TO": "path/to",
    "benchmarks/results/MACHINE.json": "machine.json",
    "METHOD.yaml": "lightning_configs/methods/coop.yaml",
    "THIS_FILE": "lightning_configs/demo/sapt.yaml",
    "RUNS...": "runs",
    "RUNS": "runs",
    "FOLDER": "path/to/datasets",
    "sweep FILE": "sweep lightning_configs/sweeps/demo.yaml",
    "fit -c FILE": "fit -c lightning_configs/demo/coop.yaml",
    "FILE": "lightning_configs/demo/zero_shot.yaml",
    "COOP": "prompt.safetensors",
    "SAPT": "prompt.safetensors",
    "KEY": "dtd",
    "OUT": "runs",
}


@dataclass(frozen=True)
class Snippet:
    """Something of a page that can be run.

    Attributes:
        where: File and line.
        text: What stands there.
        kind: The language of a block; ``sh`` for a command.
        above: The command above it on the page, for lines that are arguments alone.
    """

    where: str
    text: str
    kind: str = "sh"
    above: str = ""


def name_of(path: Path) -> str:
    """Path from the repository."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def tokens_of(path: Path) -> Iterator[tuple[Token, int]]:
    """All tokens of a page, those within a line too, each with the number of its first line."""
    for token in _MARKDOWN.parse(path.read_text(encoding="utf-8")):
        line = token.map[0] + 1 if token.map else 0
        yield token, line
        for child in token.children or []:
            yield child, line


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    taken: dict[str, int] = {}
    anchors = set()
    for opening, inline in pairwise(token for token, _ in tokens_of(path)):
        if opening.type == "heading_open":
            text = "".join(each.content for each in inline.children or [] if each.type in ("text", "code_inline"))
            kept = (each for each in text.lower() if each in " -_" or unicodedata.category(each)[0] in "LNM")
            slug = "".join(kept).replace(" ", "-")
            anchors.add(f"{slug}-{taken[slug]}" if slug in taken else slug)
            taken[slug] = taken.get(slug, 0) + 1
    return anchors


def blocks_of(path: Path, *kinds: str) -> list[Snippet]:
    """Fenced blocks of these languages."""
    return [
        Snippet(f"{name_of(path)}:{line}", token.content, token.info.strip())
        for token, line in tokens_of(path)
        if token.type == "fence" and token.info.strip() in kinds
    ]


def commands_of(path: Path) -> Iterator[Snippet]:
    """Commands of a page: the lines of shell fences and of indented blocks of commands, and whole ones in a text."""
    above = ""
    for token, line in tokens_of(path):
        if token.type == "code_inline" and _is_whole(token.content):
            yield Snippet(f"{name_of(path)}:{line}", token.content)
        fenced = token.type == "fence" and token.info.strip() in SHELLS
        if fenced or (token.type == "code_block" and token.content.split()[0] in PROGRAMS):
            for number, text in _logical_lines(token.content, line + fenced):
                yield Snippet(f"{name_of(path)}:{number}", text, above=above)
                above = above if text.startswith("-") else text


def header_commands(path: Path) -> Iterator[Snippet]:
    """Commands in the header of a configuration."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    content = "\n".join(line[4:] if line.startswith("#   ") else "" for line in lines[:end])
    for number, text in _logical_lines(content, 1):
        yield Snippet(f"{name_of(path)}:{number}", text)


def once(snippets: Iterable[Snippet]) -> list[Snippet]:
    """What stands in several places, under the name of the first."""
    found: dict[tuple[str, str], Snippet] = {}
    for each in snippets:
        found.setdefault((" ".join(each.text.split()), each.above if each.text.startswith("-") else ""), each)
    return list(found.values())


def words_of(text: str) -> list[list[str]]:
    """The words of the commands of a line, with something in the place of what the reader has."""
    if "[--" in text:  # a synopsis: everything that may stand there, the first of each choice
        text = re.sub(r" \.\.\.|[\[\]]", "", text)
        text = re.sub(r"\b(\w+)(\|\w+)+", r"\1", text)
    for placeholder, value in PLACEHOLDERS.items():
        text = re.sub(rf"(?<![\w-]){re.escape(placeholder)}(?![\w-])", value, text)
    commands: list[list[str]] = [[]]
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    for word in lexer:
        if word == "&&":
            commands.append([])
            continue
        assert "..." not in word, f"{word} in {text}: write a command that can be given, or mark the block as text"
        commands[-1].append(word)
    return commands


def _logical_lines(content: str, first: int) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, without comments, each with the number of its first line."""
    held, begins = "", first
    for number, line in enumerate(content.splitlines(), first):
        begins = begins if held else number
        held += line.removesuffix("\\")
        if not line.endswith("\\"):
            text = re.sub(r"(^|\s)#.*$", "", held).strip()
            if text:
                yield begins, text
            held = ""


def _is_whole(text: str) -> bool:
    """Whether a text in backquotes is a command, rather than a part or the name of one."""
    words = text.split()
    if len(words) < 3 or "..." in text:
        return False
    if words[:2] == ["python", "-m"]:
        return len(words) > 3 or words[2].startswith(("benchmarks.", "tools."))
    if words[0] == "lorattt":
        return words[1] not in ("report", "sweep") or not words[2].startswith("-")
    return words[:2] == ["pip", "install"] or text.startswith("python tests")
