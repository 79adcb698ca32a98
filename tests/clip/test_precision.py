"""Towers in bf16 and fp16: of every kind that open_clip has, features are those of float32 up to rounding."""

from pathlib import Path
from typing import Any

import open_clip
import open_clip.hf_model
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.errors import UserError
from tiny_models import add_models

VISION = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}
NORMS = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True}
DECODER = {"context_length": 15, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SIGLIP = {**TEXT, "proj_bias": True, "no_causal_mask": True, "pool_type": "last"}
HF = {
    "hf_model_name": "some/roberta",
    "hf_tokenizer_name": "some/roberta",
    "hf_proj_type": "linear",
    "context_length": 16,
}


def _timm(name: str, pool: str = "", projection: str = "linear") -> dict[str, Any]:
    return {"timm_model_name": name, "image_size": 160, "timm_pool": pool, "timm_proj": projection}


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"vision_cfg": VISION, "text_cfg": TEXT},
    "scaled-layers": {"vision_cfg": {**VISION, "ls_init_value": 0.3}, "text_cfg": {**TEXT, "ls_init_value": 0.2}},
    "class-token-text": {"custom_text": True, "vision_cfg": VISION, "text_cfg": {**TEXT, "embed_cls": True}},
    "pooled": {"vision_cfg": {**VISION, **POOL}, "text_cfg": TEXT},
    "norms": {"vision_cfg": {**VISION, **NORMS, "ls_init_value": 0.3}, "text_cfg": {**TEXT, **NORMS}},
    "coca": {
        "custom_text": True,
        "vision_cfg": {**VISION, **POOL, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": DECODER,
    },
    "resnet": {
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None, "head_width": 16},
        "text_cfg": TEXT,
    },
    "timm-vit": {"custom_text": True, "init_logit_bias": -10, "vision_cfg": _timm("test_vit3"), "text_cfg": SIGLIP},
    "timm-convnext": {"vision_cfg": _timm("test_convnext"), "text_cfg": TEXT},
    "timm-resnet": {"vision_cfg": _timm("test_resnet"), "text_cfg": TEXT},
    "timm-efficientnet": {"vision_cfg": _timm("test_efficientnet", "avg", "mlp"), "text_cfg": TEXT},
    "hf-text": {"vision_cfg": VISION, "text_cfg": HF},
    "hf-text-timm": {"vision_cfg": _timm("test_vit"), "text_cfg": HF},
    "biased-projection": {"custom_text": True, "vision_cfg": VISION, "text_cfg": SIGLIP},
}


class _Roberta(nn.Module):
    """A text tower with the parts that Hugging Face's have, and its own kind of LayerNorm."""

    def __init__(self, base_weights: bool) -> None:
        super().__init__()
        self.base_weights = base_weights
        self.embeddings, self.norm = nn.Embedding(49408, 32), nn.LayerNorm(32)
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = self.layer(self.norm(self.embeddings(input_ids)))
        return type("Output", (), {"last_hidden_state": hidden})


class _Auto:
    """What open_clip uses of the package transformers, without a hub."""

    asked: list[str] = []  # noqa: RUF012 (one for all, as the module has one)

    @staticmethod
    def from_config(config: Any, **_: Any) -> nn.Module:
        return _Roberta(base_weights=False)

    @classmethod
    def from_pretrained(cls, name: str, **_: Any) -> nn.Module:
        cls.asked.append(name)
        return _Roberta(base_weights=True)


class _Config:
    vocab_size, hidden_size, pad_token_id, model_type = 49408, 32, 0, "roberta"

    @classmethod
    def from_pretrained(cls, name: str) -> "_Config":
        return cls()


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory: pytest.TempPathFactory) -> None:
    configs = {f"low-{name}": {"embed_dim": 24, **config} for name, config in CONFIGS.items()}
    add_models(tmp_path_factory.mktemp("configs"), configs)


@pytest.fixture(autouse=True)
def _without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(open_clip.hf_model, "transformers", object())
    monkeypatch.setattr(open_clip.hf_model, "AutoModel", _Auto, raising=False)
    monkeypatch.setattr(open_clip.hf_model, "AutoConfig", _Config, raising=False)
    monkeypatch.setattr(_Auto, "asked", [])


def _load(kind: str, path: Path | None, dtype: Any = "fp32") -> Clip:
    return load_clip(ClipSpec(f"low-{kind}", None if path is None else str(path), dtype))


@pytest.mark.filterwarnings("ignore:low-.* has random weights")
@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "biased-projection"])
def test_features_in_low_precision(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    full = _load(kind, None)
    for name, value in full.model.named_parameters():
        if name == "text_decoder.text_projection":  # open_clip 3.0 leaves in it what the memory held
            value.normal_(std=0.02)
    torch.save(full.model.state_dict(), tmp_path / "w.pt")
    size = full.image_size
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = ["cat", "a dog in the park", "missile"]
    image, text = full.image_features(pixels), full.text_features(names, "single")
    for dtype, step in (("bf16", 2**-9), ("fp16", 2**-12)):  # the relative error of one rounding
        low = _load(kind, tmp_path / "w.pt", dtype)
        # 200 roundings on the way, each at random, add up to step * sqrt(200); a cosine loses half its square.
        bound = 200 * step**2 / 2
        for given, wanted in ((low.image_features(pixels), image), (low.text_features(names, "single"), text)):
            assert given.dtype == torch.float32
            assert float((1 - F.cosine_similarity(given, wanted)).max()) < bound, (dtype, kind)
        assert torch.equal(low.logit_scale, full.logit_scale), "a factor of 100 must not become 98.9"


@pytest.mark.filterwarnings("ignore:low-.* has random weights")
@pytest.mark.parametrize("kind", ["hf-text", "hf-text-timm"])
def test_no_base_weights_are_asked_for(kind: str, tmp_path: Path) -> None:
    """Neither for random weights nor for a file, whose weights replace them."""
    clip = _load(kind, None)
    assert clip.model.text.transformer.base_weights is False
    torch.save(clip.model.state_dict(), tmp_path / "w.pt")
    _load(kind, tmp_path / "w.pt")
    assert _Auto.asked == []


def test_what_open_clip_cannot_cast_is_rejected() -> None:
    with pytest.raises(UserError, match="cannot make low-biased-projection in bf16: set model.clip.dtype to fp32"):
        _load("biased-projection", None, "bf16")
