"""The table of models in docs/faq.md against the structure of open_clip's models, which are built without weights."""

import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from lorattt.clip.model import Clip
from lorattt.clip.text_tower import find_text_parts
from lorattt.clip.vision import VisionTower, wrap_tower
from lorattt.errors import UserError

FAQ = Path(__file__).parents[2] / "docs" / "faq.md"
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def examples() -> list[tuple[str, bool, bool]]:
    """Model, whether ``LoRATTT`` can adapt it, whether it can have prompts: as the page says."""
    table = FAQ.read_text(encoding="utf-8").split("| towers |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [
        (name, row[2] == "yes", row[3] == "yes")
        for row in rows
        for name in re.findall("`([^`]+)`", row[1])
        if name in open_clip.list_models()  # older versions have fewer
    ]


def built(name: str) -> Any:
    """The model without values, nor with the text tower of ``transformers``, whose configuration is on a hub."""
    config = {**open_clip.get_model_config(name)}
    custom = config.pop("custom_text", False)
    fetched = "hf_model_name" in config["text_cfg"]
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if fetched:
        kind, config["text_cfg"] = open_clip.CustomTextCLIP, TEXT
    with torch.device("meta"):
        model = kind(**config)
    if fetched:
        model.text = torch.nn.Identity()
    return model


def test_the_table_is_read() -> None:
    assert {row[1:] for row in examples()} == {(True, True), (True, False), (False, True), (False, False)}
    assert len(examples()) >= 12


@pytest.mark.parametrize(("name", "adapts", "prompts"), examples())
def test_each_example_is_in_its_row(name: str, adapts: bool, prompts: bool) -> None:
    model = built(name)
    assert isinstance(wrap_tower(model.visual, name), VisionTower) == adapts
    assert (find_text_parts(model) is not None) == prompts


@pytest.mark.skipif(
    not any("worldwide" in name for name in open_clip.list_models()), reason="older versions do not have this pooling"
)
def test_a_text_tower_read_at_a_given_token_has_no_prompts_but_all_else() -> None:
    """MetaCLIP worldwide's pooling, on a tower whose end-of-text token is also the one with the highest number."""
    vision = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
    clips = []
    for pooling in ({}, {"pool_type": "eos", "eos_id": 49407}):
        torch.manual_seed(0)
        model = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg={**TEXT, **pooling})
        clips.append(Clip(model.requires_grad_(False).eval(), open_clip.SimpleTokenizer(), "small", {}))
    plain, other = clips
    names = ["cat", "striped dog"]
    torch.testing.assert_close(other.text_features(names, "single"), plain.text_features(names, "single"))
    assert other.vit.depth == 2
    assert plain.text_tower.width == 32
    with pytest.raises(UserError, match="small has no causal text tower"):
        _ = other.text_tower
