"""Images that a program gives: every kind is the same image, and what cannot be one is named."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lorattt.data.given import GivenImages
from lorattt.data.images import UnreadableImageError
from lorattt.data.source import EpisodeDataset, collate_episodes
from lorattt.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
GREY = PIXELS[..., 0]


class Named:
    """A path of another library's making."""

    def __fspath__(self) -> str:
        return "a.png"


class NamedInBytes:
    def __fspath__(self) -> bytes:
        return b"a.png"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: ``a.png`` and an empty folder ``d``."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("a.png")
    Path("d").mkdir()
    return tmp_path


def pixels(image: Any) -> Any:
    source = GivenImages([image])
    read = source.read(0)
    assert read.mode == "RGB"
    return np.asarray(read)


@pytest.mark.parametrize(
    ("image", "off"),
    [
        ("a.png", 0),
        (Path("a.png"), 0),
        (Named(), 0),
        (np.str_("a.png"), 0),
        (Image.fromarray(PIXELS), 0),
        (PIXELS, 0),
        (PIXELS[::-1, ::-1].copy()[::-1, ::-1], 0),
        (PIXELS.astype(np.uint16) * 257, 0),
        (PIXELS.astype(">u2") * 257, 0),
        (PIXELS / 255, 0),
        ((PIXELS / 255).astype(np.float32), 0),
        ((PIXELS / 255).astype(np.longdouble), 0),
        ((PIXELS / 255).astype(np.float16), 1),
        (TENSOR, 0),
        (TENSOR.clone(), 0),
        ((TENSOR.int() * 257).to(torch.uint16), 0),
        (TENSOR / 255, 0),
        (TENSOR.double() / 255, 0),
        ((TENSOR / 255).requires_grad_(), 0),
        (torch.nn.Parameter(TENSOR / 255), 0),
        ((TENSOR / 255).half(), 1),
        ((TENSOR / 255).bfloat16(), 1),
    ],
    ids=lambda value: type(value).__name__,  # a text of an object has its address, which differs by process
)
def test_every_kind_is_the_same_image(image: Any, off: int) -> None:
    assert np.abs(pixels(image).astype(int) - PIXELS).max() <= off


@pytest.mark.parametrize(
    "image", [GREY, GREY[..., None], GREY / 255, torch.from_numpy(GREY.copy()), TENSOR[:1]], ids=str
)
def test_grey(image: Any) -> None:
    assert (pixels(image) == GREY[..., None]).all()


@pytest.mark.parametrize("image", [PIXELS > 99, TENSOR > 99], ids=["array", "tensor"])
def test_bool_is_black_and_white(image: Any) -> None:
    assert (pixels(image) == 255 * (PIXELS > 99)).all()


