"""The truncated tokenizer: any text fits the small vocabulary, known words stay whole."""

import open_clip
import pytest
import torch

from lorattt.clip.build import truncated_tokenizer
from lorattt.demo import CLASS_NAMES, MERGES

TEXTS = [
    "a photo of a red circle.",
    "",
    "Supercalifragilistic   ANTIDISESTABLISHMENTARIANISM!!",
    "żółć 漢字 🙂 \u0000 ñ",
    "<end_of_text> in the middle",
    "word " * 100,
]


@pytest.mark.parametrize("merges", [0, 100, MERGES])
def test_ids_fit_the_vocabulary_and_the_end_is_the_largest(merges: int) -> None:
    tokenizer = truncated_tokenizer(merges, 32)
    tokens = tokenizer(TEXTS)
    assert tokenizer.vocab_size == 512 + merges + 2
    assert tokens.shape == (len(TEXTS), 32)
    assert tokens.min() >= 0
    assert (tokens.max(dim=1).values == 512 + merges + 1).all()
    assert (tokens[:, 0] == 512 + merges).all()


def test_all_merges_give_the_full_tokenizer() -> None:
    full = open_clip.tokenizer.SimpleTokenizer(context_length=32)
    merges = full.vocab_size - 514
    torch.testing.assert_close(truncated_tokenizer(merges, 32)(TEXTS), full(TEXTS))


def test_text_survives_the_way_there_and_back() -> None:
    tokenizer = truncated_tokenizer(MERGES, 32)
    for name in CLASS_NAMES:
        assert tokenizer.decode(tokenizer.encode(name)).strip() == name


def test_words_of_the_demo_are_kept_in_few_pieces() -> None:
    tokenizer = truncated_tokenizer(MERGES, 32)
    assert all(len(tokenizer.encode(name)) <= 5 for name in CLASS_NAMES)
    assert len(tokenizer.encode("a photo of a")) == 4
    assert len({tuple(tokenizer.encode(name)) for name in CLASS_NAMES}) == 64


def test_open_clip_itself_is_left_alone() -> None:
    truncated_tokenizer(10, 32)
    assert open_clip.tokenizer.SimpleTokenizer().vocab_size == 49408
