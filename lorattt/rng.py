"""Counter-based random numbers: each value is a function of its key and its position, nothing else.

A torch generator is a stream: what it yields depends on what was drawn before, and drawing for E
episodes means E generators. Here the run's seed, the sample's index and the purpose of the draw are
mixed into one integer key, and the n-th number of that key is a hash of (key, n). So a draw is the
same for every batch size, order, worker count and device, and E episodes are drawn by one batched
expression. The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in wrap-around int64.
"""

import math
from enum import IntEnum, unique

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


@unique
class Stream(IntEnum):
    """Purposes of random numbers. Folded into a key, each gives draws that have nothing to do with those of another.

    The values never change: they decide every draw. A new purpose takes a new number.
    """

    VIEW_CROPS = 1
    AUGMIX = 2
    LORA_INIT = 11
    LORA_DROPOUT = 12
    PATCH_MASKS = 21
    CONTEXT_INIT = 31
    PROMPT_NEIGHBOURS = 32
    HEAD_INIT = 33
    CONTRASTED_CLASSES = 34
    EPOCH_ORDER = 0x04DE2
    HOLDOUT = 0x401D
    SHOTS = 0x5107
    TRAINING_CROPS = 0x7241
    CORRUPTIONS = 0xC0221
    LONG_TAIL = 0x107A1


def _signed(value: int) -> int:
    """The two's complement reading of an unsigned 64-bit integer, as torch's int64 wants it."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_(x: Tensor) -> Tensor:
    """SplitMix64's output function, in place: on a CPU, fresh memory costs more than the arithmetic."""
    shifted = torch.empty_like(x)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        torch.bitwise_right_shift(x, bits, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - bits)) - 1)).mul_(_signed(factor))
    return x


def _bits(keys: Tensor, count: int) -> Tensor:
    """``(*K, count)`` hashes: element n of a key is SplitMix64's n-th output from that state."""
    counter = torch.arange(1, count + 1, device=keys.device, dtype=torch.int64) * _signed(_GOLDEN)
    return _mix_(keys.unsqueeze(-1) + counter)


def fold(keys: Tensor, value: int | Tensor) -> Tensor:
    """Derive new keys from ``keys`` (int64, any shape) and an integer; order of folding matters."""
    mixed = _mix_(torch.as_tensor(value, device=keys.device).clone())
    return _mix_((keys ^ mixed) + _signed(_GOLDEN))


def episode_keys(seed: int, index: Tensor) -> Tensor:
    """``(E,)`` int64 keys from the run's seed and the dataset-wide numbers of the samples, ``(E,)`` int64."""
    return fold(torch.full_like(index, _signed(seed)), index)


def uniform(keys: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in ``[0, 1)``, one independent block of the given shape per key: ``(*K,)`` int64 to ``(*K, *shape)``.

    The dtype is ``float32`` (24 random bits) or ``float64`` (53 random bits).
    """
    width = 53 if dtype == torch.float64 else 24
    # The highest bits; torch's shift copies the sign of an int64.
    bits = (_bits(keys, math.prod(shape)) >> (64 - width)) & ((1 << width) - 1)
    return (bits.to(dtype) * 2.0**-width).reshape(*keys.shape, *shape)


def random_order(seed: int, number: int, stream: Stream, count: int) -> Tensor:
    """A random order of ``count`` things, ``(count,)`` int64: a function of the seed, a number and the purpose."""
    key = fold(episode_keys(seed, torch.tensor([number])), stream)
    return uniform(key, (count,), torch.float64)[0].argsort(stable=True)


def keep_mask(keys: Tensor, shape: tuple[int, ...], drop: float) -> Tensor:
    """Dropout decisions, one independent block per key: 1 with probability ``1 - drop``, else 0.

    ``(*K,)`` int64 keys to ``(*K, *shape)`` float32; bool would be slower to make and to multiply with. Each 64-bit
    hash serves four elements, so ``drop``, in ``[0, 1)``, is rounded to a multiple of 2^-16.
    """
    count = math.prod(shape)
    lanes = _bits(keys, -(-count // 4)).contiguous().view(torch.int16)[..., :count]
    # An int16 is uniform over [-2^15, 2^15); the lowest round(drop * 2^16) of its values drop.
    return lanes.float().ge_(round(drop * 2**16) - 2**15).view(*keys.shape, *shape)
