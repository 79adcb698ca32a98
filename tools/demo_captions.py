"""Captions for the demo's drawings, as varied and as unreliable as those of web pictures.

Captions come from two sources. Each has wordings of its own ("clip art: ...", "snapshot of a ..."), and the second
calls some colours and shapes by the name of a neighbour in part of its captions. So what a class name means depends on
the words around it, as it does on the web, and the words of a prompt matter: "a photo of a {}." occurs in neither.
Within a source, captions vary in word order, synonyms and further attributes (size, place, background); some leave out
the colour or the shape, and some are wrong.

Images of held-out compositions do not occur in training, and no caption names such a composition.
"""

from typing import NamedTuple

import numpy as np

from lorattt.demo import CLASS_NAMES, COLOURS, SEEN, SHAPES

FIRST = (
    "clip art: {}", "icon, {}", "a drawing of a {}", "flat {} design", "vector {}", "sticker with a {}", "one {} sign",
    "logo: the {}",
)  # fmt: skip
SECOND = (
    "a picture of my {}", "snapshot of a {}", "we saw a {} today", "this {} is for sale", "look at the {}!",
    "a shot of the {}", "found a {} here", "close view of a {}",
)  # fmt: skip
_THINGS = ("{colour} {shape}", "{shape} in {colour}", "{shape}, {colour}", "{shape} painted {colour}")
_THING_SHARES = (0.55, 0.2, 0.15, 0.1)
_SMALL, _BIG = ("small", "tiny", "little"), ("big", "large", "huge")
_LIGHT, _DARK = ("white", "a bright wall", "a light page"), ("black", "a dark wall", "night")
# By place in the tables of words: a colour or shape, and what the second source may call it.
_OTHER_COLOUR = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 0: 7, 7: 0}
_OTHER_SHAPE = {3: 4, 4: 3, 5: 6, 6: 5}


class Shares(NamedTuple):
    """How often, from 0 to 1.

    Attributes:
        second: Captions of the second source.
        other_colour: Of these, colours by the name of a neighbour.
        other_shape: Of these, shapes by the name of a neighbour, for those that have one.
        wrong: Captions with another colour or shape.
        rare: Captions with a rare synonym, of the colour or of the shape, beside a common word.
        synonym: Words of the others that are replaced by the frequent synonym, each by itself.
        partial: Captions with the colour or the shape alone.
        attribute: Captions with each of the further attributes, where the picture has it.
        crossed: Captions in a wording of the other source.
    """

    second: float = 0.5
    other_colour: float = 0.42
    other_shape: float = 0.4
    wrong: float = 0.15
    rare: float = 0.12
    synonym: float = 0.25
    partial: float = 0.1
    attribute: float = 0.3
    crossed: float = 0.05


SHARES = Shares()


class Picture(NamedTuple):
    """What a caption may tell.

    Attributes:
        label: The class.
        side: Of a square around the shape, in pixels.
        x: Centre of the shape, from -0.5 (left) to 0.5.
        y: Centre of the shape, from -0.5 (top) to 0.5.
        border: Mean intensity along the upper and lower border, 0 to 1.
    """

    label: int
    side: float
    x: float
    y: float
    border: float


def caption(picture: Picture, rng: np.random.Generator, shares: Shares = SHARES) -> str:
    """One caption of a picture of a class in ``SEEN``."""
    colour, shape = divmod(picture.label, 8)
    second = rng.random() < shares.second
    if second:
        called = _OTHER_COLOUR[colour] if rng.random() < shares.other_colour else colour
        named = _OTHER_SHAPE.get(shape, shape) if rng.random() < shares.other_shape else shape
        colour, shape = (called, named) if 8 * called + named in SEEN else (colour, shape)
    if rng.random() < shares.wrong:
        wrong = [label for label in SEEN if (label // 8 == colour) != (label % 8 == shape)]
        colour, shape = divmod(wrong[int(rng.integers(len(wrong)))], 8)
    words = CLASS_NAMES[8 * colour + shape].split()
    text = _thing(words[0], words[1], rng, shares)
    size, place, background = _attributes(picture, rng)
    told = rng.random(3) < shares.attribute
    text = f"{size} {text}" if size and told[0] else text
    text = f"{text} {place}" if place and told[1] else text
    text = f"{text} on {background}" if background and told[2] else text
    wordings = SECOND if second != (rng.random() < shares.crossed) else FIRST
    return wordings[int(rng.integers(len(wordings)))].format(text)


def _thing(colour: str, shape: str, rng: np.random.Generator, shares: Shares) -> str:
    """Colour and shape, or one of them, in some of their words."""
    rare = rng.random()
    if rare < shares.rare / 2:
        colour = COLOURS[colour][1]
    elif rare < shares.rare:
        shape = SHAPES[shape][1]
    else:
        colour = COLOURS[colour][0] if rng.random() < shares.synonym else colour
        shape = SHAPES[shape][0] if rng.random() < shares.synonym else shape
    if rng.random() < shares.partial:
        return colour if rng.random() < 0.5 else shape
    return _THINGS[rng.choice(len(_THINGS), p=_THING_SHARES)].format(colour=colour, shape=shape)


def _attributes(picture: Picture, rng: np.random.Generator) -> tuple[str, str, str]:
    """Words for size, place and background; empty where the picture has nothing to tell."""
    words = _SMALL if picture.side < 50 else _BIG if picture.side > 68 else ("",)
    size = words[int(rng.integers(len(words)))]
    near, far = sorted((abs(picture.x), abs(picture.y)))
    if far < 0.08:
        place = "in the middle"
    elif near > 0.12:
        place = "in the corner"
    else:
        place = "near the edge" if far > 0.2 else ""
    words = _LIGHT if picture.border > 0.65 else _DARK if picture.border < 0.4 else ("",)
    return size, place, words[int(rng.integers(len(words)))]
