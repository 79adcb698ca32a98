"""A small data set that is drawn on request: one coloured shape per image, in nine domains.

Nothing is stored: image ``index`` is a function of its arguments alone. The *scene* (class, place, size, rotation,
tint, light) depends on ``(seed, split, index)``; the domain only changes how that scene is rendered or corrupted, so
the same index can be compared across domains.

A class is a colour and a shape ("red circle"). One composition in four never occurs in training, although each colour
and each shape does.
"""

import json
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from lorattt.demo.words import CLASS_NAMES, SEEN, SHAPES
from lorattt.errors import UserError, quoted

# A split's place here is part of the key of its scenes: new ones go to the end.
Split = Literal["train", "val", "test", "shots"]
Floats = NDArray[np.float32]

SIZE: Final = 96
"""Side of a drawn image in pixels: twice the model's input, so a crop shows more detail."""

# Colour, in the order of COLOURS -> hue in degrees.
_HUES: Final = {
    "red": 0, "orange": 28, "yellow": 54, "green": 120, "cyan": 180, "blue": 225, "purple": 275, "pink": 322,
}  # fmt: skip
_SUPERSAMPLE: Final = 3
_LINE: Final = 4.0  # width of the contour in pixels
# Strength of each domain at severity 1..5.
_STRENGTH: Final[dict[str, tuple[float, ...]]] = {
    "noise": (0.15, 0.22, 0.30, 0.38, 0.46),  # standard deviation, intensities in [0, 1]
    "blur": (3.0, 4.5, 6.0, 7.5, 9.0),  # radius in pixels
    "pixelate": (14, 11, 9, 8, 7),  # blocks along a side
    "contrast": (0.6, 0.5, 0.42, 0.35, 0.28),  # share of the contrast that is left
    "dark": (0.6, 0.5, 0.4, 0.34, 0.28),  # share of the light that is left
    "hue": (5.0, 7.5, 10.0, 13.0, 16.0),  # rotation in degrees, either way
    "outline": (0.7, 0.6, 0.5, 0.4, 0.25),  # share of the ink that is left inside the contour
    "clutter": (20, 40, 60, 80, 100),  # distractors in the background
}
_CAST: Final = (0.15, 0.22, 0.3, 0.38, 0.46)  # of hue: light taken from one colour channel
DOMAINS: Final[tuple[str, ...]] = ("source", *_STRENGTH)

# Each shape as a closed polygon ``(P, 2)`` of (x, y) around the origin, about one unit in radius.
_POLYGONS: Final = {
    name: np.array(points, dtype=np.float32)
    for name, points in json.loads((Path(__file__).parent / "shapes.json").read_text(encoding="utf-8")).items()
}


def _hsv(hue: float, saturation: float, value: float) -> Floats:
    """``(3,)`` RGB in [0, 1]; hue in degrees."""
    offsets = (np.array([5.0, 3.0, 1.0]) + hue / 60.0) % 6.0
    ramp = np.clip(np.minimum(offsets, 4.0 - offsets), 0.0, 1.0)
    return (value * (1.0 - saturation * ramp)).astype(np.float32)


def _mask(points: Floats, fill: float | None) -> Floats:
    """Coverage ``(SIZE, SIZE)`` in [0, 1] of a polygon in pixels; with ``fill``, a contour around that share of ink."""
    canvas = Image.new("L", (SIZE * _SUPERSAMPLE, SIZE * _SUPERSAMPLE))
    pen = ImageDraw.Draw(canvas)
    path = [(float(x), float(y)) for x, y in points * _SUPERSAMPLE]
    pen.polygon(path, fill=255 if fill is None else round(255 * fill))
    if fill is not None:
        pen.line([*path, path[0], path[1]], fill=255, width=round(_LINE * _SUPERSAMPLE), joint="curve")
    return _floats(canvas.reduce(_SUPERSAMPLE))


