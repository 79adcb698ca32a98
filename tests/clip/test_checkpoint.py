"""Weights from files: whatever they are wrapped in, whatever else the file is, each with one clear line."""

import argparse
import gzip
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lorattt.clip.build import build_architecture
from lorattt.clip.checkpoint_match import explain_misfit, shapes_of
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.errors import UserError
from tiny_models import add_models

# Sizes that no other test's models have: messages name every architecture that fits.
VISION = {"image_size": 32, "patch_size": 16, "width": 48, "layers": 2, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 321, "width": 24, "heads": 2, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "fit-vit": {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT},
    "fit-vit-64px": {"embed_dim": 20, "vision_cfg": {**VISION, "image_size": 64}, "text_cfg": TEXT},
    "fit-wide": {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": {**TEXT, "width": 40}},
    "fit-wide-quickgelu": {
        **{"embed_dim": 20, "quick_gelu": True},
        **{"vision_cfg": VISION, "text_cfg": {**TEXT, "width": 40}},
    },
    "fit-custom": {"embed_dim": 20, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "fit-bias": {"embed_dim": 20, "init_logit_bias": -10, "vision_cfg": VISION, "text_cfg": {**TEXT, "width": 26}},
}
State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory: pytest.TempPathFactory) -> None:
    add_models(tmp_path_factory.mktemp("configs"), CONFIGS)


@pytest.fixture(autouse=True)
def _one_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is used here, and each takes a third of a second to make."""
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: None)


def _state(config: str = "fit-vit", seed: int = 5, **changes: Any) -> State:
    torch.manual_seed(seed)
    return dict(build_architecture({**CONFIGS[config], **changes}).state_dict())


def _below(beginning: str, state: State) -> State:
    return {f"{beginning}{name}": tensor for name, tensor in state.items()}


def _load(content: Any, folder: Path, model: str = "fit-vit", **spec: Any) -> State:
    torch.save(content, folder / "weights.pt")
    return dict(load_clip(ClipSpec(model, str(folder / "weights.pt"), **spec)).model.state_dict())


def _rejection(path: Path | str, model: str = "fit-vit", **spec: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_clip(ClipSpec(model, str(path), **spec))
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700 + len(str(path)), "a message is a line, not a list"
    return line


def _refusal(content: Any, folder: Path, model: str = "fit-vit", **spec: Any) -> str:
    torch.save(content, folder / "weights.pt")
    return _rejection(folder / "weights.pt", model, **spec)


# --- wrappings --------------------------------------------------------------------------------------

OPENAI = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(12), "vocab_size": torch.tensor(321)}
WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "alone": lambda s: s,
    "open_clip": lambda s: {"epoch": 1, "name": "run", "state_dict": _below("module.", s), "optimizer": {"state": {}}},
    "model_state_dict": lambda s: {"epoch": 1, "model_state_dict": s, "loss": 0.1},
    "model": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
    "module": lambda s: {"module": s},
    "timm's average": lambda s: {"state_dict_ema": s, "epoch": 4},
    "average": lambda s: {"model_ema": {"module": s}},
    "swa": lambda s: {"n_averaged": torch.tensor(3), **_below("module.", s)},
    "nested": lambda s: {"app": {"model": {"state_dict": s}}},
    "Lightning": lambda s: {"state_dict": _below("model.", s), "loops": {}, "pytorch-lightning_version": "2.6"},
    "clip_model": lambda s: _below("clip_model.", s),
    "ours, of a frozen method": lambda s: {"state_dict": _below("clip.model.", s)},
    "parallel and compiled": lambda s: _below("module._orig_mod.", s),
    "compiled and parallel": lambda s: {"model": _below("_orig_mod.module.", s)},
    "parts compiled": lambda s: {k.replace("visual.", "visual._orig_mod."): v for k, v in s.items()},
    "sharded blocks": lambda s: {
        k.replace("resblocks.1.", "resblocks.1._fsdp_wrapped_module."): v for k, v in s.items()
    },
    "OpenAI's numbers": lambda s: {**s, **OPENAI},
    "OpenAI's numbers, parallel": lambda s: _below("module.", {**s, **OPENAI}),
    "the text tower in a module": lambda s: {
        k if k.startswith(("visual.", "logit")) else f"text.{k}": v for k, v in s.items()
    },
    "scale with a dimension": lambda s: {**s, "logit_scale": s["logit_scale"].reshape(1)},
    "SigLIP's bias": lambda s: {**s, "logit_bias": torch.tensor([-10.0])},
    "half precision": lambda s: {k: v.half().float().half() for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_right_weights_in_wrappings(wrapping: str, tmp_path: Path) -> None:
    state = _state()
    if wrapping == "half precision":
        state = {name: tensor.half().float() for name, tensor in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "preprocessing of images: assumed")  # these models have no tags
        # Nothing is left unused.
        loaded = _load(WRAPPINGS[wrapping](state), tmp_path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_both_layouts_of_the_text_tower(tmp_path: Path) -> None:
    state = _state()
    loaded = _load({"model": _below("model.", state)}, tmp_path, "fit-custom")
    assert torch.equal(loaded["text.token_embedding.weight"], state["token_embedding.weight"])
    assert torch.equal(loaded["text.ln_final.bias"], state["ln_final.bias"])


def test_a_file_without_the_bias_that_a_model_has(tmp_path: Path) -> None:
    """Probabilities over classes do not depend on it."""
    state = _state("fit-bias")
    del state["logit_bias"]
    loaded = _load(state, tmp_path, "fit-bias")
    assert torch.equal(loaded["visual.proj"], state["visual.proj"])


def test_safetensors_may_have_a_prefix_too(tmp_path: Path) -> None:
    state = _state()
    save_file(
        _below("clip.", {name: tensor.contiguous() for name, tensor in state.items()}), tmp_path / "w.safetensors"
    )
    loaded = load_clip(ClipSpec("fit-vit", str(tmp_path / "w.safetensors"))).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "(state_dict, state_dict_ema)"),
        (lambda a, b: {"state_dict": {**_below("model.", a), **_below("ema.", b)}}, "state_dict.ema.*"),
        (lambda a, b: {**a, "average": b}, "(the file itself, average)"),
    ],
)
def test_two_sets_of_weights(wrap: Callable[[State, State], Any], names: str, tmp_path: Path) -> None:
    line = _refusal(wrap(_state(), _state(seed=6)), tmp_path)
    assert "holds 2 sets of weights that fit model fit-vit" in line
    assert names in line
    assert _load(wrap(_state(), _state()), tmp_path).keys() == _state().keys(), "equal sets are one"


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (
            lambda s: {**_below("clip.", s), "prompt_learner.ctx": torch.zeros(4, 24)},
            r"1 tensors .*\(prompt_learner.ctx\)",
        ),
        (
            lambda s: {"model": s, "head": {"weight": torch.zeros(3, 20), "bias": torch.zeros(3)}},
            r"2 tensors .*head.weight",
        ),
    ],
)
def test_what_belongs_to_something_else_is_reported(wrap: Callable[[State], Any], said: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=said):
        _load(wrap(_state()), tmp_path)


def test_an_optimisers_state_goes_without_saying(tmp_path: Path) -> None:
    state = _state()
    content = {
        "model": state,
        "optimizer": {"exp_avg": _state(seed=7)["ln_final.bias"], "state": {0: state["ln_final.bias"]}},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "preprocessing of images: assumed")  # these models have no tags
        _load(content, tmp_path)


# --- what does not fit ------------------------------------------------------------------------------


def _quantised(state: State) -> State:
    return {**state, "visual.proj": (state["visual.proj"] * 100).to(torch.int8)}


MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "text width": (
        lambda: _state("fit-wide"),
        "its weights are those of fit-wide or fit-wide-quickgelu: set model.clip.model",
    ),
    "image size": (
        lambda: _state("fit-vit-64px"),
        "its weights are those of fit-vit-64px: set model.clip.model to fit-vit-64px",
    ),
    "image size that nobody has": (
        lambda: _state(vision_cfg={**VISION, "image_size": 48}),
        "visual.positional_embedding is 10 x 48 in it and 5 x 48 in the model (the weights are for images of another",
    ),
    "context length": (
        lambda: _state(text_cfg={**TEXT, "context_length": 30}),
        "positional_embedding is 30 x 24 in it and 12 x 24 in the model (the weights are for texts of another size",
    ),
    "vocabulary": (lambda: _state(text_cfg={**TEXT, "vocab_size": 400}), "token_embedding.weight is 400 x 24 in it"),
    "more layers": (
        lambda: _state(vision_cfg={**VISION, "layers": 3}),
        "it has 12 that the model lacks (visual.transformer.resblocks.2.",
    ),
    "fewer layers": (
        lambda: _state(text_cfg={**TEXT, "layers": 1}),
        "it lacks 12 of the model's weights (transformer.resblocks.1.",
    ),
    "image tower": (lambda: {k: v for k, v in _state().items() if "visual." in k}, "an image tower, but no text tower"),
    "image tower by itself": (
        lambda: {k[7:]: v for k, v in _state().items() if k.startswith("visual.")},
        "it has an image tower, but no text tower: name a file with the weights of both",
    ),
    "text tower": (
        lambda: {k: v for k, v in _state().items() if "visual." not in k},
        "a text tower, but no image tower",
    ),
    "no scale": (
        lambda: {k: v for k, v in _state().items() if k != "logit_scale"},
        "lacks 1 of the model's weights (logit_scale)",
    ),
    "adapters within": (
        lambda: {**_state(), "visual.adapter.up": torch.zeros(2), "visual.adapter.down": torch.zeros(2)},
        "it has 2 that the model lacks (visual.adapter.up, visual.adapter.down): name the model it was made for",
    ),
    "Hugging Face": (
        lambda: {"vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2, 2)},
        "those of Hugging Face's CLIPModel: take the file in open_clip's layout",
    ),
    "Apple's": (
        lambda: {"image_encoder.model.patch_emb.0.block.conv.weight": torch.zeros(1), "logit_scale": torch.zeros(1)},
        "has the weights of a MobileCLIP, but not of this model",
    ),
    "CoOp": (lambda: {"state_dict": {"ctx": torch.zeros(4, 24)}}, "a learned prompt, which goes in model.prompt.file"),
    "our training": (lambda: {"state_dict": {"learner.context": torch.zeros(4, 24)}}, "goes in model.prompt.file"),
    "another network": (
        lambda: {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)},
        "it has none of the model's 62 weights, but fc.weight, fc.bias: name the model it was made for",
    ),
    "both layouts": (
        lambda: {**_state(), "text.ln_final.bias": torch.zeros(24)},
        "it has 1 that the model lacks (text.ln_final.bias)",
    ),
    "empty": (dict, "holds no tensors by name: save the model's state_dict"),
    "numbers alone": (lambda: {"epoch": 3, "state_dict": {}}, "holds no tensors by name"),
    "list": (lambda: [torch.zeros(2)], "holds a list, not weights by name"),
    "tensor": (lambda: torch.zeros(2), "holds a Tensor, not weights by name"),
    "quantised": (lambda: _quantised(_state()), "visual.proj has int8"),
    "sparse": (lambda: {**_state(), "visual.proj": _state()["visual.proj"].to_sparse()}, "sparse"),
    "no values": (lambda: {k: v.to("meta") for k, v in _state().items()}, "has no values"),
    "not a number": (
        lambda: {**_state(), "ln_final.bias": torch.full((24,), torch.nan)},
        "ln_final.bias has values that are not finite: fetch or train them again",
    ),
    "infinite": (
        lambda: {**_state(), "visual.proj": _state()["visual.proj"].index_fill(0, torch.tensor([3]), torch.inf)},
        "visual.proj has values that are not finite",
    ),
    "scale, not its logarithm": (
        lambda: {**_state(), "logit_scale": torch.tensor(100.0)},
        "logit_scale is 100, and the factor",
    ),
    "whole module": (
        lambda: nn.Linear(2, 2),
        "it holds a whole model as Python objects (torch.nn.modules.linear.Linear)",
    ),
    "objects": (lambda: {"model": _state(), "at": Path("x")}, "it holds Python objects beside the weights (pathlib."),
}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize("kind", MISFITS)
def test_what_does_not_fit(kind: str, tmp_path: Path) -> None:
    make, said = MISFITS[kind]
    assert said in _refusal(make(), tmp_path)


def test_values_that_fp16_has_not(tmp_path: Path) -> None:
    state = _state()
    state["visual.conv1.weight"][0, 0, 0, 0] = 1e6
    assert "visual.conv1.weight" in _load(state, tmp_path, dtype="bf16")
    line = _refusal(state, tmp_path, dtype="fp16")
    assert "visual.conv1.weight has values that are not finite: try model.clip.dtype bf16" in line


def test_a_sum_that_overflows_is_no_fault(tmp_path: Path) -> None:
    state = _state()
    state["visual.proj"][:, 0] = 3e38
    assert torch.equal(_load(state, tmp_path)["visual.proj"], state["visual.proj"])


def test_an_archive_names_the_activation_as_well(tmp_path: Path) -> None:
    class Archive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            model = build_architecture(CONFIGS["fit-wide"]).half()
            for name, child in model.named_children():
                self.add_module(name, child)
            for name, parameter in model.named_parameters(recurse=False):
                self.register_parameter(name, parameter)

        def forward(self, x: Tensor) -> Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.trace(Archive(), torch.zeros(1), check_trace=False), str(tmp_path / "a.pt"))
    line = _rejection(tmp_path / "a.pt")
    assert "its weights are those of fit-wide-quickgelu: set model.clip.model to fit-wide-quickgelu" in line


@pytest.mark.parametrize(
    ("given", "asked", "said"),
    [
        ("ViT-L-14", "ViT-B-16", "ViT-L-14 or ViT-L-14-quickgelu"),
        ("RN50", "ViT-B-16-quickgelu", "RN50-quickgelu or RN50"),
        ("ViT-B-16-SigLIP-384", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP-384"),
    ],
)
def test_the_architecture_that_fits_is_named(given: str, asked: str, said: str) -> None:
    """Without memory: names and shapes are all that is needed."""
    with torch.device("meta"):
        theirs, ours = (build_architecture(open_clip.get_model_config(name)) for name in (given, asked))
    tensors = _below("module.", dict(theirs.state_dict()))
    line = explain_misfit({("state_dict",): tensors}, shapes_of(ours), asked, None)
    assert line.startswith(f"its weights are those of {said}: set model.clip.model to ")


# --- files that are something else ------------------------------------------------------------------


def _index(path: Path) -> None:
    shards = {f"layer.{n}": f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}
    path.write_text(json.dumps({"metadata": {"total_size": 9}, "weight_map": shards}))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/readme.txt", "hello")


def _named_safetensors(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path.with_suffix(".pt"))
    path.with_suffix(".pt").rename(path)


FILES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "empty": ("w.pt", Path.touch, "is empty: fetch it again"),
    "empty safetensors": ("w.safetensors", Path.touch, "is empty: fetch it again"),
    "no tensors": ("w.safetensors", lambda path: save_file({}, path), "holds no tensors by name"),
    "folder": (
        "model",
        lambda p: (p.mkdir(), (p / "open_clip_model.safetensors").touch()),
        "it has open_clip_model.safetensors",
    ),
    "folder of pictures": (
        "model",
        lambda p: (p.mkdir(), (p / "a.png").touch()),
        "is a folder: name the file of the weights (nothing",
    ),
    "link to nowhere": (
        "w.pt",
        lambda path: path.symlink_to("blobs/123"),
        "is a link to blobs/123, which is not there",
    ),
    "index": (
        "model.safetensors.index.json",
        _index,
        "is the index of weights in 3 files (model-00001-of-00003.safetensors, ",
    ),
    "index of bins": ("pytorch_model.bin.index.json", _index, "name one file with all weights"),
    "configuration": (
        "open_clip_config.json",
        lambda p: p.write_text('{"model_cfg": {}}'),
        "is text (JSON), not weights",
    ),
    "list": ("files.json", lambda p: p.write_text("[1, 2]"), "is text (JSON), not weights"),
    "pointer": (
        "w.safetensors",
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid 1"),
        "run 'git lfs pull'",
    ),
    "page": ("w.safetensors", lambda p: p.write_text("<!doctype html>"), "it is a web page"),
    "compressed": ("w.pt", lambda p: p.write_bytes(gzip.compress(b"weights" * 9)), "it is compressed): unpack it"),
    "other zip": ("w.pt", _zip, "is a zip file, but no checkpoint of PyTorch (it holds weights/readme.txt)"),
    "PyTorch's, misnamed": ("w.safetensors", _named_safetensors, "is in PyTorch's format: rename it to end in .pt"),
    "notes": ("w.pth", lambda p: p.write_text("weights follow"), "it is no checkpoint of PyTorch"),
    "arrays": ("w.npz", lambda path: np.savez(path, a=np.zeros(2)), "does not fit model fit-vit"),
    "no numpy": ("w.npz", lambda p: p.write_text("weights"), "those that Google published of SigLIP are read"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_something_else(kind: str, tmp_path: Path) -> None:
    name, make, said = FILES[kind]
    make(tmp_path / name)
    line = _rejection(tmp_path / name)
    assert said in line
    assert str(tmp_path / name) in line


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-at-all/w.pt", "no/such.pt"])
def test_names_that_no_file_has(name: str) -> None:
    line = _rejection(name)
    assert "neither an existing file nor a tag of fit-vit" in line
    assert len(line) < 400


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(_state(), tmp_path / "w.pt")

    def refused(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    assert "cannot be read" in _rejection(tmp_path / "w.pt")
