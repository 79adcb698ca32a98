"""A tiny CLIP and a drawn data set: the whole method in seconds on a CPU, without any download."""

from pathlib import Path
from typing import Final

from lorattt.demo.draw import DOMAINS, Split, draw, label_of
from lorattt.demo.words import CLASS_NAMES, COLOURS, HELD_OUT, SEEN, SHAPES, SYNONYMS

__all__ = [
    "CLASS_NAMES",
    "COLOURS",
    "DOMAINS",
    "HELD_OUT",
    "SEEN",
    "SHAPES",
    "SYNONYMS",
    "Split",
    "draw",
    "label_of",
]

_FOLDER = Path(__file__).parent

MODEL_NAME: Final = "lorattt-demo"
CHECKPOINT: Final = _FOLDER / "clip.safetensors"
"""Weights under open_clip's names; the file's metadata says how they were made."""

PROMPTS: Final = {
    "demo": _FOLDER / "prompt.safetensors",
    "demo-sapt": _FOLDER / "sapt.safetensors",
    "demo-self-tpt": _FOLDER / "self_tpt.safetensors",
}
"""Prompts that come with the demo, by the names that ``prompt.file`` knows; their metadata say how they were made."""

MERGES: Final = 4000
"""How many merges of CLIP's byte-pair encoding the model's tokenizer knows."""

MODEL_CONFIG: Final[dict[str, object]] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 128, "layers": 6, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 512 + MERGES + 2, "width": 128, "heads": 4, "layers": 3},
}
"""Keyword arguments of ``open_clip.model.CLIP``."""
