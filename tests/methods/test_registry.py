"""Methods from names and plain values: what becomes of them, and each refusal in one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lorattt.adapters.lora import LoRASpec
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.errors import UserError
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.mta import MTA, MTASpec
from lorattt.methods.registry import METHODS, build_method, convert, find_method
from lorattt.methods.zero import ZERO, ZeroSpec
from lorattt.methods.zero_shot import ZeroShot
from lorattt.views.crops import ViewSpec

DEMO = ClipSpec("lorattt-demo", "demo")


@pytest.fixture(scope="module")
def loaded() -> LoadedClip:
    return LoadedClip(load_clip(DEMO), DEMO)


def test_names() -> None:
    assert {"zero_shot", "lora_ttt", "mta", "zero", "mean_of_views"} <= set(METHODS)
    for name, kind in METHODS.items():
        assert kind.name == name
        assert find_method(name) is kind


def test_a_loaded_clip_is_given_as_it_is(loaded: LoadedClip) -> None:
    assert load_clip(loaded) is loaded.clip
    assert (loaded.model, loaded.pretrained, loaded.dtype) == (DEMO.model, DEMO.pretrained, DEMO.dtype)
    method = build_method("mta", {}, clip=loaded)
    assert method.clip is loaded.clip


def test_options_become_arguments(loaded: LoadedClip) -> None:
    views = {"number": 20, "scale": [0.5, 1]}
    method = build_method("lora_ttt", {"lora": {"rank": 2, "blocks": [-1]}, "steps": 2, "views": views}, clip=loaded)
    assert isinstance(method, LoRATTT)
    assert method.views == ViewSpec(20, (0.5, 1.0))
    assert (method.engine.steps, method.needs.trunks) == (2, {method.clip.vit.depth - 1})
    zero = build_method("zero", {"zero": {"gamma": 1, "ties": "confident"}}, clip=loaded, seed=4)
    assert isinstance(zero, ZERO)
    assert (zero.zero, zero.seed) == (ZeroSpec(1.0, "confident"), 4)
    mta = build_method("mta", {"mta": MTASpec(outer=2)}, clip=loaded)
    assert isinstance(mta, MTA)
    assert mta.mta.outer == 2


def test_common_arguments_reach_those_who_have_them(loaded: LoadedClip) -> None:
    views = ViewSpec(number=30)
    assert build_method("mta", {}, clip=loaded, views=views).views == views
    plain = build_method("zero_shot", {}, clip=loaded, views=views)
    assert isinstance(plain, ZeroShot)
    assert plain.views.number == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nothing", {}, r"^method 'nothing': known are zero_shot, lora_ttt, "),
        ("zero-shot", {}, r"^method 'zero-shot': did you mean zero_shot\?$"),
        (3, {}, r"^method 3: known are "),
        ("mta", {"mat": {}}, r"^x\.mat: MTA has no such argument; did you mean mta\?$"),
        ("mta", {"clip": DEMO}, r"^x\.clip: MTA has no such argument"),
        ("mta", {"seed": 1}, r"^x\.seed: MTA has no such argument"),
        ("mta", {"views": {"number": 8}}, r"^x\.views: MTA has no such argument"),
        ("mta", {"mta": {"lambda": 2}}, r"^x\.mta: MTASpec takes .*; got lambda; did you mean x\.mta\.lambda_y\?$"),
        ("mta", {"mta": {"q": 2}}, r"^x\.mta: MTASpec takes lambda_y, .*; got q$"),
        (
            "tpt",
            {"prompt": {"wrds": "a"}},
            r"^x\.prompt: PromptSpec takes .*; got wrds; did you mean x\.prompt\.words\?$",
        ),
        ("tpt", {"prompt": {"words": False}}, r"^x\.prompt\.words: False is not a text or null$"),
        ("MTA", {}, r"^method 'MTA': did you mean mta\?$"),
        ("LoRATT", {}, r"^method 'LoRATT': did you mean lora_ttt\?$"),
        ("x" * 5000, {}, r"^method 'x{1,90} \.\.\. x+': known are "),
        ("mta", {"mta": 3}, r"^x\.mta: MTASpec takes lambda_y, .*; got 3$"),
        ("mta", {"mta": {"outer": 2.5}}, r"^x\.mta\.outer: 2\.5 is not a whole number$"),
        ("mta", {"mta": {"outer": True}}, r"^x\.mta\.outer: True is not a whole number$"),
        ("mta", {"mta": {"lambda_y": "0.2"}}, r"^x\.mta\.lambda_y: '0\.2' is not a number$"),
        ("mta", {"mta": {"lambda_y": -1}}, r"^mta\.lambda_y -1"),
        ("zero", {"zero": {"ties": "coin"}}, r"^x\.zero\.ties: 'coin' is not one of confident, number$"),
        ("lora_ttt", {"lora": {"blocks": ["last"]}}, r"^x\.lora\.blocks\[0\]: 'last' is not a whole number$"),
        ("lora_ttt", {"tune": "lorra"}, r"^x\.tune: 'lorra' is not one of lora, layernorm or .*AdapterSpec$"),
        ("lora_ttt", {"chunk": "all"}, r"^x\.chunk: 'all' is not a whole number or null$"),
        ("lora_ttt", {"reset_every_step": 1}, r"^x\.reset_every_step: 1 is not true or false$"),
    ],
)
def test_refusals(name: str, options: dict[str, Any], message: str, loaded: LoadedClip) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_method(name, options, prefix="x.", clip=loaded, views=ViewSpec(number=10))
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class _Pair:
    left: int
    right: tuple[float, float] = (0.0, 1.0)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (float, 2, 2.0),
        (int, np.int64(3), 3),
        (int | None, None, None),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (list[str], ("a", "b"), ["a", "b"]),
        (Literal["a", "b"] | list[str], "b", "b"),
        (Literal["a", "b"] | list[str], ["c"], ["c"]),
        (_Pair | None, {"left": 1, "right": [2, 3]}, _Pair(1, (2.0, 3.0))),
        (Path, Path("x"), Path("x")),
        (Any, {"left": 1}, {"left": 1}),
        (dict[str, int], {"a": 1}, {"a": 1}),
    ],
)
def test_convert(hint: Any, value: Any, expected: Any) -> None:
    found = convert(hint, "key", value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (tuple[float, float], [1.0], r"^key: \[1\.0\] is not tuple\[float, float\]$"),
        (list[str], "ab", r"^key: 'ab' is not list\[str\]$"),
        (_Pair, {"right": [1, 2]}, r"^key: _Pair needs left$"),
        (str, 1, r"^key: 1 is not a text$"),
        (LoRASpec, [], r"^key: LoRASpec takes rank, .*; got \[\]$"),
    ],
)
def test_convert_refuses(hint: Any, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(hint, "key", value)
