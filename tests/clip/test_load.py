"""Loading checkpoints in every format people have, from files made here in the same format."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorattt import demo
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.errors import UserError
from tiny_models import add_models

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 8}
TIMM = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "test-vit": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "test-vit-quickgelu": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "test-timm": {"embed_dim": 16, "vision_cfg": TIMM, "text_cfg": TEXT},
    "test-rn": {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": TEXT},
}


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory: pytest.TempPathFactory) -> None:
    add_models(tmp_path_factory.mktemp("configs"), CONFIGS)


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(3)
    return open_clip.CLIP(**CONFIGS["test-vit"]).eval()


def _features(clip: Any) -> Tensor:
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features: Tensor = clip.image_features(pixels)
    return features


def _safetensors(model: nn.Module, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def _pt(model: nn.Module, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)


def _bare_pt(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


@pytest.mark.parametrize(
    ("write", "ending"), [(_safetensors, "safetensors"), (_pt, "pt"), (_bare_pt, "bin")], ids=["st", "pt", "bin"]
)
def test_checkpoint_files(original: nn.Module, tmp_path: Path, write: Any, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    write(original, path)
    clip = load_clip(ClipSpec("test-vit", str(path)))
    for name, value in original.state_dict().items():
        assert torch.equal(clip.model.state_dict()[name], value), name
    assert not clip.training
    assert not any(parameter.requires_grad for parameter in clip.parameters())


class _Archive(nn.Module):
    """What OpenAI published: a scripted module with the weights under these names, in half precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual = model.visual
        self.transformer = model.transformer
        self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
        self.positional_embedding, self.text_projection = model.positional_embedding, model.text_projection
        self.logit_scale = model.logit_scale
        self.register_buffer("input_resolution", torch.tensor(32))
        self.register_buffer("context_length", torch.tensor(77))
        self.register_buffer("vocab_size", torch.tensor(49408))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.logit_scale
        return result


def _archive(path: Path) -> nn.Module:
    torch.manual_seed(4)
    model = open_clip.CLIP(**CONFIGS["test-vit-quickgelu"]).eval().half()
    torch.jit.save(torch.jit.trace(_Archive(model), torch.zeros(1).half(), check_trace=False), str(path))
    return model


def test_openai_archive(tmp_path: Path) -> None:
    model = _archive(tmp_path / "ViT.pt")
    clip = load_clip(ClipSpec("test-vit-quickgelu", str(tmp_path / "ViT.pt")))
    for name, value in model.state_dict().items():
        assert torch.equal(clip.model.state_dict()[name], value.float()), name


def test_openai_archive_needs_quick_gelu(tmp_path: Path) -> None:
    _archive(tmp_path / "ViT.pt")
    with pytest.raises(UserError, match="quick GELU.*use model test-vit-quickgelu"):
        load_clip(ClipSpec("test-vit", str(tmp_path / "ViT.pt")))


def test_config_beside_a_file_tells_its_activation(original: nn.Module, tmp_path: Path) -> None:
    _safetensors(original, tmp_path / "w.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": False}}))
    load_clip(ClipSpec("test-vit", str(tmp_path / "w.safetensors")))
    with pytest.raises(UserError, match="use model test-vit$"):
        load_clip(ClipSpec("test-vit-quickgelu", str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize(
    ("model", "right"),
    [("ViT-B-16", "ViT-B-16-quickgelu"), ("ViT-L-14", "ViT-L-14-quickgelu"), ("RN50", "RN50-quickgelu")],
)
def test_tag_of_another_activation(model: str, right: str) -> None:
    with pytest.raises(UserError, match=f"use model {right}"):
        load_clip(ClipSpec(model, "openai"))


def test_quick_gelu_changes_the_features(original: nn.Module, tmp_path: Path) -> None:
    """The check above guards against a real difference."""
    _safetensors(original, tmp_path / "w.safetensors")
    plain = load_clip(ClipSpec("test-vit", str(tmp_path / "w.safetensors")))
    quick = load_clip(ClipSpec("test-vit-quickgelu", str(tmp_path / "w.safetensors")))
    assert not torch.allclose(_features(plain), _features(quick), atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 3e-2), ("fp16", 3e-3)])
def test_low_precision_towers(original: nn.Module, tmp_path: Path, dtype: Any, tolerance: float) -> None:
    _safetensors(original, tmp_path / "w.safetensors")
    path = str(tmp_path / "w.safetensors")
    low, full = load_clip(ClipSpec("test-vit", path, dtype)), load_clip(ClipSpec("test-vit", path))
    assert low.vision.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert _features(low).dtype == torch.float32
    torch.testing.assert_close(_features(low), _features(full), atol=tolerance, rtol=0)
    names = ["cat", "dog"]
    text = low.text_features(names, "single")
    assert text.dtype == torch.float32
    torch.testing.assert_close(text, full.text_features(names, "single"), atol=tolerance, rtol=0)


