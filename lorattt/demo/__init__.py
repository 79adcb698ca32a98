"""A tiny CLIP and a drawn data set: the whole method in seconds on a CPU, without any download."""

from pathlib import Path
from typing import Final

from lorattt.demo.draw import CLASS_NAMES, DOMAINS, HELD_OUT, SEEN, Split, draw, label_of

MODEL_NAME: Final = "lorattt-demo"
CHECKPOINT: Final = Path(__file__).parent / "clip.safetensors"
"""Weights under open_clip's names; the file's metadata tells how they were made."""

PROMPTS: Final = {
    "demo": Path(__file__).parent / "prompt.safetensors",
    "demo-sapt": Path(__file__).parent / "sapt.safetensors",
    "demo-self-tpt": Path(__file__).parent / "self_tpt.safetensors",
}
"""Prompts that come with the demo, by the names that ``prompt.file`` knows; their metadata tell how they were made."""

MERGES: Final = 4000
"""How many merges of CLIP's byte-pair encoding the model's tokenizer knows."""

MODEL_CONFIG: Final[dict[str, object]] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 48, "patch_size": 8, "width": 128, "layers": 6, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 512 + MERGES + 2, "width": 128, "heads": 4, "layers": 3},
}
"""Keyword arguments of ``open_clip.model.CLIP``."""

__all__ = [
    "CHECKPOINT",
    "CLASS_NAMES",
    "DOMAINS",
    "HELD_OUT",
    "MERGES",
    "MODEL_CONFIG",
    "MODEL_NAME",
    "PROMPTS",
    "SEEN",
    "Split",
    "draw",
    "label_of",
]
