"""Counter-based random numbers against SplitMix64 in plain Python integers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lorattt.rng import Stream, episode_keys, fold, keep_mask, uniform

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """The output function of SplitMix64."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def splitmix64(state: int, count: int) -> list[int]:
    outputs = []
    for _ in range(count):
        state = (state + GAMMA) & MASK
        outputs.append(mix(state))
    return outputs


def naive_fold(key: int, value: int) -> int:
    return mix(((key & MASK) ^ mix(value)) + GAMMA)


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def keys_of(*values: int) -> Tensor:
    return torch.tensor([signed(value & MASK) for value in values])


KEYS = (0, 1, -1, 1234567, 2**63 - 1, 2**63, 0xDEADBEEFCAFEF00D)


def test_the_oracle_is_splitmix64() -> None:
    # Published outputs for seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64").
    assert splitmix64(1234567, 5) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_uniform_is_the_top_bits_of_splitmix64(dtype: torch.dtype, bits: int) -> None:
    expected = [[(output >> (64 - bits)) / 2**bits for output in splitmix64(key, 12)] for key in KEYS]
    drawn = uniform(keys_of(*KEYS), (3, 4), dtype)
    assert drawn.dtype == dtype
    assert drawn.shape == (len(KEYS), 3, 4)
    assert drawn.double().flatten(1).tolist() == expected


@pytest.mark.parametrize("value", [0, 1, 2, -1, 2**62 + 5, -(2**63)])
def test_fold_matches_plain_integers(value: int) -> None:
    expected = [signed(naive_fold(key, value)) for key in KEYS]
    assert fold(keys_of(*KEYS), value).tolist() == expected
    assert fold(keys_of(*KEYS), torch.full((len(KEYS),), value)).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, 42, -1, 2**63, 2**64 - 1])
def test_the_chain_of_seed_sample_stream_and_view_matches_plain_integers(seed: int) -> None:
    index, views = torch.tensor([0, 1, 49_999]), torch.tensor([[0, 63], [1, 5], [2, 2]])
    streams = fold(episode_keys(seed, index), 7)
    keys = fold(streams.unsqueeze(-1).expand_as(views), views)
    for e, i in enumerate(index.tolist()):
        for n, v in enumerate(views[e].tolist()):
            key = naive_fold(naive_fold(naive_fold(seed, i), 7), v)
            assert keys[e, n].item() == signed(key)
            assert uniform(keys[e, n], (2,), torch.float64).tolist() == [x / 2**53 for x in _top(key, 2)]


def _top(key: int, count: int) -> list[int]:
    return [output >> 11 for output in splitmix64(key, count)]


def test_keys_of_seeds_samples_streams_and_views_are_all_different() -> None:
    index, views = torch.arange(50), torch.arange(16)
    keys = [
        fold(fold(episode_keys(seed, index), stream).unsqueeze(-1).expand(50, 16), views.expand(50, 16)).flatten()
        for seed in range(5)
        for stream in range(4)
    ]
    assert torch.cat(keys).unique().numel() == 5 * 4 * 50 * 16
    # The order of folding matters: (sample 3, view 5) is not (sample 5, view 3).
    assert fold(fold(keys_of(9), 3), 5).item() != fold(fold(keys_of(9), 5), 3).item()


