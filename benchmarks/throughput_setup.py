"""What benchmarks.throughput measures, and on what: settings, machine, photos, class names, methods."""

import os
import platform
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from lorattt import __version__
from lorattt.clip.build import Dtype
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.clip.model import Clip
from lorattt.data.file_list import FileList, ListedImages, Sample
from lorattt.data.imagenet_family import imagenet_names
from lorattt.data.walk import look_below
from lorattt.methods.base import Method
from lorattt.methods.class_contrast import ProjectionHead
from lorattt.methods.registry import build_method
from lorattt.prompts.files import save_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.views.crops import Place, ViewSpec

MODELS: Final = {
    "vit-b-16": ClipSpec("ViT-B-16-quickgelu", None),  # random weights: the time is the same
    "demo": ClipSpec("lorattt-demo", "demo"),
}
METHODS: Final = {
    "zero_shot": "zero_shot",
    "lora_ttt": "lora_ttt",
    "lora_ttt_mem": "lora_ttt",
    "tlla": "tlla",
    "mta": "mta",
    "zero": "zero",
    "mean_of_views": "mean_of_views",
    "tpt": "tpt",
    "self_tpt": "self_tpt",
}
"""Rows of the table and the methods that they are; ``lora_ttt_mem`` is LoRA-TTT with the entropy alone."""
LORA_MEM: Final[dict[str, Any]] = {
    "lora": {"multiplier": 2.0},
    "loss": {"mem": 1.0, "reconstruction": 0.0},
    "reset_every_step": True,
}
"""LoRA-TTT as the authors' program runs by default."""
SEED: Final = 0
PHOTO_SIZES: Final = ((500, 375), (375, 500), (500, 333), (480, 360), (512, 384))


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: A key of :data:`MODELS`.
        device: Where it runs.
        dtype: Dtype of the frozen towers; the reference loop has float32 ones, under autocast for the others.
        views: Views of an image, the plain one included.
        augmix: Whether AugMix is mixed into them.
        place: Where they are made.
        classes: How many class names.
        batch_size: Images adapted at once.
        count: Images of a run end to end; 16 times as many for methods of one view.
        workers: Loader processes of ours.
        reference_count: Images of the reference loop; 16 times as many for methods of one view.
        reference_workers: Loader processes of the reference loop.
        repeats: Times each stage is timed; the best counts.
        compile: Whether ours is compiled (``model.clip.compile``).
    """

    model: str
    device: torch.device
    dtype: Dtype
    views: int
    augmix: bool
    place: Place
    classes: int
    batch_size: int
    count: int
    workers: int
    reference_count: int
    reference_workers: int
    repeats: int
    compile: bool

    def clip(self, dtype: Dtype | None = None) -> LoadedClip:
        """The model on the device; of another dtype, it is the reference loop's and never compiled."""
        spec = replace(MODELS[self.model], dtype=dtype or self.dtype, compile=self.compile and dtype is None)
        torch.manual_seed(SEED)  # of random weights: the same in every dtype
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*has random weights")
            return LoadedClip(load_clip(spec).to(self.device), spec)

    @property
    def on_device(self) -> bool:
        """Whether views are made where the model is."""
        return self.place == "device" or (self.place == "auto" and self.device.type == "cuda")

    def told(self) -> dict[str, Any]:
        """For the report."""
        return {
            "model": MODELS[self.model].model,
            "weights": MODELS[self.model].pretrained or "random",
            "dtype": self.dtype,
            "compiled": self.compile,
            "views": self.views,
            "augmix": self.augmix,
            "views_made_on": "device" if self.on_device else "workers",
            "classes": self.classes,
            "batch_size": self.batch_size,
            "workers": self.workers,
            "reference_workers": self.reference_workers,
            "repeats": self.repeats,
        }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = device.type == "cuda"
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_model(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": _memory(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "lorattt": __version__,
        # Of other work on the machine, before ours began.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def machine_name(found: dict[str, Any]) -> str:
    """A file's name for the machine, such as ``nvidia-h200-16-cores``."""
    text = f"{found['gpu'] or found['cpu']} {found['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm|c)\)", " ", text.lower())).strip("-")


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def make_photos(folder: Path, number: int) -> None:
    """JPEG files that are as much work as photos of about 500 x 375: noise of all scales, edges, 4:2:0, quality 92."""
    for place in range(number):
        generator = np.random.default_rng([SEED, place])
        width, height = PHOTO_SIZES[place % len(PHOTO_SIZES)]
        pixels = np.zeros((height, width, 3))
        for octave in range(1, 10):
            cells = generator.standard_normal((max(2, height * 2**octave // 512), max(2, width * 2**octave // 512), 3))
            for channel in range(3):
                layer = Image.fromarray(cells[..., channel].astype(np.float32))
                grown = layer.resize((width, height), Image.Resampling.BICUBIC)
                pixels[..., channel] += np.asarray(grown) * 40 / 2 ** (0.25 * (octave - 1))
        for _ in range(12):  # edges
            top, left = generator.integers(height), generator.integers(width)
            box = slice(top, top + generator.integers(20, 200)), slice(left, left + generator.integers(20, 200))
            pixels[box] += generator.normal(0, 30, 3)
        image = Image.fromarray((pixels + 118).clip(0, 255).astype(np.uint8))
        image.save(folder / f"photo-{place:03d}.jpg", quality=92)


def photos(folder: Path, count: int, names: list[str]) -> ListedImages:
    """The images of a folder as a labelled source, from the first again where there are fewer.

    Raises:
        SystemExit: If it holds none.
    """
    found = look_below(folder).images if folder.is_dir() else []
    if not found:
        raise SystemExit(f"--images {folder}: no such folder, or no images in it")
    items = tuple(Sample(str(found[place % len(found)]), place % len(names)) for place in range(count))
    return ListedImages("photos", FileList(folder, items, tuple(names)))


def class_names(count: int) -> list[str]:
    """Distinct names: those of ImageNet that are not too long for any model, then the same with a number."""
    short = [name for name in dict.fromkeys(imagenet_names().values()) if len(name) <= 16]
    return [
        short[place % len(short)] + (f" {place // len(short)}" if place >= len(short) else "") for place in range(count)
    ]


def save_head(clip: Clip, folder: Path) -> Path:
    """A prompt for Self-TPT with a head drawn at random: the time is the same."""
    file = folder / "self_tpt.safetensors"
    head = ProjectionHead(clip.text_features(["a"], "single").shape[1])
    save_prompt(replace(build_prompt(PromptSpec(), clip, [], SEED), extras=head.tensors()), file)
    return file


def options_of(row: str, views: int, head: Path) -> dict[str, Any]:
    """The method's own arguments: its defaults, which are its paper's, but for a selection that few views need."""
    fraction = max(0.1, 1 / views)
    by_row: dict[str, dict[str, Any]] = {
        "lora_ttt": {"loss": {"selection": fraction}},
        "lora_ttt_mem": {**LORA_MEM, "loss": {**LORA_MEM["loss"], "selection": fraction}},
        "tlla": {"views_kept": min(6, views)},
        "mean_of_views": {"selection": fraction},
        "tpt": {"selection": fraction},
        "self_tpt": {"prompt": {"file": str(head)}},
    }
    return by_row.get(row, {})


def build(row: str, clip: LoadedClip, settings: Settings, head: Path) -> Method:
    """The method of a row, on the device, without class names."""
    spec = ViewSpec(number=settings.views, augmix=settings.augmix, place=settings.place)
    options = options_of(row, settings.views, head)
    method = build_method(METHODS[row], options, clip=clip, views=spec, seed=SEED)
    method.views = replace(method.views, place=settings.place)  # which a method of one view does not ask for
    return method.to(settings.device).eval()
