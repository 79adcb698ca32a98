"""CLIP's byte-pair encoding cut down to a small vocabulary."""

from open_clip.tokenizer import SimpleTokenizer

_BYTES = 512  # every byte, within a word and at its end
_SPECIAL = ("<start_of_text>", "<end_of_text>")


def truncated_tokenizer(merges: int, context_length: int) -> SimpleTokenizer:
    """CLIP's own tokenizer with only the first merges of its table.

    Merges are ordered by frequency, so common words stay whole and rare ones fall into more pieces, down
    to single bytes: any text can be encoded. Ids are those of the full tokenizer, except that the start
    and end of text move down to ``512 + merges`` and ``512 + merges + 1``; the end stays the largest id,
    which is how CLIP's text tower finds it.

    Args:
        merges: How many merges to keep; the vocabulary has ``512 + merges + 2`` entries.
        context_length: Tokens of a sequence, start and end included; longer texts are cut.

    Returns:
        open_clip's tokenizer: texts to ``(N, context_length)`` int64 ids, zero behind the end.
    """
    tokenizer = SimpleTokenizer(context_length=context_length)
    kept = _BYTES + merges
    tokenizer.bpe_ranks = {pair: rank for pair, rank in tokenizer.bpe_ranks.items() if rank < merges}
    tokenizer.encoder = {token: number for token, number in tokenizer.encoder.items() if number < kept}
    tokenizer.encoder |= {token: kept + offset for offset, token in enumerate(_SPECIAL)}
    tokenizer.decoder = {number: token for token, number in tokenizer.encoder.items()}
    tokenizer.vocab_size = len(tokenizer.encoder)
    tokenizer.sot_token_id, tokenizer.eot_token_id = kept, kept + 1
    tokenizer.all_special_ids = [kept, kept + 1]
    return tokenizer
