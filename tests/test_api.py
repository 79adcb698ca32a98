"""The Python call: the numbers of the command line, every kind of image, and each mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lorattt
from conftest import CPU, Cli
from lorattt import demo
from lorattt.api import Classification, classify
from lorattt.clip.load import ClipSpec
from lorattt.errors import UserError
from lorattt.methods.lora_ttt import LoRATTT
from lorattt.methods.registry import METHODS
from lorattt.methods.several import Several
from lorattt.methods.zero_shot import ZeroShot
from lorattt.views.crops import ViewSpec

MODEL = "lorattt-demo:demo"
NAMES = ["red circle", "blue square", "green star", "a cross"]
VIEWS = {"number": 10}
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder ``photos`` in the working directory: five drawn images, the fourth a text."""
    monkeypatch.chdir(tmp_path)
    folder = Path("photos")
    folder.mkdir()
    for number in range(5):
        demo.draw(number, domain="contrast", severity=3, split="test")[0].save(folder / f"{number}.png")
    (folder / "3.png").write_text("not an image, but a text", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def zero_shot() -> ZeroShot:
    return ZeroShot(clip=ClipSpec("lorattt-demo", "demo"))


def test_the_package_gives_it_without_importing_torch_first() -> None:
    program = "import sys, lorattt; assert 'torch' not in sys.modules; print(lorattt.__version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, lorattt.__version__), done.stderr
    assert lorattt.classify is classify
    assert lorattt.Classification is Classification
    with pytest.raises(AttributeError, match="module 'lorattt' has no attribute 'clasify'"):
        _ = lorattt.clasify


@pytest.mark.parametrize(("method", "seed"), [("lora_ttt", 0), ("lora_ttt", 3), ("zero_shot", 0), ("mta", 0)])
def test_the_numbers_are_those_of_predict(method: str, seed: int, photos: Path, cli: Cli, tmp_path: Path) -> None:
    kind = METHODS[method].__name__
    args = ["--model", kind, "--model.clip.model", "lorattt-demo", "--model.clip.pretrained", "demo"]
    args += [] if method == "zero_shot" else ["--model.views.number", "10"]
    args += ["--model.steps", "2"] if method == "lora_ttt" else []
    options: dict[str, Any] = {} if method == "zero_shot" else {"views": VIEWS}
    options |= {"steps": 2} if method == "lora_ttt" else {}
    images = str(tmp_path / photos)
    data = ["--data", "ImagesData", "--data.images", images, "--data.class_names", json.dumps(NAMES)]
    run = cli("predict", *args, *data, "--data.workers", "0", "--seed_everything", str(seed), "--run.top_k", "3", *CPU)
    assert run.code == 0, run.err
    text = (run.method_folder / "predictions.jsonl").read_text(encoding="utf-8")
    lines = {line["path"]: line for line in map(json.loads, text.splitlines())}
    paths = sorted(Path(images).iterdir())
    # The order of the list is the order of the folder, so the indices are the same.
    results = classify(paths, NAMES, method=method, model=MODEL, seed=seed, top_k=3, batch_size=3, **options)
    assert [result.path for result in results] == [str(path) for path in paths]
    assert [result.error for result in results if result.path not in lines] == ["it is no image of a known format"]
    assert len(lines) == 4
    for result in results:
        if result.path in lines:
            for when in ("before", "after"):
                expected = lines[result.path][when]
                ranking = getattr(result, when)
                assert [name for name, _ in ranking] == [entry["class"] for entry in expected]
                assert [p for _, p in ranking] == pytest.approx([e["probability"] for e in expected], abs=1e-5)
                assert len(ranking) == 3
    adapted = any(result.before != result.after for result in results)
    assert adapted == (method != "zero_shot")


def test_batches_do_not_matter_and_places_do(photos: Path) -> None:
    paths = [photos / f"{number}.png" for number in (0, 1, 2, 4)]
    method = LoRATTT(clip=ClipSpec("lorattt-demo", "demo"), views=ViewSpec(number=10))
    together = classify(paths, NAMES, method=method)
    for one, other in zip(together, classify(paths, NAMES, method=method, batch_size=1), strict=True):
        assert dict(one.after) == pytest.approx(dict(other.after), abs=1e-4)
    (moved, *_) = classify(paths[1:], NAMES, method=method)
    assert dict(moved.before) == pytest.approx(dict(together[1].before), abs=1e-5)
    # Another place, another index, other views.
    assert dict(moved.after) != pytest.approx(dict(together[1].after), abs=1e-6)


def test_one_text_is_a_folder_or_a_pattern_and_names_may_be_a_file(photos: Path, zero_shot: ZeroShot) -> None:
    Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    for images in ("photos", photos, "photos/*.png", "@list.txt"):
        Path("list.txt").write_text("photos", encoding="utf-8")
        results = classify(images, "names.txt", method=zero_shot)
        assert [result.path for result in results] == [f"photos/{number}.png" for number in range(5)]
        assert [result.error is None for result in results] == [True, True, True, False, True]


def test_every_kind_of_image_is_the_same_image(photos: Path, zero_shot: ZeroShot) -> None:
    image = Image.open(photos / "0.png")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    images: list[Any] = [
        photos / "0.png",
        "photos/0.png",
        image,
        image.convert("RGBA"),
        pixels,
        pixels.float() / 255,
        pixels.double() / 255,
        (pixels.float() / 255).requires_grad_(),
        pixels.flip(-1).contiguous().flip(-1),
    ]
    results = classify(images, NAMES, method=zero_shot)
    assert [result.path for result in results] == ["photos/0.png"] * 2 + [None] * 7
    for result in results:
        assert dict(result.after) == pytest.approx(dict(results[0].after), abs=1e-6)
    # Rotated by its EXIF tag, as a file would be.
    turned = Image.new("RGB", (60, 48))
    turned.paste((255, 0, 0), (0, 0, 20, 48))
    turned.getexif()[0x0112] = 3
    plain, upright = classify([turned, turned.rotate(180)], NAMES, method=zero_shot)
    assert dict(plain.after) == pytest.approx(dict(upright.after), abs=1e-6)


def test_images_that_are_not_read(photos: Path, zero_shot: ZeroShot) -> None:
    (photos / "link.png").symlink_to("nowhere.png")
    content = (photos / "0.png").read_bytes()
    (photos / "half.png").write_bytes(content[: len(content) // 2])
    lazy = Image.open(photos / "half.png")
    line = Image.new("L", (2000, 1))
    images: list[Any] = ["photos/3.png", photos / "link.png", "photos/half.png", lazy, line]
    results = classify(images, NAMES, method=zero_shot, batch_size=2)
    assert all((result.before, result.after, result.fallback) == ((), (), False) for result in results)
    assert [result.path for result in results] == ["photos/3.png", "photos/link.png", "photos/half.png", None, None]
    errors = [result.error or "" for result in results]
    for error, part in zip(errors, ["no image", "No such file", "truncated", "truncated", "over 1000"], strict=True):
        assert part in error
    with pytest.raises(UserError, match=r"^cannot read image photos/3\.png \(it is no image of a known format\)"):
        classify(["photos/0.png", "photos/3.png"], NAMES, method=zero_shot, on_bad_image="error")
    with pytest.raises(UserError, match=r"^cannot read image images\[0\] \("):
        classify([line], NAMES, method=zero_shot, on_bad_image="error")
    assert classify([], NAMES, method=zero_shot) == []


def test_the_list_of_classes_may_change_between_calls(photos: Path, zero_shot: ZeroShot) -> None:
    (first,) = classify(["photos/0.png"], NAMES, method=zero_shot, top_k=99)
    (second,) = classify(["photos/0.png"], NAMES[:2], method=zero_shot)
    (again,) = classify(["photos/0.png"], NAMES, method=zero_shot, top_k=1)
    assert sorted(name for name, _ in first.after) == sorted(NAMES)
    assert sorted(name for name, _ in second.after) == sorted(NAMES[:2])
    assert again.after == first.after[:1]
    assert sum(p for _, p in first.after) == pytest.approx(1)


def test_within_inference_mode(photos: Path) -> None:
    with torch.inference_mode():
        (result,) = classify(["photos/0.png"], NAMES, model=MODEL, views=VIEWS)
        assert torch.is_inference_mode_enabled()
    assert result.after != result.before
    assert not result.fallback


def test_workers_and_a_device(photos: Path, zero_shot: ZeroShot) -> None:
    here = classify("photos", NAMES, method=zero_shot)
    assert classify("photos", NAMES, method=zero_shot, workers=1, device="cpu") == here


def _several() -> Several:
    return Several(methods=["zero_shot"], clip=ClipSpec("lorattt-demo", "demo"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classify("photos", NAMES, method="lora"), r"^method 'lora': known are zero_shot, lora_ttt, "),
        (lambda: classify("photos", NAMES, setps=2), r"^setps: LoRATTT has no such argument; did you mean steps\?"),
        (lambda: classify("photos", NAMES, clip=1), r"^clip: LoRATTT has no such argument"),
        (
            lambda: classify("photos", NAMES, lora={"rnk": 2}),
            r"^lora: LoRASpec takes rank, .*; got rnk; did you mean lora\.rank\?$",
        ),
        (lambda: classify("photos", NAMES, lora={"rank": "2"}), r"^lora\.rank: '2' is not a whole number$"),
        (lambda: classify("photos", NAMES, steps="2"), r"^steps: '2' is not a whole number$"),
        (lambda: classify("photos", NAMES, method=_several()), r"^method: Several has several answers"),
        (lambda: classify("photos", NAMES, model="nothing"), r"'nothing'"),
        (lambda: classify("photos", NAMES, model="lorattt-demo"), r"its tags are demo"),
        (lambda: classify("photos", ["cat", "cat"]), r"^class_names has 'cat' more than once"),
        (lambda: classify("photos", []), r"^class_names is empty"),
        (lambda: classify("nowhere", NAMES), r"^images 'nowhere': no such file or folder"),
        (lambda: classify("*.bmp", NAMES), r"^images '\*\.bmp' matches no file"),
        (lambda: classify(["photos/9.png"], NAMES), r"^photos/9\.png: no such file"),
        (lambda: classify(["photos"], NAMES), r"^photos is a folder: name its files"),
        (lambda: classify(Image.new("RGB", (2, 2)), NAMES), r"^images is one image: give a list"),  # type: ignore[arg-type]
        (lambda: classify([3], NAMES), r"^images\[0\]: expected one of paths, PIL images, arrays or tensors"),  # type: ignore[list-item]
        (lambda: classify([torch.zeros(4, 4, 3)], NAMES), r"^images\[0\]: a tensor must be \(3, H, W\), .*\(4, 4, 3\)"),
        (lambda: classify([torch.full((3, 2, 2), 1.1)], NAMES), r"^images\[0\]: .* within \[0, 1\]"),
    ],
)
def test_a_mistake_is_named(make: Callable[[], Any], message: str, photos: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"model": MODEL}, {"seed": 4}, {"templates": "openai-7"}])
def test_a_method_brings_its_own(given: dict[str, Any], photos: Path, zero_shot: ZeroShot) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(given))}: the ZeroShot you give has its own"):
        classify("photos", NAMES, method=zero_shot, **given)


def test_the_call_of_the_readme(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in photos.iterdir():
        path.rename(path.with_suffix(".jpg"))
    text = README.read_text(encoding="utf-8")
    (program,) = [block for block in text.split("```python\n")[1:] if "lorattt.classify(" in block]
    program = program.split("```")[0]
    assert "ViT-B-16-quickgelu:openai" in program
    exec(program.replace("ViT-B-16-quickgelu:openai", MODEL), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("photos/0.jpg (('")
    assert lines[3] == "photos/3.jpg it is no image of a known format"
