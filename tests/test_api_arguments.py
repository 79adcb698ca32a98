"""The Python call: what its arguments may be, and the line for each that cannot be one."""

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorattt.api import classify
from lorattt.clip.load import ClipSpec
from lorattt.errors import UserError
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.zero_shot import ZeroShot
from lorattt.views.crops import ViewSpec

MODEL = "lorattt-demo:demo"
NAMES = ["red circle", "blue square", "green star", "a cross"]
VIEWS = {"number": 10}
IMAGE = Image.new("RGB", (40, 40), (200, 30, 30))


@pytest.fixture(scope="module")
def zero_shot() -> ZeroShot:
    return ZeroShot(clip=ClipSpec("lorattt-demo", "demo"))


class Broken:
    """An object that cannot be written."""

    def __repr__(self) -> str:
        raise ValueError("no text")


class Colour(str, Enum):
    """Texts of another class."""

    RED = "red circle"
    BLUE = "blue square"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([0, 1], r"^class_names: name 1 is 0, not a text: give every class a name$"),
        (["cat", np.int64(1)], r"^class_names: name 2 is .*1.*, not a text"),
        (["cat", float("nan")], r"^class_names: name 2 is nan, not a text"),
        (["cat", None], r"^class_names: name 2 is None, not a text"),
        ([b"cat", b"dog"], r"^class_names: name 1 is b'cat', not a text"),
        ([["cat"], ["dog"]], r"^class_names: name 1 is \['cat'\], not a text"),
        ([list(range(9999))], r"^class_names: name 1 is \[0, 1, .{,120}, not a text"),
        ([Broken()], r"^class_names: name 1 is <Broken>, not a text"),
        (torch.tensor([1, 2]), r"^class_names: name 1 is tensor\(1\), not a text"),
        (range(3), r"^class_names: name 1 is 0, not a text"),
        ({0: "red", 1: "blue"}, r"^class_names is a mapping: give a list in label order, such as list\(names.values"),
        ({"cat": "a cat"}, r"^class_names is a mapping"),
        ({"cat", "dog"}, r"^class_names is a set, which has no order: give a list, such as sorted\(names\)"),
        (frozenset({"cat"}), r"^class_names is a set"),
        (None, r"^class_names: expected a list of texts, got None"),
        (3, r"^class_names: expected a list of texts, got 3"),
        (b"cat", r"^class_names: expected a list of texts, got b'cat'"),
        (np.array("cat"), r"^class_names: expected a list of texts, got array"),
        (np.array([["cat", "dog"]]), r"^class_names: expected a list of texts, got array"),
        ("cat, dog", r"^class_names 'cat, dog': no such file; give a list such as"),
        pytest.param("cat, dog, " * 500, r"^class_names 'cat, dog, .{,120}': no such file", id="many names"),
        ("cat\0dog", r"^class_names 'cat\\x00dog': no such file"),
        ("~nobody-of-this-name/names.txt", r"^class_names '~nobody-of-this-name/names.txt': no such file"),
    ],
)
def test_class_names_are_texts(names: Any, message: str, zero_shot: ZeroShot) -> None:
    with pytest.raises(UserError, match=message) as caught:
        classify([IMAGE], names, method=zero_shot)
    assert "\n" not in str(caught.value)


