"""Quotes of bounded length, and names that are given by position."""

import re
from pathlib import Path

import pytest

import lorattt
from lorattt.errors import UserError, quoted, shortened, some
from lorattt.inputs import pairs
from lorattt.methods.class_texts import agree_on_classes


def test_short_values_are_quoted_whole() -> None:
    assert quoted("a\nb") == repr("a\nb")
    assert quoted([1, "x"]) == "[1, 'x']"
    assert shortened("x" * 100) == "x" * 100
    assert some("ab") == "'a', 'b'"
    assert some("abcde") == "'a', 'b', 'c' and 2 more"


@pytest.mark.parametrize("value", ["word " * 1000, ["word"] * 1000, {"key": "v" * 5000}, b"\x00" * 4000])
@pytest.mark.parametrize("most", [20, 60, 100])
def test_long_values_keep_both_ends(value: object, most: int) -> None:
    text = quoted(value, most)
    assert len(text) == most
    start, _, end = text.partition(" ... ")
    assert repr(value).startswith(start)
    assert repr(value).endswith(end)
    assert start
    assert end


def test_messages_quote_through_the_helper() -> None:
    """No file writes a value into a message as it is; our own constants excepted."""
    for path in Path(lorattt.__file__).parent.rglob("*.py"):
        found = re.findall(r"\{([^{}]+)!r\}", path.read_text(encoding="utf-8"))
        assert [name for name in found if not re.fullmatch(r"[A-Z_]+|__name__|name", name)] == [], path


def test_the_models_names_go_to_the_datas_classes_one_by_one() -> None:
    with pytest.warns(UserWarning, match=r"model\.class_names go to the data's classes .*'n01' is 'tench', 'n02' is"):
        assert agree_on_classes(["tench", "carp"], ["n01", "n02"]) == ["tench", "carp"]
    with pytest.raises(UserError, match=r"^model\.class_names is in another order .* name 1 is 'dog'"):
        agree_on_classes(["dog", "cat"], ["cat", "dog"])


@pytest.mark.parametrize("known", [["n01440764", "n01443537"], ["0", "1", "12"]])
def test_folders_that_are_codes_are_no_names(known: list[str]) -> None:
    with pytest.warns(UserWarning, match=rf"the classes are called '{known[0]}' and the like, which says nothing"):
        assert agree_on_classes(None, known) == known


def test_pairs_of_equal_names_are_not_told() -> None:
    assert pairs(["Cat", "great_auk"], ["cat", "Great-Auk"]) == ""
    assert pairs(["a", "b"], ["a", "c"]) == "'a' is 'a', 'b' is 'c'"
