"""The operations of ImageNet-C and their published constants, in numpy and Pillow.

An operation takes ``x``, ``(H, W, 3)`` float64 in [0, 1], a generator and the constants of one severity, and returns
``(H, W, 3)``, which the caller clips. Lengths among the constants are pixels of 224 px images; ``corruptions.yaml`` has
the constants. Formulas and constants follow Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261) and their published
program.
"""

import io
from collections.abc import Callable
from importlib.resources import files
from typing import Final, Literal

import numpy as np
import yaml
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
Border = Literal["edge", "reflect", "symmetric"]
_GREY: Final = np.array([0.299, 0.587, 0.114])


def to_array(image: Image.Image) -> Floats:
    """``(H, W, 3)`` in [0, 1]."""
    return np.asarray(image, dtype=np.float64) / 255


def to_image(x: Floats) -> Image.Image:
    """RGB, rounded to 8 bits; values outside [0, 1] are clipped."""
    return Image.fromarray((x.clip(0, 1) * 255).round().astype(np.uint8))


def _correlate(x: Floats, kernel: Floats, border: Border) -> Floats:
    """Each pixel's neighbours weighted by ``kernel`` (odd sides, centred); ``x`` is ``(H, W, ...)``."""
    (rows, columns), (height, width) = kernel.shape, x.shape[:2]
    margins = [(rows // 2, rows // 2), (columns // 2, columns // 2)] + [(0, 0)] * (x.ndim - 2)
    padded = np.pad(x, margins, mode=border)
    result = np.zeros_like(x)
    for row, column in np.argwhere(kernel):
        result += kernel[row, column] * padded[row : row + height, column : column + width]
    return result


def gaussian_filter(x: Floats, sigma: float, border: Border = "edge", truncate: float = 4.0) -> Floats:
    """Gaussian blur of ``(H, W, ...)``; the kernel ends ``truncate`` standard deviations from its centre."""
    radius = int(truncate * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    return _correlate(_correlate(x, weights[:, None], border), weights[None, :], border)


def _bilinear(x: Floats, rows: Floats, columns: Floats, border: Literal["reflect", "symmetric"]) -> Floats:
    """Values of ``x (H, W, C)`` at fractional places ``rows`` and ``columns``, both ``(h, w)``."""

    def inside(place: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        if border == "symmetric":  # the border pixel is its own neighbour
            place = place % (2 * size)
            return np.minimum(place, 2 * size - 1 - place)
        place = place % max(2 * (size - 1), 1)
        return np.minimum(place, 2 * (size - 1) - place)

    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    y0, y1 = inside(top, x.shape[0]), inside(top + 1, x.shape[0])
    x0, x1 = inside(left, x.shape[1]), inside(left + 1, x.shape[1])
    upper = x[y0, x0] * (1 - right) + x[y0, x1] * right
    lower = x[y1, x0] * (1 - right) + x[y1, x1] * right
    return upper * (1 - down) + lower * down


def _zoom(x: Floats, factor: float) -> Floats:
    """The middle of ``x (H, W, C)``, enlarged to the size of ``x``."""
    places = []
    for size in x.shape[:2]:
        crop = int(np.ceil(size / factor))
        enlarged = round(crop * factor)
        # The corners of the crop become the corners of the enlarged crop, whose middle is kept.
        step = (crop - 1) / (enlarged - 1) if enlarged > 1 else 0.0
        places.append((size - crop) // 2 + ((enlarged - size) // 2 + np.arange(size)) * step)
    rows, columns = np.meshgrid(places[0], places[1], indexing="ij")
    return _bilinear(x, rows, columns, "symmetric")


def _streaks(x: Floats, radius: int, sigma: float, angle: float) -> Floats:
    """One-sided Gaussian blur along a line, as ImageMagick's motion blur; ``angle`` in degrees."""
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    across = np.ceil(taps * np.cos(np.deg2rad(angle)) - 0.5).astype(int)
    down = np.ceil(taps * np.sin(np.deg2rad(angle)) - 0.5).astype(int)
    margin = 2 * radius + 1
    padded = np.pad(x, [(margin, margin), (margin, margin)] + [(0, 0)] * (x.ndim - 2), mode="edge")
    height, width = x.shape[:2]
    result = np.zeros_like(x)
    for weight, dx, dy in zip(weights, across, down, strict=True):
        result += weight * padded[margin + dy : margin + dy + height, margin + dx : margin + dx + width]
    return result


def _gaussian_noise(x: Floats, rng: Generator, scale: float) -> Floats:
    return x + rng.normal(scale=scale, size=x.shape)


def _shot_noise(x: Floats, rng: Generator, photons: float) -> Floats:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Floats, rng: Generator, amount: float) -> Floats:
    hit = rng.random(x.shape) <= amount
    return np.where(hit, (rng.random(x.shape) <= 0.5).astype(np.float64), x)


def _speckle_noise(x: Floats, rng: Generator, scale: float) -> Floats:
    return x + x * rng.normal(scale=scale, size=x.shape)


def _gaussian_blur(x: Floats, rng: Generator, sigma: float) -> Floats:
    return gaussian_filter(x, sigma)


def _glass_blur(x: Floats, rng: Generator, sigma: float, reach: int, rounds: int) -> Floats:
    height, width = x.shape[:2]
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    order = list(range(height * width))
    # A swap depends on those before it, so this is a loop; on plain lists, which Python indexes fastest.
    for steps in rng.integers(-reach, reach, size=(rounds, len(rows), len(columns), 2)):
        for row, steps_of_row in zip(rows, steps.tolist(), strict=True):
            for column, (down, across) in zip(columns, steps_of_row, strict=True):
                here, there = row * width + column, (row + down) * width + column + across
                order[here], order[there] = order[there], order[here]
    shuffled = gaussian_filter(x, sigma).reshape(-1, 3)[order].reshape(x.shape)
    return gaussian_filter(shuffled, sigma)


def disk(radius: int, sigma: float) -> Floats:
    """A disk with a soft edge, which sums to 1."""
    margin = 1 if radius <= 8 else 2
    reach = np.arange(-radius - margin, radius + margin + 1)
    flat = (reach[:, None] ** 2 + reach[None, :] ** 2 <= radius**2).astype(np.float64)
    return gaussian_filter(flat / flat.sum(), sigma, truncate=margin / sigma)


def _defocus_blur(x: Floats, rng: Generator, radius: int, sigma: float) -> Floats:
    return _correlate(x, disk(radius, sigma), "reflect")


def _motion_blur(x: Floats, rng: Generator, radius: int, sigma: float) -> Floats:
    return _streaks(x, radius, sigma, rng.uniform(-45, 45))


def _zoom_blur(x: Floats, rng: Generator, stop: float, step: float) -> Floats:
    factors = np.arange(1, stop, step)
    return (x + sum(_zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(
    x: Floats,
    rng: Generator,
    mean: float,
    scale: float,
    zoom: float,
    least: float,
    radius: int,
    sigma: float,
    keep: float,
) -> Floats:
    flakes = _zoom(rng.normal(mean, scale, size=(*x.shape[:2], 1)), zoom)
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    flakes = _streaks(flakes, radius, sigma, rng.uniform(-135, -45))
    whitened = np.maximum(x, (x @ _GREY)[..., None] * 1.5 + 0.5)
    snowy: Floats = keep * x + (1 - keep) * whitened + flakes + flakes[::-1, ::-1]
    return snowy


def plasma(side: int, decay: float, rng: Generator) -> Floats:
    """Clouds by the diamond-square method: ``(side, side)`` from 0 to 1, periodic; ``side`` is a power of two."""
    heights = np.zeros((side, side))
    step, rough = side, 1.0
    while step > 1:
        half = step // 2

        def midpoint(*neighbours: Floats, rough: float = rough) -> Floats:
            moved: Floats = sum(neighbours) / len(neighbours) + rough * rng.uniform(-1, 1, neighbours[0].shape)
            return moved

        corners = heights[::step, ::step]
        below, beside = np.roll(corners, -1, axis=0), np.roll(corners, -1, axis=1)
        middles = midpoint(corners, below, beside, np.roll(below, -1, axis=1))
        heights[half::step, half::step] = middles
        heights[::step, half::step] = midpoint(corners, beside, middles, np.roll(middles, 1, axis=0))
        heights[half::step, ::step] = midpoint(corners, below, middles, np.roll(middles, 1, axis=1))
        # Squared: the published program divides both the range of its draws and their factor.
        step, rough = half, rough / decay**2
    heights -= heights.min()
    heights /= heights.max()
    return heights


def _fog(x: Floats, rng: Generator, density: float, decay: float) -> Floats:
    height, width = x.shape[:2]
    side = max(2, 1 << (max(height, width) - 1).bit_length())
    brightest = x.max()
    foggy: Floats = (x + density * plasma(side, decay, rng)[:height, :width, None]) * brightest / (brightest + density)
    return foggy


def _brightness(x: Floats, rng: Generator, rise: float) -> Floats:
    value: Floats = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + rise, 1)
    # Of one hue and saturation, colours are proportional to their value; black has neither and turns grey.
    return np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised)


def _saturate(x: Floats, rng: Generator, factor: float, rise: float) -> Floats:
    value: Floats = x.max(axis=2, keepdims=True)
    least: Floats = x.min(axis=2, keepdims=True)
    saturation = (value - least) / np.where(value > 0, value, 1)
    raised = (saturation * factor + rise).clip(0, 1)
    # The distance from the brightest channel is proportional to the saturation; grey counts as hue 0, red.
    of_grey = np.concatenate([value, value * (1 - raised), value * (1 - raised)], axis=2)
    return np.where(saturation > 0, value - (value - x) * (raised / np.where(saturation > 0, saturation, 1)), of_grey)


def _contrast(x: Floats, rng: Generator, share: float) -> Floats:
    means: Floats = x.mean(axis=(0, 1), keepdims=True)
    return (x - means) * share + means


def _elastic_transform(x: Floats, rng: Generator, strength: float, sigma: float, shift: float) -> Floats:
    height, width = x.shape[:2]
    # Fractions of the side; the published program reckons with 244 where images have 224 pixels.
    unit = min(height, width) * 244 / 224
    reach = max(min(height, width) // 3, 1)
    middle = np.array([height // 2, width // 2])
    corners = middle + reach * np.array([[1, 1], [-1, 1], [-1, -1]])
    moved = corners + rng.uniform(-shift * unit, shift * unit, size=corners.shape)
    # The affine map that takes the moved corners back, as (3, 2): where each pixel of the result comes from.
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners.astype(np.float64))
    rows, columns = np.meshgrid(np.arange(float(height)), np.arange(float(width)), indexing="ij")
    source = np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ back
    x = _bilinear(x, source[..., 0], source[..., 1], "reflect")
    across, down = (
        gaussian_filter(rng.uniform(-1, 1, size=(height, width)), sigma * unit, "symmetric", truncate=3)
        * strength
        * unit
        for _ in range(2)
    )
    return _bilinear(x, rows + down, columns + across, "symmetric")


def _pixelate(x: Floats, rng: Generator, share: float) -> Floats:
    image = to_image(x)
    small = image.resize((max(int(image.width * share), 1), max(int(image.height * share), 1)), Image.Resampling.BOX)
    return to_array(small.resize(image.size, Image.Resampling.BOX))


def _jpeg_compression(x: Floats, rng: Generator, quality: int) -> Floats:
    file = io.BytesIO()
    to_image(x).save(file, "JPEG", quality=quality)
    return to_array(Image.open(file))


_CONSTANTS: Final = yaml.safe_load(files("lorattt.data").joinpath("corruptions.yaml").read_text(encoding="utf-8"))
_IN_ORDER: Final[tuple[Callable[..., Floats], ...]] = (
    *(_gaussian_noise, _shot_noise, _impulse_noise, _defocus_blur, _glass_blur, _motion_blur, _zoom_blur, _snow, _fog),
    *(_brightness, _contrast, _elastic_transform, _pixelate, _jpeg_compression),
    *(_speckle_noise, _gaussian_blur, _saturate),
)
OPERATIONS: Final[dict[str, tuple[Callable[..., Floats], list[list[float]]]]] = {
    each.__name__[1:]: (each, _CONSTANTS[each.__name__[1:]]) for each in _IN_ORDER
}
"""Name to operation, and its constants at severities 1 to 5, in the paper's order."""