def _ramp(angle: float) -> Floats:
    """``(SIZE, SIZE)`` plane from -1 to 1 that rises in the direction of ``angle`` (radians)."""
    axis = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)
    plane = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    return np.asarray(plane / np.abs(plane).max(), dtype=np.float32)


def _clutter(background: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Stripes and small bits, grey or in any class's colour, over ``background`` ``(SIZE, SIZE, 3)``."""
    side = SIZE * _SUPERSAMPLE
    layer = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(layer)
    hues = list(_HUES.values())
    for position in range(count):
        grey = rng.random() < 0.6
        saturation = 0.0 if grey else rng.uniform(0.4, 0.9)
        colour = _hsv(hues[int(rng.integers(8))], saturation, rng.uniform(0.25, 0.95))
        fill = (*(int(255 * c) for c in colour), 255)
        x, y = rng.uniform(0, side, 2)
        if position % 4 == 0:
            angle = rng.uniform(0, np.pi)
            dx, dy = side * np.cos(angle), side * np.sin(angle)
            width = int(rng.integers(2, 3 * _SUPERSAMPLE))
            pen.line([(x - dx, y - dy), (x + dx, y + dy)], fill=fill, width=width)
            continue
        radius = rng.uniform(2.0, 8.0) * _SUPERSAMPLE
        turns = rng.uniform(0, 2 * np.pi) + np.arange(int(rng.integers(3, 7))) * 2.4
        pen.polygon([(x + radius * np.cos(t), y + radius * np.sin(t)) for t in np.sort(turns)], fill=fill)
    bits = _floats(layer.reduce(_SUPERSAMPLE))
    alpha = bits[..., 3:]
    return np.asarray(background * (1.0 - alpha) + bits[..., :3] * alpha, dtype=np.float32)


def place(rng: np.random.Generator) -> tuple[float, float, NDArray[np.float64]]:
    """What a scene's generator yields first: shift of the hue in degrees, radius and centre (x, y) in pixels."""
    hue_shift, radius = rng.uniform(-5.0, 5.0), rng.uniform(15.0, 34.0)
    return hue_shift, radius, rng.uniform(1.05 * radius, SIZE - 1.05 * radius, 2)


def _scene(
    label: int, rng: np.random.Generator, fill: float | None, clutter: tuple[int, np.random.Generator] | None
) -> Floats:
    """Render one scene ``(SIZE, SIZE, 3)``, intensities in [0, 1]; ``rng`` is drawn from in a fixed order."""
    colour, shape = divmod(label, 8)
    hue_shift, radius, centre = place(rng)
    angle = np.deg2rad(rng.uniform(-25.0, 25.0))
    saturation, value = rng.uniform(0.7, 1.0), rng.uniform(0.75, 1.0)
    back_hue, back_saturation, back_value = rng.uniform(0, 360), rng.uniform(0.0, 0.25), rng.uniform(0.2, 0.95)
    back_angle, back_slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.15)
    light_angle, light = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.2)
    grain = rng.uniform(0.0, 0.02)
    texture = rng.standard_normal((SIZE, SIZE, 1), dtype=np.float32)

    background = _hsv(back_hue, back_saturation, back_value) + back_slope * _ramp(back_angle)[..., None]
    if clutter is not None:
        background = _clutter(background, *clutter)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    points = radius * _POLYGONS[list(SHAPES)[shape]] @ turn.T + centre
    mask = _mask(points.astype(np.float32), fill)[..., None]
    flat_ink = _hsv(list(_HUES.values())[colour] + hue_shift, saturation, value)
    ink = flat_ink * (1.0 + light * _ramp(light_angle)[..., None])
    image = np.asarray(background * (1.0 - mask) + ink * mask + grain * texture, dtype=np.float32)
    return image.clip(0.0, 1.0)