def test_resnet_tower_gives_features_and_refuses_adapters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIGS["test-rn"]).eval()
    _safetensors(model, tmp_path / "w.safetensors")
    clip = load_clip(ClipSpec("test-rn", str(tmp_path / "w.safetensors")))
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = model.encode_image(clip.normalise(pixels), normalize=True)
    torch.testing.assert_close(clip.image_features(pixels), expected.detach())
    with pytest.raises(UserError, match="test-rn.*ViT"):
        _ = clip.vit


def test_normalisation_is_that_of_the_models_preprocessing() -> None:
    clip = load_clip(ClipSpec(demo.MODEL_NAME, "demo"))
    pixels = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    torch.testing.assert_close(clip.normalise(pixels), (pixels / 255 - mean) / std)


def test_the_embedded_demo_loads() -> None:
    clip = load_clip(ClipSpec(demo.MODEL_NAME, "demo"))
    assert clip.image_size == 48
    assert clip.text_features(["red circle", "anything at all, 7 €"], "openai-7").isfinite().all()


def test_random_weights_are_said_to_be_random() -> None:
    with pytest.warns(UserWarning, match="random weights"):
        load_clip(ClipSpec("test-vit", None))


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files(original: nn.Module, tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"broken.{ending}"
    (_safetensors if ending == "safetensors" else _pt)(original, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"broken\.") as caught:
        load_clip(ClipSpec("test-vit", str(path)))
    assert "\n" not in str(caught.value)


def test_weights_of_another_model(original: nn.Module, tmp_path: Path) -> None:
    _safetensors(original, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="does not fit model test-rn: its weights are those of test-vit"):
        load_clip(ClipSpec("test-rn", str(tmp_path / "w.safetensors")))


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path(tmp_path / "harm"),)  # type: ignore[return-value]

    torch.save({"state_dict": Attack()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil"):
        load_clip(ClipSpec("test-vit", str(tmp_path / "evil.pt")))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ClipSpec("ViT-B-61", "openai"), "unknown model 'ViT-B-61'.*ViT-B-16"),
        (ClipSpec("ViT-B-32", "laion2b_nonsense"), "neither.*laion2b_s34b_b79k"),
        (ClipSpec("test-vit", "/nowhere/w.pt"), "/nowhere/w.pt.*neither an existing file"),
        (ClipSpec(demo.MODEL_NAME, "openai"), "its tags are demo"),
        (ClipSpec("hf-hub:someone/model"), "hf-hub:someone/model.*the weights as a file"),
    ],
)
def test_what_does_not_exist(spec: ClipSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_clip(spec)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'transformers'", name="transformers"), "pip install transformers"),
        (OSError("cannot reach it\nat all"), r"cannot be loaded \(cannot reach it\)"),
    ],
)
def test_tokenizers_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def refuse(name: str) -> None:
        raise error

    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    monkeypatch.setattr(open_clip, "create_model", None)  # no weights are fetched before
    with pytest.raises(UserError, match=f"tokenizer of test-vit.*{message}"):
        load_clip(ClipSpec("test-vit", None))


def _tag(monkeypatch: pytest.MonkeyPatch, model: str, path: Path) -> None:
    """Let open_clip know a tag "mine" of a model, whose file is there."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, model, {"mine": {"file": str(path), "mean": (0.4, 0.5, 0.6)}})


def test_a_tag(original: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pt(original, tmp_path / "w.pt")
    _tag(monkeypatch, "test-vit", tmp_path / "w.pt")
    clip = load_clip(ClipSpec("test-vit", "mine"))
    assert all(torch.equal(clip.model.state_dict()[name], value) for name, value in original.state_dict().items())
    torch.testing.assert_close(clip.mean.flatten(), torch.tensor([0.4, 0.5, 0.6]))


@pytest.mark.filterwarnings("ignore:test-timm has random weights")
def test_a_tags_scale_of_logits_keeps_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip casts models with one of timm's image towers as a whole; their scale would come out as 98.9."""
    full = load_clip(ClipSpec("test-timm", None))
    full.model.logit_scale.data.fill_(100.0).log_()
    torch.save(full.model.state_dict(), tmp_path / "w.pt")
    _tag(monkeypatch, "test-timm", tmp_path / "w.pt")
    assert float(load_clip(ClipSpec("test-timm", "mine", "bf16")).logit_scale) == pytest.approx(100, rel=1e-6)


def test_a_tags_file_that_is_damaged(original: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tag(monkeypatch, "test-vit", tmp_path / "w.safetensors")
    _safetensors(original, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        UserError, match=r"weights 'mine' of test-vit cannot be loaded from .*w\.safetensors.*delete that file"
    ):
        load_clip(ClipSpec("test-vit", "mine"))
    state = original.state_dict() | {"visual.proj": torch.full_like(original.state_dict()["visual.proj"], torch.nan)}
    torch.save(state, tmp_path / "w.pt")
    _tag(monkeypatch, "test-vit", tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"the weights 'mine' of test-vit: visual\.proj has values that are not finite"):
        load_clip(ClipSpec("test-vit", "mine"))
