"""Class names as people pass them around: which folder gets which, and lists that leave it open."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from lorattt.data.class_names import names_of
from lorattt.data.loose import unlabelled_class_names
from lorattt.errors import UserError

BIRDS = {"n01530575": "brambling", "n01531178": "goldfinch", "n01532829": "house finch"}
FISH = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark"}
NUMBERED = {"0": "tench", "1": "goldfish", "2": "great white shark", "10": "brambling", "11": "goldfinch"}


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: Any, name: str = "names.txt") -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def refused(folders: list[str], source: Any) -> str:
    with pytest.raises(UserError) as caught:
        names_of(folders, source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def names_and_warnings(folders: list[str], source: Any) -> tuple[list[str], list[str]]:
    """The names, and the warnings about them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = names_of(folders, source)
    return names, [str(each.message) for each in caught]


# --- a key in front -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [FISH, BIRDS], ids=["fish", "birds"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "line",
    [
        "{key} {name}",
        "{key}\t{name}",
        "{key},{name}",
        '{key}, "{name}"',
        "{key}: {name}",
        "{key} = {name}",
        "{number} {key} {name}",  # the number of the class, its wnid, its name
        "{key} {number} {underscores}",  # ILSVRC's map_clsloc.txt
        "'{key}': '{name}',",  # a Python dict, line by line
    ],
)
def test_lines_that_name_the_folders_are_a_mapping(names: dict[str, str], order: int, line: str, file: Any) -> None:
    pairs = list(names.items())[::order]
    text = "".join(
        line.format(key=key, name=name, underscores=name.replace(" ", "_"), number=number) + "\n"
        for number, (key, name) in enumerate(pairs, 11)
    )
    found, said = names_and_warnings(sorted(names), file(text))
    assert found == [names[key] for key in sorted(names)]
    if not line.startswith("'"):
        (said_once,) = said
        assert f"{sorted(names)[0]!r} is {names[sorted(names)[0]]!r}" in said_once


def test_a_list_of_more_classes_than_there_are_folders(file: Any) -> None:
    text = "".join(f"{key}\t{name}\n" for key, name in (FISH | BIRDS).items())
    assert names_and_warnings(["n01443537", "n01531178"], file("wnid\tname\n" + text))[0] == ["goldfish", "goldfinch"]


def test_lines_for_most_folders_name_the_one_that_lacks(file: Any) -> None:
    text = "".join(f"{key} {name}\n" for key, name in list(FISH.items())[:2])
    assert "class folder 'n01484850' is not in " in refused(sorted(FISH), file(text))
    text = "".join(f"{key} {name}\n" for key, name in FISH.items()) + "tench\n"
    assert "'tench' does not begin with a folder" in refused(sorted(FISH), file(text))


def test_a_folder_twice(file: Any) -> None:
    text = "".join(f"{key} {name}\n" for key, name in FISH.items()) + "n01440764 carp\n"
    assert "'n01440764' comes twice" in refused(sorted(FISH), file(text))
    assert "key 'a' comes twice" in refused(["a"], file('{"a": "cat", "a": "dog"}', "names.json"))


def test_names_keep_the_numbers_that_are_theirs(file: Any) -> None:
    """Only those between a wnid and its name are ILSVRC's."""
    assert names_and_warnings(["f1", "f2"], file("f1\t737-200\nf2\t747-300\n"))[0] == ["737-200", "747-300"]
    assert names_and_warnings(["f1", "f2"], file("f1: 1 euro\nf2: 2 euro\n"))[0] == ["1 euro", "2 euro"]


@pytest.mark.parametrize(
    ("folders", "text"),
    [
        (["black", "white"], "black swan\nwhite swan\n"),  # the folder's name may begin the class's
        (["1", "2"], "1 euro\n2 euro\n"),
        (["carp", "tench"], "carp, Cyprinus carpio\ntench, Tinca tinca\n"),  # a synonym, or a table of two columns
    ],
)
def test_lines_that_can_be_read_in_two_ways(folders: list[str], text: str, file: Any) -> None:
    lines = text.splitlines()
    assert f"as {lines[0]!r} does: put a tab between" in refused(folders, file(text))
    # The two ways out that the message names.
    assert names_and_warnings(folders, file(lines, "names.json"))[0] == lines
    tabs = "".join(f"{folder}\t{line}\n" for folder, line in zip(folders, lines, strict=True))
    assert names_and_warnings(folders, file(tabs))[0] == lines