@pytest.mark.parametrize("draw", [uniform, lambda keys, shape: keep_mask(keys, shape, 0.5)])
def test_a_block_starts_as_a_longer_block_and_does_not_depend_on_its_batch(
    draw: Callable[[Tensor, tuple[int, ...]], Tensor],
) -> None:
    keys = episode_keys(3, torch.arange(6))
    long = draw(keys, (10,))
    assert torch.equal(draw(keys, (5,)), long[:, :5])
    assert torch.equal(draw(keys, (2, 3)), long[:, :6].reshape(6, 2, 3))
    assert torch.equal(draw(keys[[4, 1]], (10,)), long[[4, 1]])
    assert torch.equal(draw(keys.view(2, 3), (10,)), long.view(2, 3, 10))
    assert torch.equal(draw(keys[2], (10,)), long[2])
    assert draw(keys[:0], (10,)).shape == (0, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_is_uniform_and_uncorrelated(dtype: torch.dtype) -> None:
    keys, count = episode_keys(0, torch.arange(400)), 500
    drawn = uniform(keys, (count,), dtype).double()
    n = drawn.numel()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    # Five standard errors: the mean's is 1 / sqrt(12 n), the variance's 1 / sqrt(180 n).
    assert abs(drawn.mean() - 1 / 2) < 5 / (12 * n) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 5 / (180 * n) ** 0.5
    bins = torch.histc(drawn, bins=100, min=0, max=1)
    assert ((bins - n / 100).square() / (n / 100)).sum() < 99 + 5 * (2 * 99) ** 0.5
    # Neighbours within a block, and the same place in the blocks of neighbouring samples.
    centred = (drawn - 1 / 2) * 12**0.5
    for one, other in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((one * other).mean()) < 5 / n**0.5


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_the_ends_of_the_range_stay_within_it(bits: int) -> None:
    state = _unmix(bits) - GAMMA
    for dtype, width in ((torch.float32, 24), (torch.float64, 53)):
        drawn = uniform(keys_of(state), (1,), dtype).item()
        assert drawn == (bits >> (64 - width)) / 2**width
        assert 0 <= drawn < 1


def _unmix(z: int) -> int:
    """The state whose hash is ``z``: each step of the output function is invertible."""

    def unshift(value: int, bits: int) -> int:
        result = value
        for _ in range(64 // bits + 1):
            result = value ^ (result >> bits)
        return result

    z = unshift(z, 31) * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    z = unshift(z, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    z = unshift(z, 30)
    return z


def test_keep_mask_reads_four_sixteen_bit_numbers_of_each_hash() -> None:
    drop, count = 0.3, 10
    mask = keep_mask(keys_of(*KEYS), (count,), drop)
    for row, key in zip(mask.tolist(), KEYS, strict=True):
        lanes = [(output >> (16 * lane)) & 0xFFFF for output in splitmix64(key, 3) for lane in range(4)]
        # A lane is a signed 16-bit number; the lowest 30 % of those drop.
        assert row == [(lane ^ 0x8000) >= round(drop * 2**16) for lane in lanes[:count]]


@pytest.mark.parametrize("drop", [0.0, 1e-6, 0.1, 0.5, 0.9, 0.999])
def test_keep_mask_keeps_one_minus_drop(drop: float) -> None:
    keys, shape = episode_keys(1, torch.arange(30)), (100, 101)
    mask = keep_mask(keys, shape, drop)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.shape == (30, *shape)
    rate, n = round(drop * 2**16) / 2**16, mask.numel()
    assert abs(mask.double().mean() - (1 - rate)) <= 5 * (rate * (1 - rate) / n) ** 0.5
    assert torch.equal(mask, torch.stack([keep_mask(key, shape, drop) for key in keys]))


def test_keep_mask_drops_more_of_the_same_when_drop_grows() -> None:
    keys = episode_keys(1, torch.arange(8))
    assert (keep_mask(keys, (64,), 0.6) <= keep_mask(keys, (64,), 0.2)).all()


# What each purpose was drawn with when it first appeared: another value would change every draw of it.
STREAMS = {
    "VIEW_CROPS": 1,
    "AUGMIX": 2,
    "LORA_INIT": 11,
    "LORA_DROPOUT": 12,
    "PATCH_MASKS": 21,
    "CONTEXT_INIT": 31,
    "PROMPT_NEIGHBOURS": 32,
    "HEAD_INIT": 33,
    "CONTRASTED_CLASSES": 34,
    "EPOCH_ORDER": 19938,
    "HOLDOUT": 16413,
    "SHOTS": 20743,
    "TRAINING_CROPS": 29249,
    "CORRUPTIONS": 786_977,
    "LONG_TAIL": 67_489,
}


def test_streams_keep_their_values() -> None:
    assert STREAMS.items() <= {each.name: each.value for each in Stream}.items()


def test_no_two_streams_are_the_same() -> None:
    """No two purposes share a number, aliases included, and each gives its own draws of the same key."""
    assert len({each.value for each in Stream.__members__.values()}) == len(Stream.__members__)
    key = episode_keys(3, torch.tensor([5]))
    assert len({int(fold(key, each)) for each in Stream}) == len(Stream)


@pytest.mark.parametrize("stream", [Stream.AUGMIX, Stream.CORRUPTIONS])
def test_a_stream_is_folded_as_its_number(stream: Stream) -> None:
    key = episode_keys(0, torch.tensor([2**40, 7]))
    assert torch.equal(fold(key, stream), fold(key, int(stream)))
    assert [int(each) for each in fold(key, stream)] == [signed(naive_fold(int(each), int(stream))) for each in key]