def test_sixteen_bits_are_rounded_down_as_those_of_files(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (pixels(deep) == pixels("deep.png")).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PIXELS.astype(np.int64), "an array must be uint8, uint16, bool or floating point, this one is int64"),
        (lambda: PIXELS.astype(np.int8), "this one is int8: convert it to uint8 if its numbers are from 0 to 255"),
        (lambda: PIXELS.astype(np.uint32), "this one is uint32"),
        (lambda: PIXELS.astype(np.complex64), "this one is complex64"),
        (lambda: PIXELS.astype(object), "this one is object"),
        (lambda: PIXELS.astype(np.float32), r"within \[0, 1\]: .* divide what runs to 255 by 255"),
        (lambda: PIXELS / 255 - 0.5, r"within \[0, 1\]"),
        (lambda: np.full((4, 4, 3), np.nan), r"within \[0, 1\]"),
        (lambda: np.full((4, 4), np.inf), r"within \[0, 1\]"),
        (lambda: PIXELS.transpose(2, 0, 1), r"this one is \(3, 5, 7\): give image.transpose\(1, 2, 0\)"),
        (lambda: np.dstack([PIXELS, GREY]), r"this one is \(5, 7, 4\): give red, green and blue, or grey alone"),
        (lambda: np.zeros((0, 7, 3), np.uint8), r"this one is \(0, 7, 3\)"),
        (lambda: np.zeros(7, np.uint8), r"this one is \(7,\)"),
        (lambda: TENSOR.long(), "a tensor must be uint8, uint16, bool or floating point, this one is torch.int64"),
        (lambda: TENSOR.short(), "this one is torch.int16"),
        (lambda: TENSOR.to(torch.complex64), "this one is torch.complex64"),
        (lambda: TENSOR.float(), r"within \[0, 1\]"),
        (lambda: TENSOR.permute(1, 2, 0), r"this one is \(5, 7, 3\): give image.permute\(2, 0, 1\)"),
        (lambda: torch.cat([TENSOR, TENSOR[:1]]), r"this one is \(4, 5, 7\): give red, green and blue"),
        (lambda: torch.zeros(3, 0, 7), r"this one is \(3, 0, 7\)"),
        (lambda: torch.tensor(3), r"this one is \(\)"),
        (lambda: torch.empty(3, 4, 4, device="meta"), "a tensor must be dense and hold numbers"),
        (lambda: TENSOR.float().to_sparse(), "a tensor must be dense and hold numbers"),
        (lambda: torch.nested.nested_tensor([TENSOR.float()]), "a tensor must be dense and hold numbers"),
        (lambda: None, "expected one of paths, PIL images, arrays or tensors, got None"),
        (lambda: 3, "got int"),
        (lambda: ["a.png"], "got list"),
        (lambda: io.BytesIO(), "got BytesIO"),
        (lambda: Path("a.png").read_bytes(), r"images\[0\] is bytes: give PIL.Image.open"),
        (lambda: NamedInBytes(), r"is a path in bytes: give os.fsdecode of it"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_cannot_be_an_image(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GivenImages([make()])
    assert str(caught.value).startswith("images[0]")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("b.png", r"^b\.png: no such file; one text alone"),
        ("", r"^images\[0\]: no such file"),
        ("a\0b.png", r"^a\\x00b\.png: no such file"),
        pytest.param("x" * 5000, r"^xxx.{,120}: no such file", id="long"),
        ("~nobody-of-this-name/a.png", r"^~nobody-of-this-name/a\.png: no such file"),
        ("d", r"^d is a folder: name its files, or give this text alone"),
        (Path("d"), r"^d is a folder"),
    ],
)
def test_a_path_in_a_list_is_a_file(path: str | Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GivenImages([path])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "^images: expected a list of paths, PIL images, arrays or tensors, got None$"),
        (3, "got int$"),
        (b"a.png", "got bytes$"),
        (Image.Image, "got type$"),
        (torch.tensor(3), "got Tensor$"),
        (PIXELS[None, None], "got ndarray$"),
        ({"a.png"}, "^images is a set: give a list, whose order is that of the results$"),
        ({"a": "a.png"}, "^images is a dict: give a list"),
        (Image.fromarray(PIXELS), r"^images is one image: give a list, such as \[image\]$"),
        (PIXELS, "^images is one image"),
        (GREY, "^images is one image"),
        (TENSOR, "^images is one image"),
        ("b.png", "^images 'b.png': no such file or folder"),
        (NamedInBytes(), "^images: .* is a path in bytes"),
    ],
    ids=lambda value: type(value).__name__,  # a text of an object has its address, which differs by process
)
def test_what_is_no_list_of_images(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GivenImages(images)


def test_every_kind_of_list() -> None:
    paths = ["a.png", "a.png"]
    for images in (
        paths,
        tuple(paths),
        iter(paths),
        (path for path in paths),
        np.array(paths),
        dict(enumerate(paths)).values(),
    ):
        source = GivenImages(images)
        assert [source.path(index) for index in range(len(source))] == paths
        assert all(type(source.path(index)) is str for index in range(len(source)))
    for batch in (np.stack([PIXELS, PIXELS]), torch.stack([TENSOR, TENSOR])):
        assert (np.asarray(GivenImages(batch).read(1)) == PIXELS).all()
    assert len(GivenImages([])) == 0


def test_names_are_paths_or_places() -> None:
    source = GivenImages([PIXELS, "a.png", Path("a.png")])
    assert [source.file(index) for index in range(3)] == [None, "a.png", "a.png"]
    assert [source.path(index) for index in range(3)] == ["images[0]", "a.png", "a.png"]


def test_limits_of_files_hold_for_arrays() -> None:
    with pytest.raises(UnreadableImageError, match="one side is over 1000 times the other"):
        GivenImages([np.zeros((2000, 1), np.uint8)]).read(0)


class OfThisProcess(Tensor):
    """A tensor that no other process can read, as one in the memory of a GPU."""

    owner = os.getpid()

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert os.getpid() == cls.owner, "read in another process"
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("image", [TENSOR, TENSOR / 255], ids=["bytes", "floats"])
def test_tensors_are_read_in_the_process_that_has_them(image: Tensor) -> None:
    given = image.as_subclass(OfThisProcess)
    dataset = EpisodeDataset(GivenImages([given, "a.png"]), [0, 1], None)
    (batch,) = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=collate_episodes)
    assert all((read == TENSOR).all() for read in batch["image"])
