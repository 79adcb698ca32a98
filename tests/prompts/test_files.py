"""Files of prompts: ours, CoOp's, and those that must not be read."""

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lorattt.errors import UserError
from lorattt.prompts.files import Prompt, load_prompt, save_prompt

CONTEXT = torch.arange(12.0).view(3, 4)


def _message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_prompt(path)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "prompt.safetensors"
    context = torch.randn(3, 4, requires_grad=True)
    notes = {"epochs": "50", "häuser": "日本"}
    save_prompt(Prompt(context, "middle", "a photo of", "ViT-B-16", notes=notes), path)
    found = load_prompt(str(path))
    assert torch.equal(found.context, context.detach())
    assert not found.context.requires_grad
    assert (found.position, found.words, found.model, found.class_names) == ("middle", "a photo of", "ViT-B-16", None)
    assert found.notes == {"epochs": "50", "häuser": "日本"}
    save_prompt(Prompt(CONTEXT.double(), "front", None, "m"), path)
    assert load_prompt(path).context.dtype == torch.float32
    assert (load_prompt(path).words, load_prompt(path).notes) == (None, {})


def test_round_trip_of_class_specific_contexts(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    context = torch.randn(4, 2, 3).transpose(0, 1)  # not contiguous
    save_prompt(Prompt(context, "end", None, "m", ("cat", 'dög\n, "x"')), path)
    found = load_prompt(path)
    assert torch.equal(found.context, context)
    assert found.class_names == ("cat", 'dög\n, "x"')


def test_round_trip_of_extras(tmp_path: Path) -> None:
    """Other tensors travel with a prompt; whoever needs the prompt alone never sees them."""
    path = tmp_path / "prompt.safetensors"
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True).T  # not contiguous
    extras = {"head.0.weight": weight, "views.end": CONTEXT + 1}
    save_prompt(Prompt(CONTEXT, "end", None, "m", extras=extras), path)
    found = load_prompt(path)
    assert torch.equal(found.context, CONTEXT)
    assert set(found.extras) == {"head.0.weight", "views.end"}
    assert torch.equal(found.extras["head.0.weight"], weight.detach().float())
    assert torch.equal(found.extras["views.end"], CONTEXT + 1)
    save_prompt(Prompt(CONTEXT, "end", None, "m"), path)
    assert load_prompt(path).extras == {}
    save_prompt(Prompt(CONTEXT, "end", None, "m", extras={"context": torch.zeros(2)}), path)
    assert torch.equal(load_prompt(path).context, CONTEXT)  # the prompt's own is never replaced


def test_a_name_must_tell_the_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        save_prompt(Prompt(CONTEXT, "end", None, "m"), tmp_path / "prompt.pt")


def _dassl_checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """What the trainer of CoOp's program saves: beside the tensors, objects of torch.optim and numpy numbers."""
    parameter = torch.nn.Parameter(CONTEXT.clone())
    optimiser = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    parameter.sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 50)
    return {
        "state_dict": OrderedDict(state),
        "epoch": 50,
        "optimizer": optimiser.state_dict(),
        "scheduler": {"successor": schedule, "last_epoch": 50, "warmup_epoch": 1},
        "val_result": np.float64(71.5),
    }