def _shift_colours(image: Floats, level: int, rng: np.random.Generator) -> Floats:
    """Rotate all hues by one angle (about the grey axis) and tint the light."""
    angle = np.deg2rad(_STRENGTH["hue"][level]) * (1.0 if rng.random() < 0.5 else -1.0)
    gain = np.ones(3)
    gain[int(rng.integers(3))] -= _CAST[level]
    # Rodrigues' formula about the axis (1, 1, 1) / sqrt(3).
    cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    turn = np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) / 3.0
    return np.asarray(image @ turn.T * gain, dtype=np.float32)


def _corrupt(image: Floats, domain: str, level: int, rng: np.random.Generator) -> Floats:
    """Apply a corruption that works on the finished picture; other domains come back unchanged."""
    strength = _STRENGTH[domain][level] if domain != "source" else 0
    match domain:
        case "noise":
            image = image + strength * rng.standard_normal(image.shape, dtype=np.float32)
        case "blur":
            image = _floats(_picture(image).filter(ImageFilter.GaussianBlur(strength)))
        case "pixelate":
            blocks = _picture(image).resize((int(strength), int(strength)), Image.Resampling.BOX)
            image = _floats(blocks.resize((SIZE, SIZE), Image.Resampling.NEAREST))
        case "contrast":
            image = 0.5 + (image - 0.5) * strength
        case "dark":
            image = image * strength
        case "hue":
            image = _shift_colours(image, level, rng)
    return image


def _floats(image: Image.Image) -> Floats:
    intensities: Floats = np.asarray(image, dtype=np.float32) / 255.0
    return intensities


def _picture(image: Floats) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8))


def scene_key(index: int, split: Split, seed: int) -> list[int]:
    """Seed of a scene's generator."""
    return [seed, get_args(Split).index(split), index]


def label_of(index: int, *, split: Split = "test") -> int:
    """The label of an image (the position in ``CLASS_NAMES``), without drawing it.

    Any 64 consecutive images (48 in split ``train``) hold each class once.
    """
    # 29 has no factor in common with 64 or 48: neighbours differ in colour and shape.
    return SEEN[index * 29 % len(SEEN)] if split == "train" else index * 29 % len(CLASS_NAMES)


def draw(
    index: int, *, domain: str = "source", severity: int = 3, split: Split = "test", seed: int = 0
) -> tuple[Image.Image, int]:
    """Draw one image, RGB, 96 x 96; the second result is its label, see :func:`label_of`.

    Args:
        index: Number of the image within its split, from 0.
        domain: One of ``DOMAINS``. ``outline`` (a shape whose inside fades) and ``clutter`` (a busy background) render
            the scene differently, the others alter the finished picture.
        severity: Strength of the domain, 1 (weak) to 5; ``source`` ignores it.
        split: ``train``, which the tiny CLIP was trained on, holds the classes of ``SEEN`` alone; ``val``, ``test``
            and ``shots`` (to fit a prompt on) hold all 64.
        seed: Another seed is another set of scenes.
    """
    if domain not in DOMAINS:
        raise UserError(f"domain {quoted(domain)} is not known; choose one of: {', '.join(DOMAINS)}")
    if severity not in range(1, 6):
        raise UserError(f"severity {severity} is out of range; choose one of: 1, 2, 3, 4, 5")
    if split not in get_args(Split):
        raise UserError(f"split {quoted(split)} is not known; choose one of: {', '.join(get_args(Split))}")
    if index < 0 or seed < 0:
        raise UserError(f"index {index} and seed {seed} must not be negative")
    label = label_of(index, split=split)
    key = scene_key(index, split, seed)
    level = severity - 1
    own = np.random.default_rng([*key, 1 + DOMAINS.index(domain), severity])
    fill = _STRENGTH[domain][level] if domain == "outline" else None
    clutter = (int(_STRENGTH[domain][level]), own) if domain == "clutter" else None
    image = _scene(label, np.random.default_rng(key), fill, clutter)
    return _picture(_corrupt(image, domain, level, own)), label
