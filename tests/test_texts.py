"""Texts are what they were, in config.yaml, after -c and on the command line, whatever YAML makes of them."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import LightningDataModule, LightningModule

import lorattt.cli  # noqa: F401  # so that classes can be named without their modules
from conftest import CPU, LORA, Cli
from lorattt.callbacks.run_folder import RunFolder
from lorattt.cli.parser import Parser, dump, load, merged

# What YAML 1.1, YAML 1.2 or jsonargparse's own rules read as something else than the text.
TEXTS = r"""no on Yes off y n true False null Null ~ None NULL 1e3 1E+3 0x10 0o17 017 0b1 1_000 12:30 1:2:3 190:20:30.15
.5 5. 1. .inf -.INF .nan ._ 1_0.5e3 +1 -1 - -- ? {} {a} [] [a] [a {a ] } 'q' "q" it's ' " \ \n a\ @a `a` %a %41
&a *a !a | |- << = 2024-01-01 2024-01-01T10:00:00Z a: a:b a#b a,b , =a a=b a%20b $HOME ~/x C:\x ... --- é 日本語
😀""".split()  # noqa: SIM905  # as a list, a screen of lines
TEXTS += ["", " ", "  ", " a", "a ", "\ta", "a\tb", "a\nb", "a\n", "\n", "a\r\nb", "- a", "? a", "a: b", ": a", "# a"]
TEXTS += [
    "a # b",
    "{a: b}",
    "{a, b}",
    "[a, b]",
    'a "b" c\'d',
    "!!str a",
    "> a",
    "--- a",
    "2024-01-01 10:00:00",
    "x: //y",
]
TEXTS += [
    "\u200b",
    "\u00a0",
    "\u2028",
    "\x85",
    "\x07",
    "\x7f",
    "\ufeffa",
    "x" * 3000,
    "a b " * 400,
    "NestedArg(key='a')",
]
_PIECES = [*" \t'\"\\{}[]:,#&*!|>%@`?-~.0123456789eExX_=<yYnNoO", "no", "null", ": ", " #", "\n", "é", "😀", "- "]

WORDS, TEMPLATE = "model.init_args.prompt.words", "model.init_args.templates"
NAMES, ROOT = "data.init_args.class_names", "data.init_args.root"
# A text or null; null or a named set or a text or a list; a text or a list or null; a text; and those of no class.
SCALARS = (WORDS, "model.init_args.clip.pretrained", TEMPLATE, NAMES, ROOT, "run.folder", "run.root")
LISTS = ("model.init_args.class_names", TEMPLATE, NAMES)


def drawn(number: int, seed: int) -> list[str]:
    """Texts of the characters that mean something to YAML."""
    draw = random.Random(seed)
    return ["".join(draw.choices(_PIECES, k=draw.randint(1, 8))) for _ in range(number)]


@pytest.fixture(scope="module")
def parser() -> Parser:
    parser = Parser()
    parser.add_argument("-c", "--config", action=ActionConfigFile)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(RunFolder, "run")
    return parser


@pytest.fixture
def read(parser: Parser, tmp_path: Path) -> Callable[[str], Namespace]:
    def read(text: str) -> Namespace:
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return parser.parse_args(["-c", str(tmp_path / "run.yaml")])

    return read


def _nested(values: dict[str, Any], model: str = "MTA") -> dict[str, Any]:
    found: dict[str, Any] = {"model": {"class_path": model}, "data": {"class_path": "ImageFolderData"}}
    for key, value in values.items():
        *above, last = key.split(".")
        place = found
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def _typed(values: dict[str, Any]) -> list[str]:
    keys = [f"--{key.replace('.init_args', '')}={value}" for key, value in values.items()]
    return ["--model", "MTA", "--data", "ImageFolderData", "--data.root=x", *keys]


def _of(config: Namespace, values: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in values}


@pytest.mark.parametrize("texts", [TEXTS, drawn(30, 1)], ids=["table", "drawn"])
def test_a_text_survives_files_and_dumps(texts: list[str], parser: Parser, read: Callable[[str], Namespace]) -> None:
    for start in range(0, len(texts), 3):  # each text is the value of two keys or three
        some = [texts[(start + place) % len(texts)] for place in range(len(SCALARS))]
        values = {key: f"x {{}} {text}" if key == TEMPLATE else text for key, text in zip(SCALARS, some, strict=True)}
        config = read(dump(_nested(values)))
        assert _of(config, values) == values
        again = read(parser.dump(config, skip_none=False))
        assert _of(again, values) == values


@pytest.mark.parametrize("texts", [TEXTS, drawn(200, 2)], ids=["table", "drawn"])
def test_lists_and_mappings_of_texts_survive(
    texts: list[str], parser: Parser, read: Callable[[str], Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorattt.cli.parser.check_values", lambda config: None)  # these are no methods
    values: dict[str, Any] = {key: [f"{{}} {text}" if key == TEMPLATE else text for text in texts] for key in LISTS}
    options = {
        "mta": {text: text for text in texts},
        "zero": {"a": texts, "b": {"c": {text: [text] for text in texts}}},
    }
    values |= {"model.init_args.methods": texts, "model.init_args.options": options, ROOT: "x"}
    config = read(dump(_nested(values, "Several")))
    assert _of(config, values) == values
    assert _of(read(parser.dump(config, skip_none=False)), values) == values


@pytest.mark.parametrize("texts", [TEXTS, drawn(30, 3)], ids=["table", "drawn"])
def test_a_text_of_the_command_line_is_what_was_typed(texts: list[str], parser: Parser) -> None:
    for text in texts:
        values = {key: f"x {{}} {text}" if key == TEMPLATE else text for key in SCALARS if not key.startswith("run.")}
        if text == "null":  # which stands for no value, wherever there may be none
            values |= {key: None for key in values if key not in (ROOT, TEMPLATE)}
            values[TEMPLATE] = "x {} null"
        if text in ("[]", "[a]", "[a, b]"):
            values[NAMES] = [] if text == "[]" else text[1:-1].split(", ")
        elif text.startswith("["):
            values.pop(NAMES)  # a list, if it can be read as one
        given = {key: text if value is None else value for key, value in values.items()} | {NAMES: text}
        config = parser.parse_args(_typed(given))
        assert _of(config, values) == values


@pytest.mark.parametrize("texts", [TEXTS, drawn(200, 4)], ids=["table", "drawn"])
def test_a_list_of_the_command_line(texts: list[str], parser: Parser) -> None:
    """As JSON, in which all texts have quotes; with letters as they are or as numbers."""
    values = {key: [f"{{}} {text}" if key == TEMPLATE else text for text in texts] for key in LISTS}
    for ascii_only in (True, False):
        typed = {key: json.dumps(each, ensure_ascii=ascii_only) for key, each in values.items()}
        assert _of(parser.parse_args(_typed(typed)), values) == values


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("[no, on, 1e3, 0x10, 1_000, 007, 2024-01-01, null, ~, 12:30, .5, None, true]", None),
        ("[0, 1, 2]", ["0", "1", "2"]),
        ("['it''s', \"a, b\", c d]", ["it's", "a, b", "c d"]),
    ],
)
def test_a_list_without_quotes_holds_what_was_typed(typed: str, expected: list[str] | None, parser: Parser) -> None:
    expected = expected or typed[1:-1].split(", ")
    values = dict.fromkeys(("model.init_args.class_names", NAMES), typed)
    assert _of(parser.parse_args(_typed(values)), values) == dict.fromkeys(values, expected)


def test_what_is_no_text_is_read_as_before(parser: Parser) -> None:
    keys = {
        "model.views.number": "8",
        "model.views.scale": "[0.5, 1]",
        "model.mta.lambda_y": "1e-1",
        "data.limit": "null",
    }
    config = parser.parse_args([*_typed(keys), "--data.class_names", "null", "--model.views.augmix", "true"])
    views = config["model.init_args.views"]
    assert (views["number"], views["scale"], views["augmix"]) == (8, (0.5, 1.0), True)
    assert config["model.init_args.mta.lambda_y"] == 0.1
    assert (config["data.init_args.limit"], config[NAMES]) == (None, None)


def test_what_is_added_to_a_list(parser: Parser) -> None:
    config = parser.parse_args([*_typed({TEMPLATE: '["a {}: no"]'}), "--model.templates+", "b {}: yes"])
    assert config[TEMPLATE] == ["a {}: no", "b {}: yes"]


@pytest.mark.parametrize("text", ["?", "._", "{a", "\x07"])
def test_what_jsonargparse_cannot_read_is_no_traceback(text: str, parser: Parser) -> None:
    with pytest.raises(yaml.YAMLError):
        load(text)
    assert yaml.safe_load(dump({"a": text})) == {"a": text}
    assert parser.parse_args(_typed({"run.root": text}))["run.root"] == text


def test_merged() -> None:
    earlier = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": [1, 2]}
    later = {"a": {"b": {"d": 4}}, "f": [5], "g": None}
    assert merged(earlier, later) == {"a": {"b": {"c": 1, "d": 4}, "e": 3}, "f": [5], "g": None}
    assert merged(earlier, {"a": None})["a"] is None
    assert merged(None, later) == later
    assert earlier["f"] == [1, 2]


def test_a_run_repeats_itself_with_names_that_yaml_would_change(cli: Cli, images: Path) -> None:
    names, root = ["no", "1e3"], str(images)
    data = ["--data", "ImageFolderData", "--data.root", root, "--data.workers", "0", *CPU]
    template = "a photo: {} # yes"
    first = cli(
        "test", *LORA, *data, "--model.class_names", "[no, 1e3]", "--model.templates", template, "--run.root", "1_0"
    )
    assert first.code == 0, first.err
    rows = first.rows
    assert {row["name_after"] for row in rows} <= set(names)
    config = yaml.safe_load((first.folder / "config.yaml").read_text(encoding="utf-8"))
    assert (config["model"]["init_args"]["class_names"], config["run"]["root"]) == (names, "1_0")
    second = cli("test", "-c", str(first.folder / "config.yaml"))
    assert second.code == 0, second.err
    assert second.folder == first.folder.with_name("001")
    assert second.rows == rows
