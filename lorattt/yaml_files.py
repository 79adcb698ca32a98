"""YAML files as users write them: a key given twice is an error, and what only old YAML reads otherwise is a text."""

import re
from pathlib import Path
from typing import Any

import yaml

from lorattt.errors import UserError, one_line
from lorattt.inputs import read_text


class _Loader(yaml.SafeLoader):
    """Rejects a key that is given twice, of which YAML would silently keep the last.

    Of words without quotes, ``true``, ``false``, ``null`` and decimal numbers are what they seem. All others are texts:
    ``no``, ``on``, ``2024-01-01``, ``12:30``, ``1_000``, ``0x10`` and ``007``, which YAML 1.1 would change.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # as PyYAML has it

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
            seen.add(str(key))
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


for _tag, _words, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?", "-+.0123456789"),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_words})$"), list(_first))


def read_yaml(path: Path, *, strict: bool = False, what: str = "") -> Any:
    """The contents of a YAML file.

    Args:
        path: The file.
        strict: Reject a key that is given twice in one mapping, and leave as a text what only YAML 1.1 reads otherwise.
        what: What messages call a file that is no text; its path by default.
    """
    text = read_text(path, "name a YAML file", what=what)
    try:
        return yaml.load(text, _Loader if strict else yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place}: {one_line(getattr(error, 'problem', None) or error)}") from None
