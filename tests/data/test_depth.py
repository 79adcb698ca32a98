"""Images of every depth become 8-bit by the range that their file states, or name their reason; never black unsaid.

Files are put together byte by byte here, and the expected values are ratios of whole numbers.
"""

import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lorattt.data.images import UnreadableImageError, read_image, upright_rgb

WIDTH, HEIGHT = 16, 3
Tag = tuple[int, str, Sequence[float]]
Pixels = npt.NDArray[Any]
_CODES = {"H": 3, "I": 4, "i": 9, "f": 11, "d": 12}


def tiff(
    path: Path,
    data: bytes,
    bits: int,
    *,
    kind: int = 1,
    white_is_zero: bool = False,
    order: str = "<",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    samples: int = 1,
    packed: bool = False,
    tags: Iterable[Tag] = (),
) -> Path:
    """A TIFF of one strip: kind 1 is unsigned, 2 signed, 3 floating point; ``packed`` is Deflate."""
    data = zlib.compress(data) if packed else data
    width, height = size
    colours = 2 if samples == 3 else 0 if white_is_zero else 1
    own: list[Tag] = [(256, "H", [width]), (257, "H", [height]), (258, "H", [bits] * samples)]
    own += [(259, "H", [8 if packed else 1]), (262, "H", [colours]), (277, "H", [samples]), (278, "H", [height])]
    own += [(279, "I", [len(data)]), (339, "H", [kind] * samples), *tags]
    own = sorted([*own, (273, "I", [0])])
    start = 8 + 2 + 12 * len(own) + 4
    extra, entries = b"", b""
    long = sum(
        len(values) * struct.calcsize(code) for _, code, values in own if len(values) * struct.calcsize(code) > 4
    )
    for tag, code, values in own:
        values = [start + long] if tag == 273 else values
        field = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(field) > 4:
            field, extra = struct.pack(f"{order}I", start + len(extra)), extra + field
        entries += struct.pack(f"{order}HHI", tag, _CODES[code], len(values)) + field.ljust(4, b"\0")
    head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(own))
    path.write_bytes(head + entries + struct.pack(f"{order}I", 0) + extra + data)
    return path