PARTS = {"token_prefix": torch.zeros(2, 1, 4), "token_suffix": torch.zeros(2, 72, 4)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model.pth.tar-50", "prompt.pth.tar"])
def test_checkpoints_of_coop(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / name
    checkpoint = _dassl_checkpoint({"ctx": CONTEXT.half(), **PARTS})
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):  # without care, torch refuses it
        torch.load(path, weights_only=True)
    found = load_prompt(path)
    assert torch.equal(found.context, CONTEXT)
    assert found.context.dtype == torch.float32
    assert (found.position, found.words, found.model, found.class_names) == ("end", None, None, None)
    with pytest.raises(pickle.UnpicklingError):  # and still does afterwards
        torch.load(path, weights_only=True)


def test_a_schedule_of_dassl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("dassl.optim.lr_scheduler")
    kind = type("ConstantWarmupScheduler", (), {"__module__": module.__name__})
    module.ConstantWarmupScheduler = kind  # type: ignore[attr-defined]
    for name in ("dassl", "dassl.optim", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    schedule = kind()
    schedule.last_epoch = 3  # type: ignore[attr-defined]
    path = tmp_path / "model.pth.tar-3"
    torch.save({"state_dict": {"ctx": CONTEXT}, "scheduler": schedule}, path)
    monkeypatch.undo()
    assert torch.equal(load_prompt(path).context, CONTEXT)


@pytest.mark.parametrize("prefix", ["", "module.", "prompt_learner.", "module.prompt_learner."])
@pytest.mark.parametrize("context", [CONTEXT, torch.randn(2, 3, 4)])
def test_where_the_context_may_be(tmp_path: Path, prefix: str, context: Tensor) -> None:
    path = tmp_path / "model.pth.tar"
    state = {f"{prefix}{key}": value for key, value in {"ctx": context, **PARTS}.items()}
    if "prompt_learner" in prefix:
        state["image_encoder.conv1.weight"] = torch.zeros(1)
    for saved in ({"state_dict": state}, state):
        torch.save(saved, path)
        assert torch.equal(load_prompt(path).context, context)


class _Runs:
    """A pickle of it calls a function when it is loaded."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("function", "name"), [(os.system, f"{os.name}.system"), (eval, "builtins.eval")])
def test_no_code_of_a_file_is_run(tmp_path: Path, function: Any, name: str, zipped: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "model.pth.tar-50"
    order = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w')"
    checkpoint = _dassl_checkpoint({"ctx": CONTEXT})
    checkpoint["more"] = _Runs(function, order)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    message = _message(path)
    assert f"the file would run {name} when loaded; only tensors are read: export the context" in message
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is as bad as the test means it to be"


def test_stand_ins_are_no_way_in(tmp_path: Path) -> None:
    """Names that are stood in for are never looked up: calling one calls nothing."""
    trace, path = tmp_path / "trace", tmp_path / "model.pth.tar"
    for function in ("torch.nn.init\neval", "collections\neval", "numpy.core.multiarray\nscalar"):
        call = f"c{function}\nX\x01\x00\x00\x00x\x85R.".encode("latin1")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + call)
            archive.writestr("archive/version", "3")
        assert "no tensor 'ctx'" in _message(path)
    assert not trace.exists()
    torch.save({"state_dict": {"ctx": CONTEXT}, "more": _Runs(torch.hub.load, "x")}, path)
    assert "torch.hub.load" in _message(path)


def test_files_that_are_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    assert "no such file" in _message(path)
    assert "no such file" in _message(tmp_path)
    save_file({"context": CONTEXT}, path)
    assert "not a prompt" in _message(path)
    save_file({"weights": CONTEXT}, path, {"format": "lorattt-prompt"})
    assert "not a prompt" in _message(path)

    other = tmp_path / "model.pth.tar"
    torch.save({"state_dict": {"weight": CONTEXT}}, other)
    assert "no tensor 'ctx' in its state_dict; it has weight" in _message(other)
    torch.save([CONTEXT], other)
    assert "no tensor 'ctx'" in _message(other)
    torch.save({"state_dict": {"ctx": CONTEXT, "meta_net.linear1.weight": CONTEXT}}, other)
    assert "another method than CoOp, with meta_net.linear1.weight" in _message(other)
    torch.save({"state_dict": {"ctx": CONTEXT[0]}}, other)
    assert "shape (4,)" in _message(other)
    torch.save({"state_dict": {"ctx": CONTEXT.long()}}, other)
    assert "dtype torch.int64" in _message(other)
    torch.save({"state_dict": {"ctx": CONTEXT / 0}}, other)
    assert "not finite" in _message(other)
    other.write_text("hello")
    assert "neither a prompt" in _message(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "neither a prompt" in _message(other)


def test_damaged_files(tmp_path: Path) -> None:
    path, other = tmp_path / "prompt.safetensors", tmp_path / "model.pth.tar"
    save_prompt(Prompt(CONTEXT, "end", None, "m"), path)
    whole = path.read_bytes()
    for size in (0, 4, 100, len(whole) - 8):
        path.write_bytes(whole[:size])
        assert "cannot be read" in _message(path)
    for zipped in (True, False):
        torch.save(_dassl_checkpoint({"ctx": CONTEXT}), other, _use_new_zipfile_serialization=zipped)
        whole = other.read_bytes()
        for share in (0, 0.01, 0.3, 0.9):
            other.write_bytes(whole[: int(share * len(whole))])
            assert "neither a prompt" in _message(other)


def test_descriptions_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "prompt.safetensors"
    save_prompt(Prompt(torch.zeros(2, 3, 4), "end", None, "m", ("cat", "dog")), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()

    def changed(old: str, new: str, key: str = "prompt") -> str:
        assert old in metadata[key]
        save_file({"context": torch.zeros(2, 3, 4)}, path, metadata | {key: metadata[key].replace(old, new)})
        return _message(path)

    assert "format version 2, this lorattt reads 1: upgrade" in changed("1", "2", "version")
    assert "position 'back'" in changed('"end"', '"back"')
    assert "class names do not fit" in changed(', "dog"', "")
    assert "class names do not fit" in changed('["cat", "dog"]', "null")
    assert "does not read" in changed('"words"', '"word"')
    assert "does not read" in changed("{", "")
    assert "does not read" in changed("1", "one", "version")
