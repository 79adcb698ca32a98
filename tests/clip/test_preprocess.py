"""A model's preprocessing: from keys, tags, a file beside the weights, or said to be assumed.

The oracle is open_clip: its own tables, its own writer of configuration files, its own transform. Nothing is fetched.
"""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import set_model_preprocess_cfg
from open_clip.push_to_hf_hub import save_config_for_hf
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors.torch import save_file

from lorattt import demo
from lorattt.clip.checkpoint_file import CONFIG_FILE
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.clip.preprocess import KEYS, OPENAI, resolve_preprocess
from lorattt.errors import UserError
from lorattt.methods.registry import convert
from lorattt.views.crops import ViewSpec
from lorattt.views.device import DeviceViews, Normalization
from lorattt.views.render import Views

TAGS: list[tuple[str, str]] = open_clip.list_pretrained()
MODELS = sorted({model for model, _ in TAGS})
NONE: dict[str, Any] = dict.fromkeys(KEYS)


def of_tag(model: str, tag: str) -> dict[str, Any]:
    """What open_clip evaluates a tag with, by the steps of its ``create_model``."""
    merged = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(model, tag))
    return {key: tuple(merged[key]) if key in ("mean", "std") else merged[key] for key in KEYS}


def pushed(folder: Path, model: str, tag: str) -> Path:
    """Weights with the file that open_clip writes beside them when it publishes a model."""
    stand_in = SimpleNamespace(visual=SimpleNamespace())
    set_model_preprocess_cfg(stand_in, merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(model, tag)))
    save_config_for_hf(stand_in, folder / CONFIG_FILE, open_clip.get_model_config(model))
    return folder / "open_clip_model.safetensors"


def beside(folder: Path, **stated: Any) -> Path:
    (folder / CONFIG_FILE).write_text(json.dumps({"preprocess_cfg": stated}), encoding="utf-8")
    return folder / "weights.pt"