def ramp(top: int, width: int = WIDTH) -> list[int]:
    return [number * top // (width - 1) for number in range(width)]


def rows(numbers: Sequence[int], bits: int, height: int = HEIGHT) -> bytes:
    """Unsigned numbers of any width in bits, the highest bit first; each row ends on a whole byte."""
    row = "".join(format(number, f"0{bits}b") for number in numbers)
    row += "0" * (-len(row) % 8)
    return bytes(int(row[place : place + 8], 2) for place in range(0, len(row), 8)) * height


def whole(numbers: Sequence[float], code: str, order: str = "<", height: int = HEIGHT) -> bytes:
    return struct.pack(f"{order}{len(numbers)}{code}", *numbers) * height


def grey(path: Path) -> list[int]:
    """The numbers of the first row, if all rows and channels are the same."""
    image = read_image(path)
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert (pixels == pixels[:1, :, :1]).all()
    found: list[int] = pixels[0, :, 0].tolist()
    return found


def scaled(numbers: Iterable[float], black: float, white: float) -> list[int]:
    spread = Fraction(white) - Fraction(black)
    return [floor((Fraction(number) - Fraction(black)) * 255 / spread) for number in numbers]


def reason(path: Path) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    return str(caught.value)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize(
    ("bits", "order"), [(1, "<"), (2, "<"), (4, "<"), (8, "<"), (12, "<"), (1, ">"), (2, ">"), (4, ">"), (8, ">")]
)
def test_packed_depths_are_read_from_black_to_white(
    tmp_path: Path, bits: int, order: str, white_is_zero: bool, packed: bool
) -> None:
    numbers = ramp(2**bits - 1)
    path = tiff(tmp_path / "a.tif", rows(numbers, bits), bits, order=order, white_is_zero=white_is_zero, packed=packed)
    if bits == 12 and white_is_zero:
        assert reason(path).startswith("it is a TIFF of a kind that cannot be read (unknown pixel mode)")
        return
    assert grey(path) == scaled(numbers, *((2**bits - 1, 0) if white_is_zero else (0, 2**bits - 1)))


@pytest.mark.parametrize("width", [7, 64])
def test_twelve_bits_of_any_width(tmp_path: Path, width: int) -> None:
    numbers = ramp(4095, width)
    found = grey(tiff(tmp_path / "a.tif", rows(numbers, 12), 12, size=(width, HEIGHT)))
    assert found == scaled(numbers, 0, 4095)
    assert sum(found) / width == pytest.approx(127, abs=1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("code", "kind", "top", "order"),
    [("H", 1, 65535, "<"), ("H", 1, 65535, ">"), ("h", 2, 32767, "<"), ("h", 2, 32767, ">"), ("b", 2, 127, "<")],
)
def test_whole_numbers_are_read_by_their_depth(
    tmp_path: Path, code: str, kind: int, top: int, order: str, packed: bool
) -> None:
    numbers = ramp(top)
    bits = 8 * struct.calcsize(code)
    path = tiff(tmp_path / "a.tif", whole(numbers, code, order), bits, kind=kind, order=order, packed=packed)
    if (code, order, packed) == ("h", ">", True):
        assert reason(path).startswith("a compressed big-endian TIFF of such numbers cannot be read")
        return
    assert grey(path) == scaled(numbers, 0, top)


def test_sixteen_bits_of_which_zero_is_white(tmp_path: Path) -> None:
    numbers = ramp(65535)
    assert grey(tiff(tmp_path / "a.tif", whole(numbers, "H"), 16, white_is_zero=True)) == scaled(numbers, 65535, 0)


@pytest.mark.parametrize(
    ("code", "kind", "numbers", "words"),
    [
        ("h", 2, range(-5, 11), "its numbers run from -5 to 10, where 0 is black and 32767 is white"),
        ("b", 2, range(-128, -112), "its numbers run from -128 to -113, where 0 is black and 127 is white"),
        ("i", 2, range(0, 256, 17), "its numbers run from 0 to 255 and nothing states which one is white"),
        ("i", 2, range(-8, 8), "its numbers run from -8 to 7 and nothing states which one is white"),
        ("I", 1, ramp(2**32 - 1), "its numbers run from 0 to 4294967295 and nothing states which one is white"),
        ("f", 3, range(0, 256, 17), "its numbers run from 0 to 255, where 0 is black and 1 is white"),
        ("f", 3, [-0.25, *[0.5] * 15], "its numbers run from -0.25 to 0.5, where 0 is black and 1 is white"),
        ("f", 3, [float("nan"), *[0.5] * 15], "some of its numbers are not finite"),
        ("f", 3, [float("inf"), *[0.5] * 15], "some of its numbers are not finite"),
    ],
)
def test_a_range_that_is_not_known_is_rejected(
    tmp_path: Path, code: str, kind: int, numbers: Sequence[float], words: str
) -> None:
    path = tiff(tmp_path / "a.tif", whole(numbers, code), 8 * struct.calcsize(code), kind=kind)
    assert reason(path) == f"{words}: convert it to 8 or 16 bit"


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_floats_from_zero_to_one(tmp_path: Path, white_is_zero: bool) -> None:
    numbers = [0, 0.25, 0.5, *[1.0] * 13]  # half of 255 rounds to the even number
    path = tiff(tmp_path / "a.tif", whole(numbers, "f"), 32, kind=3, white_is_zero=white_is_zero)
    assert grey(path)[:4] == ([255, 191, 128, 0] if white_is_zero else [0, 64, 128, 255])


@pytest.mark.parametrize(
    ("code", "kind", "black", "white"),
    [
        ("f", 3, 0, 255),
        ("f", 3, -1000, 3000),
        ("i", 2, 0, 4095),
        ("i", 2, -(2**31), 2**31 - 1),
        ("I", 1, 0, 2**32 - 1),
        ("I", 1, 5, 2**31 + 5),
        ("h", 2, -1024, 3071),
        ("b", 2, -128, 127),
    ],
)
def test_a_range_that_the_file_states_is_read(tmp_path: Path, code: str, kind: int, black: int, white: int) -> None:
    numbers = [black + number for number in ramp(white - black)]
    stated = {"f": "f", "I": "I"}.get(code, "i")
    tags: list[Tag] = [(340, stated, [black]), (341, stated, [white])]
    path = tiff(tmp_path / "a.tif", whole(numbers, code), 8 * struct.calcsize(code), kind=kind, tags=tags)
    exact = [Fraction(number - black) * 255 / (white - black) for number in numbers]
    assert all(abs(found - value) < 1 for found, value in zip(grey(path), exact, strict=True))
    assert (grey(path)[0], grey(path)[-1]) == (0, 255)
    beyond = tiff(
        tmp_path / "b.tif",
        whole(numbers, code),
        8 * struct.calcsize(code),
        kind=kind,
        tags=[(340, stated, [black]), (341, stated, [white - 1])],
    )
    assert ("is white" in reason(beyond)) or code == "f"


@pytest.mark.parametrize("white", [0, float("inf"), float("nan")])
def test_a_stated_range_that_is_none(tmp_path: Path, white: float) -> None:
    tags: list[Tag] = [(340, "f", [0]), (341, "f", [white])]
    path = tiff(tmp_path / "a.tif", whole([0.5] * WIDTH, "f"), 32, kind=3, tags=tags)
    assert "and nothing states which one is white" in reason(path)


def test_statistics_of_an_unsigned_file_do_not_change_its_depth(tmp_path: Path) -> None:
    numbers = ramp(4095)
    path = tiff(tmp_path / "a.tif", whole(numbers, "H"), 16, tags=[(340, "H", [0]), (341, "H", [4095])])
    assert grey(path) == scaled(numbers, 0, 65535)


@pytest.mark.parametrize(
    ("bits", "kind"), [(6, 1), (10, 1), (14, 1), (24, 1), (64, 1), (64, 2), (16, 3), (24, 3), (64, 3)]
)
def test_depths_that_are_not_read_say_so(tmp_path: Path, bits: int, kind: int) -> None:
    path = tiff(tmp_path / "a.tif", rows([1] * WIDTH, bits), bits, kind=kind)
    expected = "it is a TIFF of a kind that cannot be read (unknown pixel mode): convert it to 8 or 16 bit"
    assert reason(path) == expected


@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_sixteen_bits(tmp_path: Path, order: str) -> None:
    numbers = ramp(65535, 3 * WIDTH)
    path = tiff(tmp_path / "a.tif", whole(numbers, "H", order), 16, samples=3, order=order)
    found = np.asarray(read_image(path))[0].reshape(-1)
    assert np.abs(found - np.array(numbers) / 257).max() <= 1
    planes = tiff(tmp_path / "b.tif", whole(numbers, "H", order), 16, samples=3, order=order, tags=[(284, "H", [2])])
    assert reason(planes).startswith("a TIFF with planes of 16 bits cannot be read")


_UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),  # clockwise
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_image_keeps_its_range(tmp_path: Path, turn: int, packed: bool) -> None:
    stored = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 85
    expected = _UPRIGHT[turn](stored * 255 // 4095)
    tags: list[Tag] = [(274, "H", [turn])]
    deep = b"".join(rows(row, 12, 1) for row in stored.tolist())
    for bits, data in ((12, deep), (8, (stored * 255 // 4095).astype(np.uint8).tobytes())):
        image = read_image(tiff(tmp_path / f"{bits}.tif", data, bits, packed=packed, tags=tags))
        assert (np.asarray(image)[..., 0] == expected).all()


def png(path: Path, data: bytes, bits: int, colours: int) -> Path:
    """A PNG of one filterless image; colours 0 is grey, 2 RGB, 4 grey with transparency."""
    length = len(data) // HEIGHT
    lines = b"".join(b"\0" + data[place : place + length] for place in range(0, len(data), length))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colours, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text)) for name, text in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_pngs(tmp_path: Path, bits: int) -> None:
    numbers = ramp(2**bits - 1)
    assert grey(png(tmp_path / "a.png", rows(numbers, bits), bits, 0)) == scaled(numbers, 0, 2**bits - 1)


@pytest.mark.parametrize(("colours", "samples"), [(2, 3), (4, 2)])
def test_pngs_of_several_channels_of_sixteen_bits(tmp_path: Path, colours: int, samples: int) -> None:
    numbers = ramp(65535, samples * WIDTH)
    found = np.asarray(read_image(png(tmp_path / "a.png", rows(numbers, 16), 16, colours)))[0]
    expected = np.array(numbers).reshape(WIDTH, samples) / 257
    assert np.abs(found - expected[:, : 3 if colours == 2 else 1]).max() <= 1


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("top", [1, 15, 100, 255, 256, 1000, 4095, 65535])
def test_portable_greymaps_of_any_maximum(tmp_path: Path, top: int, plain: bool) -> None:
    numbers = ramp(top)
    text = " ".join(map(str, numbers * HEIGHT)).encode() if plain else whole(numbers, "B" if top < 256 else "H", ">")
    head = f"P{2 if plain else 5} {WIDTH} {HEIGHT} {top}\n".encode()
    (tmp_path / "a.pgm").write_bytes(head + text)
    assert np.abs(np.array(grey(tmp_path / "a.pgm")) - np.array(numbers) * 255 / top).max() < 1


@pytest.mark.parametrize("top", [31, 1023, 65535])
def test_portable_pixmaps_of_any_maximum(tmp_path: Path, top: int) -> None:
    numbers = ramp(top, 3 * WIDTH)
    data = whole(numbers, "B" if top < 256 else "H", ">")
    (tmp_path / "a.ppm").write_bytes(f"P6 {WIDTH} {HEIGHT} {top}\n".encode() + data)
    found = np.asarray(read_image(tmp_path / "a.ppm"))[0].reshape(-1)
    assert np.abs(found - np.array(numbers) * 255 / top).max() <= 1


def test_portable_floatmaps(tmp_path: Path) -> None:
    numbers = [number / (WIDTH - 1) for number in range(WIDTH)]
    path = tmp_path / "a.ppm"
    path.write_bytes(f"Pf {WIDTH} {HEIGHT} -1.0\n".encode() + whole(numbers, "f"))
    assert grey(path) == [round(number * 17) for number in range(WIDTH)]
    path.write_bytes(f"Pf {WIDTH} {HEIGHT} -1.0\n".encode() + whole([2 * number for number in numbers], "f"))
    assert reason(path).startswith("its numbers run from 0 to 2, where 0 is black and 1 is white")


def _from_rgb(mode: str) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", (4, 3), (200, 100, 50)).convert(mode)


@pytest.mark.parametrize(
    ("make", "colour"),
    [
        (_from_rgb("RGB"), (200, 100, 50)),
        (_from_rgb("RGBA"), (200, 100, 50)),
        (_from_rgb("RGBX"), (200, 100, 50)),
        (lambda: Image.new("RGBA", (4, 3), (200, 100, 50, 128)).convert("RGBa"), (200, 100, 50)),
        (_from_rgb("CMYK"), (200, 100, 50)),
        (_from_rgb("YCbCr"), (200, 100, 50)),
        (_from_rgb("HSV"), (200, 100, 50)),
        (_from_rgb("P"), (204, 102, 51)),  # of Pillow's palette
        (lambda: _from_rgb("P")().convert("PA"), (204, 102, 51)),
        (lambda: Image.new("LAB", (4, 3), (255, 128, 128)), (255, 255, 255)),
        (lambda: Image.new("LAB", (4, 3), (0, 128, 128)), (0, 0, 0)),
        (lambda: Image.new("1", (4, 3), 1), (255, 255, 255)),
        (lambda: Image.new("L", (4, 3), 77), (77, 77, 77)),
        (lambda: Image.new("LA", (4, 3), (77, 0)), (77, 77, 77)),
        (lambda: Image.new("LA", (4, 3), (77, 128)).convert("La"), (77, 77, 77)),
        (lambda: Image.new("F", (4, 3), 0.3), (76, 76, 76)),
        (lambda: Image.fromarray(np.full((3, 4), 257 * 77, dtype=np.uint16)), (77, 77, 77)),
        (lambda: Image.fromarray(np.full((3, 4), 257 * 77, dtype=">u2")), (77, 77, 77)),
        (lambda: Image.new("I;16B", (4, 3), 257 * 77), (77, 77, 77)),
        (lambda: Image.new("I;16L", (4, 3), 257 * 77), (77, 77, 77)),
    ],
)
def test_every_mode_of_pillow(make: Callable[[], Image.Image], colour: tuple[int, int, int]) -> None:
    image = upright_rgb(make())
    assert (image.mode, image.size) == ("RGB", (4, 3))
    assert np.abs(np.asarray(image, dtype=np.int64) - np.array(colour)).max() <= 2


@pytest.mark.parametrize(("mode", "value"), [("I", 0), ("I", 255), ("I", 65535), ("F", 1.5), ("F", -1.0)])
def test_numbers_without_a_file_have_no_range(mode: str, value: float) -> None:
    with pytest.raises(UnreadableImageError, match=r"^its numbers run from .*: convert it to 8 or 16 bit$"):
        upright_rgb(Image.new(mode, (4, 3), value))


def test_an_image_without_pixels() -> None:
    for size in ((0, 0), (0, 5), (5, 0)):
        with pytest.raises(UnreadableImageError, match="it has no pixels"):
            upright_rgb(Image.new("RGB", size))


def test_more_rows_than_are_converted_at_a_time(tmp_path: Path) -> None:
    values = np.arange(600 * 5, dtype=np.uint16).reshape(600, 5) * 21
    Image.fromarray(values).save(tmp_path / "a.png")
    assert (np.asarray(read_image(tmp_path / "a.png")) == (values // 257)[..., None]).all()


def test_a_format_that_is_told_and_cannot_be_read(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    frame = content.index(b"\xff\xc0")
    (tmp_path / "a.jpg").write_bytes(content[: frame + 4] + b"\x0c" + content[frame + 5 :])
    assert reason(tmp_path / "a.jpg") == (
        "it is a JPEG of a kind that cannot be read (cannot handle 12-bit layers): convert it to 8 or 16 bit"
    )
    (tmp_path / "b.ppm").write_text("P5ome text that begins like an image", encoding="utf-8")
    assert reason(tmp_path / "b.ppm") == "it is no image of a known format"
