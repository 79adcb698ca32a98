"""The text tower from embedded tokens, for prompts whose vectors are learned and differ per episode.

The tower is causal: tokens never see what follows. So a prefix shared by all classes runs through each block once,
every class attends to its keys and values, and nothing is computed behind the end-of-text token, the only one that is
read. All of it is exact.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorattt.clip.attention import attend, causal_mask, finish, layer_norm, project, widen
from lorattt.errors import UserError

# What autograd keeps of one token in one block of a frozen tower, in vectors of the tower's width: the inputs of
# two LayerNorms, q, k and v as the products want them, and the hidden layer of the MLP. Measured 8.3 to 8.8 in
# float32; in half precision, where a LayerNorm reads a float32 copy, 10.1 to 11.6.
_KEPT_WIDTHS = 12
_SHARE = 0.5  # of the available memory that the graph may take; its gradients and temporaries need the rest
# Tokens at a time where memory does not decide: their temporaries stay in a CPU's caches.
_TOKENS_AT_A_TIME = {"cpu": 2048, "cuda": 65536}
_UNKNOWN = 4 * 2**30  # bytes of memory, where the system does not say
_MEMINFO = Path("/proc/meminfo")
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")

PrefixCache: TypeAlias = tuple[Tensor, ...]
"""Keys and values ``(E, heads, P, c)`` of the tokens that all sequences of an episode begin with, block by block."""


def find_text_parts(model: Any) -> Any | None:
    """The module that holds the text tower's parts, or None if it is not causal with end-of-text pooling."""
    if isinstance(model, CLIP):
        parts, pooling = model, model.text_pool_type
    elif isinstance(model, CustomTextCLIP) and isinstance(model.text, TextTransformer):
        parts, pooling = model.text, model.text.pool_type
        if parts.cls_emb is not None or parts.output_tokens:
            return None
    else:
        return None
    plain = all(type(block) is ResidualAttentionBlock for block in parts.transformer.resblocks)
    return parts if plain and parts.attn_mask is not None and pooling == "argmax" else None