def test_every_kind_of_text_is_a_class_name(tmp_path: Path, zero_shot: ZeroShot) -> None:
    (tmp_path / "names.txt").write_text("red circle\nblue square\n", encoding="utf-8")
    plain = ["red circle", "blue square"]
    kinds: list[Any] = [tuple(plain), iter(plain), dict.fromkeys(plain).keys(), dict(enumerate(plain)).values()]
    kinds += [np.array(plain), list(np.array(plain)), list(Colour), tmp_path / "names.txt", str(tmp_path / "names.txt")]
    expected = classify([IMAGE], plain, method=zero_shot)
    for names in kinds:
        found = classify([IMAGE], names, method=zero_shot)
        assert found == expected
        assert all(type(name) is str for name, _ in found[0].after)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_k": 0}, r"^top_k 0: must be at least 1$"),
        ({"top_k": "5"}, r"^top_k '5': must be a whole number$"),
        ({"top_k": 2.0}, r"^top_k 2\.0: must be a whole number$"),
        ({"top_k": True}, r"^top_k True: must be a whole number$"),
        ({"batch_size": 0}, r"^batch_size 0: must be at least 1$"),
        ({"batch_size": None}, r"^batch_size None: must be a whole number$"),
        ({"workers": -1}, r"^workers -1: must be at least 0$"),
        ({"workers": "2"}, r"^workers '2': must be a whole number$"),
        ({"seed": -1}, r"^seed -1: must be at least 0$"),
        ({"seed": 2**32}, r"^seed 4294967296: must be at most 4294967295$"),
        ({"seed": None}, r"^seed None: must be a whole number$"),
        ({"on_bad_image": "skp"}, r"^on_bad_image 'skp': must be error or skip$"),
        ({"on_bad_image": None}, r"^on_bad_image None: must be error or skip$"),
        ({"on_bad_image": np.array(["skip", "error"])}, r"^on_bad_image array.*: must be error or skip$"),
        ({"device": "abacus"}, r"^device 'abacus' cannot be used"),
        ({"device": 1.5}, r"^device '1\.5' cannot be used"),
        ({"device": object()}, r"^device '<object .*>' cannot be used"),
        ({"device": "meta"}, r"^device meta holds no numbers"),
        ({"method": None}, r"^method: expected a name or a method such as LoRATTT\(\.\.\.\), got NoneType$"),
        ({"method": LoRATTT}, r"got the class LoRATTT$"),
        ({"method": torch.nn.Linear(1, 1)}, r"got Linear$"),
        ({"method": "ZeroShoot"}, r"^method 'ZeroShoot': "),
        ({"model": ""}, r"^unknown model ''"),
        ({"model": 3}, r"^model: expected a text such as .* or a ClipSpec, got 3$"),
        ({"model": Path("weights.pt")}, r"^model: expected a text such as .* or a ClipSpec, got PosixPath"),
        ({"model": ClipSpec("lorattt-demo", "demo", dtype="float32")}, r"^model\.dtype: 'float32' is not one of fp32"),  # type: ignore[arg-type]
        ({"model": ClipSpec("lorattt-demo", 3)}, r"^model\.pretrained: 3 is not a text or null$"),  # type: ignore[arg-type]
        ({"views": ViewSpec(number=10.5)}, r"^views\.number: 10\.5 is not a whole number$"),  # type: ignore[arg-type]
        ({"views": {"place": np.array(["device", "auto"])}}, r"^views\.place: array.* is not one of auto"),
        ({"lora": {"rank": np.arange(999)}}, r"^lora\.rank: array.{,120} is not a whole number$"),
        ({"lora": None}, r"^lora: LoRASpec takes rank, .*; got None$"),
    ],
)
def test_an_argument_of_another_type_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        classify([IMAGE], NAMES, **{"model": MODEL, **given})
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_numbers() -> None:
    given = {"top_k": np.int64(2), "batch_size": np.int32(1), "workers": np.uint8(0), "seed": np.int64(3)}
    options: Any = {"model": MODEL, "method": "mean_of_views", "views": {"number": np.int64(10)}}
    found = classify([IMAGE], NAMES, **options, **given)
    assert found == classify([IMAGE], NAMES, top_k=2, batch_size=1, seed=3, **options)


def test_numbers_of_any_size_are_numbers(zero_shot: ZeroShot) -> None:
    expected = classify([IMAGE], NAMES, method=zero_shot)
    assert classify([IMAGE], NAMES, method=zero_shot, top_k=10**5000, batch_size=10**5000) == expected
    with pytest.raises(UserError, match=r"^seed .{,120}: must be at most"):
        classify([IMAGE], NAMES, model=MODEL, seed=10**5000)


@pytest.mark.parametrize("name", ["ZeroShot", "MTA", "zero_shot", "mta"])
def test_a_method_goes_by_its_class_too(name: str) -> None:
    kind = {"ZeroShot": "zero_shot", "MTA": "mta"}.get(name, name)
    options = {} if kind == "zero_shot" else {"views": VIEWS}
    found = classify([IMAGE], NAMES, method=name, model=MODEL, **options)
    assert found == classify([IMAGE], NAMES, method=kind, model=MODEL, **options)
