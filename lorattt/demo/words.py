"""The words of the demo's classes: a class is a colour and a shape, both of which have synonyms.

A class's label is 8 times the place of its colour plus the place of its shape, in the order of the tables.
"""

from typing import Final

COLOURS: Final[dict[str, tuple[str, str]]] = {
    "red": ("scarlet", "crimson"),
    "orange": ("amber", "tangerine"),
    "yellow": ("golden", "lemon"),
    "green": ("emerald", "lime"),
    "cyan": ("turquoise", "aqua"),
    "blue": ("azure", "navy"),
    "purple": ("violet", "plum"),
    "pink": ("rose", "magenta"),
}
"""Colour -> two synonyms; ``SYNONYMS`` uses the second. The tiny CLIP was pretrained with neither."""
SHAPES: Final[dict[str, tuple[str, str]]] = {
    "circle": ("disc", "ball"),
    "square": ("box", "block"),
    "triangle": ("wedge", "pyramid"),
    "star": ("spark", "asterisk"),
    "cross": ("plus", "crucifix"),
    "heart": ("love", "valentine"),
    "moon": ("crescent", "lune"),
    "arrow": ("pointer", "dart"),
}
"""Shape -> synonyms, as for colours."""

CLASS_NAMES: Final[tuple[str, ...]] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
SYNONYMS: Final[tuple[str, ...]] = tuple(
    f"{colour} {shape}" for _, colour in COLOURS.values() for _, shape in SHAPES.values()
)
"""The same classes by other names."""
HELD_OUT: Final[tuple[int, ...]] = tuple(
    8 * colour + shape for colour in range(8) for shape in sorted({colour, (colour + 3) % 8})
)
"""Labels that never occur in split ``train``: two for each colour and two for each shape."""
SEEN: Final[tuple[int, ...]] = tuple(label for label in range(64) if label not in HELD_OUT)
