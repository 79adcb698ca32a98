"""Every kind of image file becomes 8-bit RGB, upright, or names its reason."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lorattt.data.images import IMAGE_ENDINGS, UnreadableImageError, read_image

Pixels = npt.NDArray[Any]


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ramp(width: int = 32, height: int = 16) -> Image.Image:
    """A smooth colour image that JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([8 * x % 256, 15 * y, 255 - 7 * x], axis=-1).astype(np.uint8))


def read(path: Path, size: tuple[int, int]) -> Pixels:
    image = read_image(path)
    assert image.mode == "RGB"
    assert image.size == size
    return np.asarray(image)


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".ppm", ".webp"])
def test_rgb_is_kept_as_it_is(tmp_path: Path, ending: str) -> None:
    pixels = noise(5, 7, 3)
    path = tmp_path / f"image{ending}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if ending == ".webp" else {}))
    assert (read(path, (7, 5)) == pixels).all()


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_every_ending_is_a_format_that_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    grey = Image.fromarray(np.full((16, 16), 77, dtype=np.uint8))
    grey.save(path)
    assert np.abs(read(path, (16, 16)).astype(int) - 77).max() <= 2


def test_the_format_is_told_by_the_content_and_not_by_the_ending(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "image.jpg", "PNG")
    assert (read(tmp_path / "image.jpg", (7, 5)) == pixels).all()


def test_grey_becomes_equal_channels(tmp_path: Path) -> None:
    grey = noise(5, 7)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (read(tmp_path / "grey.png", (7, 5)) == grey[..., None]).all()


