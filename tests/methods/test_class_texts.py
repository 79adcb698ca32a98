"""Class texts: each prompt's file is read once, each name tokenised once, each text encoded once, on any device."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import lorattt.methods.class_contrast
import lorattt.methods.class_texts
import lorattt.methods.self_tpt
import lorattt.prompts.class_prompts
import lorattt.prompts.prompt
from conftest import DEMO, Cli
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.clip.model import Clip
from lorattt.methods.class_texts import ClassTexts
from lorattt.methods.several import Several
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import FlatnessSpec

NAMES = ["red circle", "blue square", "red circle"]
SELF_TPT = Path(__file__).parents[2] / "lightning_configs" / "demo" / "self_tpt.yaml"


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(ClipSpec("lorattt-demo", "demo"))


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files are read, prompts built, lists of names tokenised, and contexts or templates encoded."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(lorattt.prompts.prompt, "load_prompt")
    for module in (lorattt.methods.class_texts, lorattt.methods.class_contrast):
        count(module, "build_prompt")
    count(ClassPrompts, "__init__")
    count(ClassPrompts, "features")
    count(lorattt.methods.self_tpt, "distinct_names")
    count(Clip, "text_features")
    return found


def test_self_tpt_reads_its_file_and_its_names_once(cli: Cli, counts: Counter[str]) -> None:
    run = cli("test", "-c", str(SELF_TPT), *DEMO, "--model.steps", "1")
    assert run.code == 0, run.err
    assert (counts["load_prompt"], counts["build_prompt"]) == (1, 1)
    assert (counts["distinct_names"], counts["__init__"]) == (1, 1), "names alone, and names with the context's tail"


def test_methods_share_prompts_and_texts(clip: Clip, counts: Counter[str]) -> None:
    loaded = LoadedClip(clip, ClipSpec("lorattt-demo", "demo"))
    several = Several(methods=["tpt", "ctpt", "tlla", "zero_shot", "mta"], clip=loaded, views=ViewSpec(number=12))
    several.use_classes(NAMES)
    several.use_classes(NAMES)
    assert (counts["__init__"], counts["text_features"]) == (1, 1)
    assert counts["features"] == 2, "of the prompt and of its neighbours"
    texts = {id(method.text) for method in several.methods.values()}
    assert len(texts) == 2


def test_what_is_made_is_kept_and_follows_the_model(clip: Clip) -> None:
    texts, spec, flatness = ClassTexts(clip, NAMES, 0), PromptSpec(words="an image of"), FlatnessSpec(directions=2)
    for source in ("single", ["a {}", "the {}"], spec):
        assert texts.features(source) is texts.features(source)
        assert texts.features(source).shape[0] == 3
    assert texts.prompt(spec)[0] is texts.prompt(spec)[0]
    around = texts.neighbours(spec, flatness)
    assert around.shape[:2] == (2, 3)
    assert texts.neighbours(spec, flatness) is around
    assert texts.neighbours(spec, FlatnessSpec(directions=2, radius=1.0)) is not around
    texts.clip = Elsewhere()  # type: ignore[assignment]
    assert {texts.features(spec).device.type, texts.prompt(spec)[1].device.type} == {"meta"}


class Elsewhere:
    mean = torch.zeros(1, device="meta")


def test_classes_of_one_name_are_level(clip: Clip) -> None:
    logits = torch.tensor([[1.0, 2.0, 1.5], [3.0, 2.0, 1.0]])
    assert ClassTexts(clip, NAMES, 0).level(logits).tolist() == [[1.0, 2.0, 1.0], [3.0, 2.0, 1.0]]
    assert (ClassTexts(clip, NAMES, 0).repeats, ClassTexts(clip, NAMES[:2], 0).repeats) == (True, False)