def resolved(model: str, weights: str | Path | None, **given: Any) -> dict[str, Any]:
    """The preprocessing without ``fill_color``; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dict(resolve_preprocess(model, weights, NONE | given))
    assert found.pop("fill_color") == 0
    return found


# --- all of open_clip's tags ------------------------------------------------------------------------


def test_the_table_has_what_there_is_to_get_wrong() -> None:
    values = [of_tag(model, tag) for model, tag in TAGS]
    assert len(TAGS) > 150
    assert sum(value["mean"] != OPENAI["mean"] for value in values) > 30
    assert {value["interpolation"] for value in values} == {"bicubic", "bilinear"}
    assert {value["resize_mode"] for value in values} >= {"shortest", "squash"}


@pytest.mark.parametrize(("model", "tag"), TAGS)
def test_a_tag(model: str, tag: str) -> None:
    assert resolved(model, tag) == of_tag(model, tag)


@pytest.mark.parametrize(("model", "tag"), TAGS)
def test_a_file_with_its_configuration(model: str, tag: str, tmp_path: Path) -> None:
    assert resolved(model, pushed(tmp_path, model, tag)) == of_tag(model, tag)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("random", [False, True])
def test_a_file_alone_and_random_weights(model: str, random: bool, tmp_path: Path) -> None:
    """What all tags agree on is taken in silence; of the rest, each key is named with the value it gets."""
    weights = None if random else tmp_path / "weights.pt"
    tagged = [of_tag(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    differing = [key for key in KEYS if any(value[key] != tagged[0][key] for value in tagged)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = resolve_preprocess(model, weights, NONE)
    for key in KEYS:
        assert found[key] == (OPENAI if key in differing else tagged[0])[key], key  # type: ignore[literal-required]
    assert len(caught) == bool(differing)
    for key in differing:
        text = str(caught[0].message)
        value = OPENAI[key]  # type: ignore[literal-required]
        assert f"{key} {list(value) if isinstance(value, tuple) else value}" in text
        assert f"model.clip.{key}" in text
        assert "\n" not in text


def test_some_models_have_tags_that_differ() -> None:
    """So the test above sees both kinds."""
    kinds = [len({str(of_tag(m, tag)) for tag in open_clip.list_pretrained_tags_by_model(m)}) > 1 for m in MODELS]
    assert True in kinds
    assert False in kinds


def test_an_architecture_without_tags_is_told_what_is_assumed(tmp_path: Path) -> None:
    untagged = sorted(set(open_clip.list_models()) - set(MODELS))
    assert untagged
    for weights in (tmp_path / "weights.pt", None):
        with pytest.warns(UserWarning, match=f"open_clip has no weights of {untagged[0]}; to change it, set") as caught:
            assert resolve_preprocess(untagged[0], weights, NONE) == OPENAI
        assert len(caught) == 1
        assert (CONFIG_FILE in str(caught[0].message)) == (weights is not None)


def test_the_demo_is_openais() -> None:
    for weights in (demo.CHECKPOINT, Path("own.safetensors"), None):
        assert resolved(demo.MODEL_NAME, weights) == {key: OPENAI[key] for key in KEYS}  # type: ignore[literal-required]


# --- who overrides whom -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tag", "file", "null"])
def test_keys_override_each_on_its_own(kind: str, tmp_path: Path) -> None:
    model, tag = "ViT-B-16-SigLIP", "webli"
    weights = {"tag": tag, "file": pushed(tmp_path, model, tag), "null": None}[kind]
    for key, value in (
        ("mean", (0.1, 0.2, 0.3)),
        ("std", (0.3, 0.2, 0.1)),
        ("resize_mode", "longest"),
        ("interpolation", "bilinear"),
    ):
        assert resolved(model, weights, **{key: value}) == {**of_tag(model, tag), key: value}


def test_a_file_that_says_less_leaves_the_rest_to_the_tags(tmp_path: Path) -> None:
    path = beside(tmp_path, mean=[0.1, 0.2, 0.3], std=None)
    assert resolved("MobileCLIP-S1", path) == {**of_tag("MobileCLIP-S1", "datacompdr"), "mean": (0.1, 0.2, 0.3)}
    # Of the two keys in which ViT-L-14's tags differ, one is stated and the other given.
    found = resolved("ViT-L-14", path, std=(0.5, 0.5, 0.5))
    assert (found["mean"], found["std"]) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_a_name_may_have_a_slash(tmp_path: Path) -> None:
    for weights in ("openai", tmp_path / "ViT-B-16.pt", pushed(tmp_path, "ViT-B-16", "openai")):
        assert resolved("ViT-B/16", weights) == of_tag("ViT-B-16", "openai")


def test_keys_end_the_warning(tmp_path: Path) -> None:
    weights = tmp_path / "dfn5b.bin"
    with pytest.warns(
        UserWarning,
        match=r"resize_mode shortest, as open_clip's weights of .* differ in it; .*set model\.clip\.resize_mode, or",
    ):
        resolve_preprocess("ViT-H-14", weights, NONE)
    assert resolved("ViT-H-14", weights, resize_mode="squash") == of_tag("ViT-H-14", "dfn5b")


def test_files_are_read_as_open_clip_reads_them(tmp_path: Path) -> None:
    """One number is for all channels, ``random`` is bicubic when it evaluates, unknown keys have no meaning."""
    path = beside(
        tmp_path, mean=0.5, std=0.25, interpolation="random", resize_mode="longest", fill_color=90, size=99, aug=[1]
    )
    assert resolve_preprocess("RN50", path, NONE) == {
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "interpolation": "bicubic",
        "resize_mode": "longest",
        "fill_color": 90,
    }


@pytest.mark.parametrize("text", ["{}", '{"preprocess_cfg": null}', '{"model_cfg": {"quick_gelu": false}}'])
def test_a_configuration_without_preprocessing_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(text, encoding="utf-8")
    model, tag = "MobileCLIP-S2", "datacompdr"
    assert resolved(model, tmp_path / "weights.pt") == of_tag(model, tag)


# --- what is of no use ------------------------------------------------------------------------------

VALUES: dict[str, tuple[str, Any, str]] = {
    "two numbers": ("mean", [0.5, 0.5], "three numbers from 0 to 1"),
    "no list": ("mean", "0.5", "three numbers"),
    "a text among them": ("mean", [0.5, 0.5, "half"], "three numbers"),
    "true": ("std", [True, 0.5, 0.5], "three numbers"),
    "not a number": ("mean", [0.5, 0.5, float("nan")], "three numbers"),
    "infinite": ("std", [0.5, float("inf"), 0.5], "three numbers"),
    "beyond all floats": ("std", [0.5, 10**400, 0.5], "three numbers"),
    "of bytes": ("mean", [123.675, 116.28, 103.53], "divide by 255"),
    "std of bytes": ("std", [58.395, 57.12, 57.375], "divide by 255"),
    "std of 0": ("std", [0.5, 0.0, 0.5], "three numbers from 0.001 to 1"),
    "std below 0": ("std", [0.5, 0.5, -0.5], "three numbers from 0.001 to 1"),
    "std that is 0 in float32": ("std", [1e-50, 0.5, 0.5], "three numbers from 0.001 to 1"),
    "mode": ("resize_mode", "crop", "must be one of shortest, longest, squash"),
    "filter": ("interpolation", "nearest", "must be one of bicubic, bilinear"),
    "number for a name": ("interpolation", 3, "must be one of bicubic, bilinear"),
    "list for a name": ("resize_mode", ["squash"], "must be one of shortest, longest, squash"),
    "endless": ("resize_mode", "x" * 10_000, "must be one of"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_of_no_use(name: str, tmp_path: Path) -> None:
    key, value, message = VALUES[name]
    path = beside(tmp_path, **{key: value})
    with pytest.raises(UserError, match=message) as caught:
        resolve_preprocess("RN50", path, NONE)
    assert str(caught.value).startswith(f"{tmp_path / CONFIG_FILE}: preprocess_cfg.{key} ")
    assert len(str(caught.value)) < len(str(tmp_path)) + 300
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message) as caught:
        ClipSpec("RN50", str(path), **{key: value})
    assert str(caught.value).startswith(f"model.clip.{key} ")
    # Whoever gives the key does not need the file's.
    own = OPENAI[key]  # type: ignore[literal-required]
    assert resolved("RN50", path, **{key: own})[key] == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ('{"preprocess_cfg": {"mean": [0.5, 0.5', "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("\ufeff{}", "cannot be read as JSON"),
        ("[]", "the file must be a mapping of keys to values, not []"),
        ('{"preprocess_cfg": [0.5, 0.5, 0.5]}', "preprocess_cfg must be a mapping of keys to values"),
        ('{"model_cfg": "RN50"}', "model_cfg must be a mapping of keys to values, not 'RN50'"),
        ('{"preprocess_cfg": {"mode": "BGR"}}', "preprocess_cfg.mode 'BGR': only RGB"),
        ('{"preprocess_cfg": {"fill_color": 256}}', "preprocess_cfg.fill_color 256: must be a whole number"),
        ('{"preprocess_cfg": {"fill_color": [0, 0, 0]}}', "preprocess_cfg.fill_color [0, 0, 0]: must be a whole"),
    ],
)
def test_damaged_configurations(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve_preprocess("RN50", tmp_path / "weights.pt", NONE)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / CONFIG_FILE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "other", "key"),
    [
        ("ViT-B-16", "ViT-B-16-SigLIP", "embed_dim is 768, that of ViT-B-16 is 512"),
        ("ViT-B-16", "ViT-B-32", r"vision_cfg\.patch_size is 32, that of ViT-B-16 is 16"),
        ("ViT-H-14", "RN50", r"vision_cfg\.layers is \[3, 4, 6, 3\], that of ViT-H-14 is 32"),
    ],
)
def test_a_configuration_of_another_model(model: str, other: str, key: str, tmp_path: Path) -> None:
    path = pushed(tmp_path, other, open_clip.list_pretrained_tags_by_model(other)[0])
    with pytest.raises(UserError, match=f"{CONFIG_FILE}: it is of another model: {key}; name the model"):
        resolve_preprocess(model, path, NONE)


# --- a loaded model ---------------------------------------------------------------------------------


@pytest.fixture
def weights(small_models: None, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = open_clip.CLIP(**open_clip.get_model_config("small-vit"))
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


SETTINGS = sorted({str(of_tag(model, tag)): of_tag(model, tag) for model, tag in TAGS}.items())
SETTINGS += [
    (f"longest {kernel}", {**SETTINGS[0][1], "resize_mode": "longest", "interpolation": kernel, "fill_color": fill})
    for kernel, fill in (("bicubic", 0), ("bilinear", 200))
]


@pytest.mark.parametrize("settings", [value for _, value in SETTINGS], ids=[key for key, _ in SETTINGS])
def test_the_plain_view_is_open_clips_own(settings: dict[str, Any], weights: Path) -> None:
    """Every distinct preprocessing of open_clip's tags, from an image to what the tower reads."""
    clip = load_clip(ClipSpec("small-vit", str(beside(weights.parent, **settings).with_name(weights.name))))
    transform = image_transform_v2(PreprocessCfg(size=32, **settings), is_train=False)
    views = Views(ViewSpec(number=2), clip.image_size, plain=clip.plain_view)
    for width, height in ((97, 61), (40, 75), (33, 33), (9, 14)):
        pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        expected = transform(image)
        assert torch.equal(clip.normalise(views(image, 0)[:1])[0], expected)
        device = DeviceViews(views)
        made = device.render([pixels], device.plan(height, width, 0), Normalization(clip.mean, clip.std))
        assert torch.equal(made[0, 0], expected)