def test_transparency_is_dropped(tmp_path: Path) -> None:
    colour, grey, alpha = noise(5, 7, 3), noise(5, 7, seed=1), noise(5, 7, seed=2)
    alpha[0] = 0
    Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / "rgba.png")
    assert (read(tmp_path / "rgba.png", (7, 5)) == colour).all()
    image = Image.fromarray(grey)
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == "LA"
    image.save(tmp_path / "la.png")
    assert (read(tmp_path / "la.png", (7, 5)) == grey[..., None]).all()


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 256, 4))])
@pytest.mark.parametrize("ending", [".png", ".gif"])
def test_palettes_are_looked_up(tmp_path: Path, ending: str, transparency: int | bytes | None) -> None:
    if ending == ".gif" and isinstance(transparency, bytes):
        transparency = 0
    palette, numbers = noise(64, 3), np.arange(35, dtype=np.uint8).reshape(5, 7)
    image = Image.fromarray(numbers)
    image.putpalette(palette.tobytes())
    assert image.mode == "P"
    image.save(tmp_path / f"p{ending}", **({} if transparency is None else {"transparency": transparency}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read(tmp_path / f"p{ending}", (7, 5)) == palette[numbers]).all()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = noise(5, 17) > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    with Image.open(tmp_path / "bits.png") as image:
        assert image.mode == "1"
    assert (read(tmp_path / "bits.png", (17, 5)) == 255 * bits[..., None]).all()


def test_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    colours = ramp()
    colours.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    with Image.open(tmp_path / "cmyk.jpg") as image:
        assert image.mode == "CMYK"
    difference = read(tmp_path / "cmyk.jpg", (32, 16)).astype(int) - np.asarray(colours)
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize("ending", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, ending: str) -> None:
    values = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(16, 64)
    image = Image.fromarray(values)
    # Older versions of Pillow write no PGM of the mode I;16.
    (image.convert("I") if ending == ".pgm" else image).save(tmp_path / f"deep{ending}")
    pixels = read(tmp_path / f"deep{ending}", (64, 16))
    assert (pixels == values[..., None] // 257).all()
    assert len(np.unique(pixels)) == 256


def turned(upright: Pixels, orientation: int) -> Pixels:
    """What a camera stores so that a viewer who follows the EXIF tag sees ``upright`` (EXIF 2.3, 4.6.4)."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),  # to be turned clockwise by the viewer
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(stored[orientation](upright))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_come_upright(tmp_path: Path, orientation: int) -> None:
    colour = noise(5, 7, 3)
    Image.fromarray(turned(colour, orientation)).save(tmp_path / "turned.png", exif=exif_of(orientation))
    assert (read(tmp_path / "turned.png", (7, 5)) == colour).all()
    deep = np.linspace(0, 255, 35).astype(np.uint16).reshape(5, 7) * 257
    Image.fromarray(turned(deep, orientation)).save(tmp_path / "deep.png", exif=exif_of(orientation))
    assert (read(tmp_path / "deep.png", (7, 5)) == deep[..., None] // 257).all()
    smooth = np.asarray(ramp())
    Image.fromarray(turned(smooth, orientation)).save(
        tmp_path / "turned.jpg", quality=100, subsampling=0, exif=exif_of(orientation)
    )
    assert np.abs(read(tmp_path / "turned.jpg", (32, 16)).astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_unknown_orientation_is_left_alone(tmp_path: Path, orientation: int) -> None:
    pixels = noise(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "odd.png", exif=exif_of(orientation))
    assert (read(tmp_path / "odd.png", (7, 5)) == pixels).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_image(tmp_path: Path) -> None:
    ramp().save(tmp_path / "broken.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    read(tmp_path / "broken.jpg", (32, 16))


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "frames.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "frames.gif", (4, 4)) == 10).all()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (jpeg()[:2000], "truncated"),
        (jpeg()[:20], "."),
        (b"", "no image of a known format"),
        (b"not an image, but a text", "no image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "."),
    ],
    ids=["truncated", "head", "empty", "text", "png"],
)
def test_unreadable_files_say_why_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(path) not in str(caught.value)


def test_a_missing_file_and_a_folder_say_so_without_the_path(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing.png", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        assert str(caught.value) == reason


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
def test_every_truncation_is_readable_or_unreadable_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        buffer = io.BytesIO()
        ramp().save(buffer, kind, exif=exif_of(6))
        content = buffer.getvalue()
        outcomes = set()
        for length in range(0, len(content), max(1, len(content) // 60)):
            path.write_bytes(content[:length])
            try:
                read_image(path)
            except UnreadableImageError:
                outcomes.add("unreadable")
            else:
                outcomes.add("read")
        assert "unreadable" in outcomes, kind


def test_a_decompression_bomb_is_refused_and_half_of_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pillow warns above its limit and refuses above twice the limit.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side, refused in ((10, False), (14, False), (15, True)):
        path = tmp_path / f"{side}.png"
        Image.fromarray(noise(side, side, 3)).save(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if refused:
                with pytest.raises(UnreadableImageError, match="decompression bomb"):
                    read_image(path)
            else:
                read(path, (side, side))


def test_a_large_image_is_read_whole(tmp_path: Path) -> None:
    image = Image.new("L", (6000, 4000), 9)
    image.putpixel((5999, 3999), 200)
    image.save(tmp_path / "large.png", compress_level=1)
    pixels = read(tmp_path / "large.png", (6000, 4000))
    assert pixels[0, 0].tolist() == [9, 9, 9]
    assert pixels[-1, -1].tolist() == [200, 200, 200]


def test_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    ramp().save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        image = read_image(path)
    path.unlink()
    assert len(image.tobytes()) == 32 * 16 * 3  # nothing is loaded later


def png_header(width: int, height: int) -> bytes:
    """A PNG file that tells its size and holds nothing else: decoding it would fail in another way."""
    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(fields)) + b"IHDR" + fields + struct.pack(">I", zlib.crc32(b"IHDR" + fields))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_001, 10_000), (12_000, 9_000)])
def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    path = tmp_path / "large.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path)
    assert str(caught.value) == (
        f"it has {width} x {height} pixels, more than data.max_pixels 100000000: make it smaller or raise that limit"
    )


def test_an_image_that_pillow_refuses_is_refused_whatever_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png_header(20_000, 20_000))
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        read_image(path, 400_000_000)


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_the_limit_on_pixels_is_exact(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    Image.fromarray(noise(5, 7)).save(path)
    assert read_image(path, 35).size == (7, 5)
    with pytest.raises(UnreadableImageError, match="it has 7 x 5 pixels, more than data.max_pixels 34"):
        read_image(path, 34)


def test_a_line_of_pixels_is_refused(tmp_path: Path) -> None:
    # Resized to 224 on its shorter side it would have 224 * 224,000 pixels for every 1,000 of its length.
    for width, height, refused in ((1000, 1, False), (1001, 1, True), (2, 2001, True)):
        Image.new("L", (width, height)).save(tmp_path / "line.png")
        if refused:
            with pytest.raises(UnreadableImageError, match=f"it has {width} x {height} pixels: one side is over 1000"):
                read_image(tmp_path / "line.png")
        else:
            read(tmp_path / "line.png", (width, height))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImageError, match="it is no regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_formats_that_start_other_programs_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image:
        assert image.format == "EPS", "Pillow itself takes it for a picture"
    with pytest.raises(UnreadableImageError, match="no image of a known format"):
        read_image(path)