class TextTower:
    """A causal text tower at the level of tokens, on an open_clip model's own parameters, wherever they are."""

    def __init__(self, model: Any, name: str) -> None:
        parts = find_text_parts(model)
        if parts is None:
            raise UserError(
                f"model {name} has no causal text tower that is read at its end-of-text token, which prompts of "
                "learned vectors need: use a CLIP such as ViT-B-16-quickgelu, or a method that leaves texts alone"
            )
        self._parts = parts

    @property
    def width(self) -> int:
        """Width d of the tokens."""
        return int(self._parts.token_embedding.weight.shape[1])

    @property
    def length(self) -> int:
        """The most tokens a sequence may have, start and end included."""
        return int(self._parts.positional_embedding.shape[0])

    @property
    def dtype(self) -> torch.dtype:
        """What the blocks compute in."""
        return cast("torch.dtype", self._parts.transformer.get_cast_dtype())

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return cast("torch.device", self._parts.token_embedding.weight.device)

    @property
    def _blocks(self) -> list[ResidualAttentionBlock]:
        return list(self._parts.transformer.resblocks)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids ``(N, L)`` int64 to embeddings without positions, ``(N, L, d)`` float32 or wider."""
        return widen(self._parts.token_embedding(tokens))

    def begin(self, prefix: Tensor) -> PrefixCache:
        """Run the tokens ``(E, P, d)``, without positions, that all sequences of an episode begin with; P >= 1."""
        x = self._placed(prefix, 0).unsqueeze(1)  # (E, 1, P, d)
        mask = causal_mask(x.shape[2], x)
        *blocks, last = self._blocks
        kept: list[Tensor] = []
        for block in blocks:
            q, k, v = project(block.attn, layer_norm(x, block.ln_1))
            kept += k, v
            x = finish(block, x, attend(q, k, v, (), mask))
        # Of the last block, nothing but keys and values is read.
        kept += project(last.attn, layer_norm(x, last.ln_1), 1)
        return tuple(tensor.squeeze(1).transpose(1, 2) for tensor in kept)

    def encode(
        self,
        prefix: PrefixCache,
        rest: Tensor,
        *,
        ends: Tensor | None = None,
        chunk: int | None = None,
        checkpointed: bool | None = None,
    ) -> Tensor:
        """Features ``(E, K, D)``, not of unit length, float32 or wider, of sequences that share their prefix.

        Args:
            prefix: What :meth:`begin` returned, or empty.
            rest: ``(E, K, S, d)`` embeddings of what follows, end-of-text included, without positions. Either E may be
                1 and then serves all episodes.
            ends: ``(K,)`` int64, the place of each sequence's end-of-text token in ``rest``; None: the last place.
            chunk: Sequences at a time; None for what the memory and the device's caches suggest.
            checkpointed: Whether the graph keeps only each chunk's input and computes the rest again in the backward
                pass; None: if the graph would not fit the memory. The result is the same.
        """
        start = prefix[0].shape[2] if prefix else 0
        episodes = max(rest.shape[0], prefix[0].shape[0] if prefix else 1)
        count, size = rest.shape[1:3]
        graph = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (rest, *prefix, *self._parts.transformer.parameters())
        )
        if checkpointed is None:
            checkpointed = graph and episodes * count * size > self.room()
        if chunk is None:
            tokens = _TOKENS_AT_A_TIME.get(self.device.type, 65536)
            chunk = (min(tokens, self.room()) if graph and checkpointed else tokens) // size
        classes = max(chunk // episodes, 1)
        # Nothing in a frozen tower is random, so no state of a generator need be kept.
        again = partial(checkpoint, self._run, use_reentrant=False, preserve_rng_state=False)
        run = again if graph and checkpointed else self._run
        parts = (slice(first, first + classes) for first in range(0, count, classes))
        outs = [run(rest[:, part], None if ends is None else ends[part], start, episodes, *prefix) for part in parts]
        return torch.cat(outs, dim=1)

    def room(self) -> int:
        """How many tokens have a graph that fits the memory that is available now, with room to spare."""
        element = torch.finfo(self.dtype).bits // 8
        return int(_SHARE * available_bytes(self.device)) // (self.width * len(self._blocks) * _KEPT_WIDTHS * element)

    def _placed(self, x: Tensor, start: int) -> Tensor:
        """Tokens ``(*, L, d)`` in the tower's dtype with the positions from ``start`` on."""
        positions: Tensor = self._parts.positional_embedding[start : start + x.shape[-2]]
        return x.to(device=self.device, dtype=self.dtype) + positions.to(self.dtype)

    def _run(self, rest: Tensor, ends: Tensor | None, start: int, episodes: int, *keys: Tensor) -> Tensor:
        """One chunk: ``(E, K, S, d)`` to ``(E, K, D)``; ``keys`` are a :data:`PrefixCache`."""
        x = self._placed(rest, start).expand(episodes, -1, -1, -1)
        mask = causal_mask(x.shape[2], x)
        *blocks, last = self._blocks
        for number, block in enumerate(blocks):
            q, k, v = project(block.attn, layer_norm(x, block.ln_1))
            x = finish(block, x, attend(q, k, v, keys[2 * number : 2 * number + 2], mask))
        # The last block is needed at the end-of-text token alone; the others serve it as keys and values.
        y = layer_norm(x, last.ln_1)
        k, v = project(last.attn, y, 1)
        if ends is None:
            seen, x, y = None, x[:, :, -1:], y[:, :, -1:]
        else:
            place = ends.view(1, -1, 1, 1)
            seen = torch.arange(x.shape[2], device=x.device) > place  # (1, K, 1, S)
            seen = torch.zeros_like(seen, dtype=x.dtype).masked_fill_(seen, float("-inf")).unsqueeze(2)
            place = place.expand(episodes, -1, 1, x.shape[-1])
            x, y = x.gather(2, place), y.gather(2, place)
        (q,) = project(last.attn, y, 0, 1)
        x = finish(last, x, attend(q, k, v, keys[2 * len(blocks) :], seen)).squeeze(2)  # (E, K, d)
        pooled = layer_norm(x, self._parts.ln_final)
        projection = self._parts.text_projection
        if projection is None:
            return widen(pooled)
        return widen(projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection)


def available_bytes(device: torch.device) -> int:
    """Bytes that new tensors on the device can take: free ones and those that are kept only for reuse."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:  # a container has a limit of its own, which the system's figures ignore
        left = max(int(_LIMIT.read_text(encoding="ascii")) - int(_USED.read_text(encoding="ascii")), 0)
    except (OSError, ValueError):  # no such file, or the word "max"
        return _system_bytes()
    return min(left, _system_bytes())


def _system_bytes() -> int:
    try:
        figures = dict(line.split(":") for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return int(figures["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        pass
    try:
        # macOS gives its whole memory, not what is free: half of it is a guess on the safe side.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # no sysconf on Windows
        return _UNKNOWN