def test_keys_reach_the_model(weights: Path) -> None:
    keys: dict[str, Any] = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "resize_mode": "squash",
        "interpolation": "bilinear",
    }
    spec = convert(ClipSpec, "clip", {"model": "small-vit", "pretrained": str(weights), **keys})
    clip = load_clip(spec)
    assert clip.mean.flatten().tolist() == pytest.approx(keys["mean"])
    assert clip.std.flatten().tolist() == pytest.approx(keys["std"])
    assert (clip.plain_view.resize_mode, clip.plain_view.interpolation) == ("squash", "bilinear")
    # Equal however the numbers were written down; a loaded one says what it was loaded from.
    assert spec == ClipSpec(**{**keys, "mean": (0.1, 0.2, 0.3)}, model="small-vit", pretrained=str(weights))
    loaded = LoadedClip(clip, spec)
    assert [getattr(loaded, key) for key in KEYS] == [getattr(spec, key) for key in KEYS]
    assert load_clip(loaded) is clip


def test_a_file_without_its_configuration_is_said_to_be_assumed(weights: Path) -> None:
    with pytest.warns(UserWarning, match=f"assumed OpenAI's mean .* beside {weights.name}"):
        clip = load_clip(ClipSpec("small-vit", str(weights)))
    assert clip.preprocess == OPENAI


def test_a_damaged_configuration_ends_the_run_before_weights_are_read(weights: Path) -> None:
    weights.write_bytes(b"no weights")
    (weights.parent / CONFIG_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{CONFIG_FILE}: it cannot be read as JSON"):
        load_clip(ClipSpec("small-vit", str(weights)))
