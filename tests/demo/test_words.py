"""The words of the demo's classes: their order is that of the labels, and each names one colour or shape."""

from lorattt.clip.build import truncated_tokenizer
from lorattt.demo import CLASS_NAMES, COLOURS, MERGES, SHAPES, SYNONYMS
from lorattt.demo.draw import _HUES

RARE_COLOURS = ["crimson", "tangerine", "lemon", "lime", "aqua", "navy", "plum", "magenta"]
RARE_SHAPES = ["ball", "block", "pyramid", "asterisk", "crucifix", "valentine", "lune", "dart"]


def test_names_are_in_the_order_of_the_labels() -> None:
    colours = ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"]
    shapes = ["circle", "square", "triangle", "star", "cross", "heart", "moon", "arrow"]
    for label in range(64):
        assert CLASS_NAMES[label] == f"{colours[label // 8]} {shapes[label % 8]}"
        assert SYNONYMS[label] == f"{RARE_COLOURS[label // 8]} {RARE_SHAPES[label % 8]}"
    assert len(CLASS_NAMES) == len(SYNONYMS) == 64
    assert list(_HUES) == colours


def test_a_word_means_one_colour_or_shape() -> None:
    words = [word for table in (COLOURS, SHAPES) for name, others in table.items() for word in (name, *others)]
    assert len(words) == len(set(words)) == 48


def test_the_model_tells_all_words_apart() -> None:
    tokenizer = truncated_tokenizer(MERGES, 32)
    assert len({tuple(tokenizer.encode(name)) for name in (*CLASS_NAMES, *SYNONYMS)}) == 128
    assert all(tokenizer.decode(tokenizer.encode(name)).strip() == name for name in SYNONYMS)