# --- numbers in front ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [sorted(FISH), []], ids=["folders", "none"])
@pytest.mark.parametrize(
    "line", ["{n}: {name}", "{n} {name}", "{n}. {name}", "{n}\t{name}", "({n}) {name}", "{n},{name}"]
)
@pytest.mark.parametrize("start", [0, 1])
def test_numbers_in_front_are_refused(folders: list[str], line: str, start: int, file: Any) -> None:
    lines = [line.format(n=n, name=name) for n, name in enumerate(FISH.values(), start)]
    message = refused(folders, file("\n".join(lines)))
    assert f"each line begins with a number, as {lines[0]!r} does: leave the numbers out" in message
    assert "begins with a number" in refused(folders, file("\n".join(["index,name", *lines])))


def test_numbers_that_are_part_of_names(file: Any) -> None:
    cars = ["2012 Audi A5", "2007 BMW X5", "1994 Audi 100"]
    assert names_of([], file("\n".join(cars))) == cars
    assert names_of([], file("737-200\n737-300\n747-100\n")) == ["737-200", "737-300", "747-100"]
    found, said = names_and_warnings([], file(["1 cent", "2 cent"], "names.json"))
    assert found == ["1 cent", "2 cent"]
    assert "each name begins with a number" in said[0]


def test_a_python_dict_of_numbers(file: Any) -> None:
    text = "{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n 2: \"great white shark\"}"
    message = refused(sorted(FISH), file(text))
    assert "its keys must be the folders' names, and are '0', '1', '2'" in message
    assert names_of([], file(text)) == ["tench, Tinca tinca", "goldfish", "great white shark"]
    assert names_of(["0", "1", "2"], file(text)) == ["tench, Tinca tinca", "goldfish", "great white shark"]
    assert names_of([], file("'cat',\n'dog',\n")) == ["cat", "dog"]
    assert names_of([], file("['cat', 'dog']")) == ["cat", "dog"]
    assert "begins with -" in refused([], file("- cat\n- dog\n"))
    assert "YAML is not read" in refused([], file("- cat\n", "names.yaml"))


def test_wnids_of_other_folders(file: Any) -> None:
    text = "".join(f"{key} {name}\n" for key, name in FISH.items())
    assert "begins with a wnid" in refused(["a", "b", "c"], file(text))
    found, said = names_and_warnings([], file(text))
    assert found == list(FISH.values())
    assert "has a wnid in front of each name" in said[0]
    with pytest.warns(UserWarning, match="a wnid in front"):
        assert unlabelled_class_names(file(text)) == list(FISH.values())


def test_keras_class_index(file: Any) -> None:
    content = {str(n): [key, name.replace(" ", "_")] for n, (key, name) in enumerate(FISH.items())}
    path = file(content, "index.json")
    for folders in (sorted(FISH), ["0", "1", "2"], []):
        assert names_of(folders, path) == list(FISH.values())


# --- by position --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "lines", "json"])
def test_numbered_folders_ask_for_a_mapping(kind: str, file: Any) -> None:
    names = list(NUMBERED.values())
    source = {"list": names, "lines": None, "json": None}[kind]
    source = source or file(
        "\n".join(names) if kind == "lines" else names, f"names.{'json' if kind == 'json' else 'txt'}"
    )
    assert "sorted as text, '11' comes before '2'" in refused(sorted(NUMBERED), source)
    by_folder = [NUMBERED[folder] for folder in sorted(NUMBERED)]
    assert names_of(sorted(NUMBERED), file(NUMBERED, "object.json")) == by_folder
    assert (
        names_and_warnings(sorted(NUMBERED), file("".join(f"{k}: {v}\n" for k, v in NUMBERED.items())))[0] == by_folder
    )


def test_other_numbered_folders(file: Any) -> None:
    folders = sorted(f"class_{n}" for n in (1, 2, 3, 20, 100))
    assert "sorted as text, 'class_100' comes before 'class_2'" in refused(folders, ["a", "b", "c", "d", "e"])
    assert "sorted as text, 'DC-10' comes before 'DC-3'" in refused(["737", "DC-10", "DC-3"], ["a", "b", "c"])
    # Other marks sort as text in both.
    assert names_of(["a", "a b", "a1b", "a_2"], ["w", "x", "y", "z"]) == ["w", "x", "y", "z"]
    # In either order the same, or the folders' own names: nothing is open.
    assert names_of(["01", "02", "10"], ["a", "b", "c"]) == ["a", "b", "c"]
    assert names_of(folders, [folder.replace("_", " ") for folder in folders])[1] == "class 100"


def test_the_folders_own_names_in_another_order(file: Any) -> None:
    message = refused(["cat", "dog", "owl"], ["dog", "cat", "owl"])
    assert "name 1 is 'dog', which is what class 2 is called, and class 1 is called 'cat'" in message
    assert "is in another order" in refused(["great_auk", "black-bird", "x"], file("Black bird\ngreat auk\ny\n"))
    # One name alone may be a better one for another class.
    assert names_and_warnings(["construction crane", "crane"], ["crane", "crane bird"])[0] == ["crane", "crane bird"]


def test_which_folder_got_which_name_is_reported() -> None:
    assert names_and_warnings(["cat", "great_auk"], ["Cat", "great auk"]) == (["Cat", "great auk"], [])
    folders = [f"f{n}" for n in range(9)]
    found, (said,) = names_and_warnings(folders, [f"name {chr(97 + n)}" for n in range(9)])
    assert "'f0' is 'name a', 'f1' is 'name b', 'f2' is 'name c', ..., 'f8' is 'name i'" in said
    assert found[8] == "name i"


# --- what is no name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {name: [f"A {name} surface, from angle {n}." for n in range(60)] for name in ("banded", "gauzy")},
        {"cat": {"gpt": ["soft"] * 500}, "dog": {"gpt": ["loud"] * 500}},
        [["a cat"] * 400, ["a dog"] * 400],
    ],
)
@pytest.mark.parametrize("folders", [[], ["banded", "gauzy"]])
def test_descriptions_are_refused_in_a_short_line(content: Any, folders: list[str], file: Any) -> None:
    with pytest.raises(UserError) as caught:
        names_of(folders, path := file(content, "texts.json"))
    message = str(caught.value).replace(path, "FILE")
    assert len(message) < 200
    assert "a class has one name here, and its texts are made of the name by templates" in message


def test_other_values_are_no_names(file: Any) -> None:
    assert "name 1 (of 'cat') is 0, not a text: turn the file round" in refused(
        [], file({"cat": 0, "dog": 1}, "a.json")
    )
    assert "name 2 is None, not a text" in refused([], file(["cat", None], "a.json"))
    assert len(refused([], [10**3000])) < 300


@pytest.mark.parametrize("length", [300, 100_000])
def test_a_text_in_place_of_a_file_is_quoted_in_part(length: int) -> None:
    """A list typed as one text; a file system would not even look for a name of this length."""
    text = ", ".join(["cat"] * (length // 5))
    for call in (lambda: names_of(["a"], text), lambda: unlabelled_class_names(text)):
        with pytest.raises(UserError, match="no such file") as caught:
            call()
        assert len(str(caught.value)) < 300


def test_an_accent_is_the_same_however_it_is_written(file: Any) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    for folder, key in ((composed, apart), (apart, composed)):
        assert names_of([folder], file(json.dumps({key: "a coffee house"}, ensure_ascii=False), "a.json")) == [
            "a coffee house"
        ]
        assert names_and_warnings([folder], file(f"{key}\ta coffee house"))[0] == ["a coffee house"]
