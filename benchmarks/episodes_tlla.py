"""What TLLA costs over a plain forward of the same views; run by ``python -m benchmarks.episodes --method tlla``.

In turn, in one process: open_clip's own forward of the views, ours, and ours with STSS behind it. STSS alone is
timed as well: beside a forward it is so short that the noise of the forward may hide it. The bank, the class texts
of the prompt and of its R neighbours, is made once per class list and has a time of its own.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import demo_views, device_name, take_turns, timed
from lorattt.callbacks.results import peak_memory
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.data.imagenet_family import imagenet_names
from lorattt.methods.shared_views import encode_tokens, views_at_once
from lorattt.methods.tlla import FlatVote, stss
from lorattt.prompts.class_prompts import ClassPrompts, neighbour_features
from lorattt.prompts.prompt import PromptSpec, build_prompt


def measure(
    name: str, spec: ClipSpec, *, images: int, repeats: int, device: torch.device, classes: int, directions: int
) -> dict[str, Any]:
    """One model's row."""
    torch.manual_seed(0)
    clip = load_clip(spec).to(device)
    tower, scale = clip.vit, clip.logit_scale
    pixels = clip.normalise(demo_views(clip, images).to(device))
    names = list(imagenet_names().values())[:classes]
    prompt = build_prompt(PromptSpec(), clip, names, seed=0)
    prompts = ClassPrompts(clip, names, prompt.position, prompt.tokens)

    @torch.no_grad()
    def texts() -> tuple[Tensor, Tensor]:
        bank = neighbour_features(prompts, prompt.context, directions=directions, radius=0.5, seed=0)
        return prompts.features(prompt.context), bank

    text, bank = texts()
    texts_peak = peak_memory(device)

    @torch.no_grad()
    def plain() -> Tensor:
        # The same chunks as ours: larger ones are slower on a CPU, whose caches they leave.
        chunks = pixels.flatten(0, 1).split(views_at_once(tower, device))
        return torch.cat([clip.model.encode_image(part) for part in chunks])

    @torch.no_grad()
    def views() -> Tensor:
        _, tokens = encode_tokens(tower, pixels.flatten(0, 1))
        encoded: Tensor = F.normalize(tower.project(tokens).float(), dim=-1).unflatten(0, pixels.shape[:2])
        return encoded

    def vote(features: Tensor) -> FlatVote:
        return stss(features, text, bank, scale)

    features = views()
    expected = F.normalize(plain().float(), dim=-1).unflatten(0, pixels.shape[:2])
    runs: dict[str, Callable[[], object]] = {
        "plain": plain,
        "views": views,
        "tlla": lambda: vote(views()),
        "stss": lambda: vote(features),
    }
    turns = take_turns(runs, repeats=repeats, images=images, device=device)
    bank_seconds = min(timed(texts, device)[0] for _ in range(2))
    best = turns.best()
    return {
        "model": name,
        "images_at_once": images,
        "views": pixels.shape[1],
        "classes": classes,
        "directions": directions,
        "device": device_name(device),
        **turns.entries(),
        "tlla_over_plain": best["tlla"] / best["plain"],
        "tlla_over_views": best["tlla"] / best["views"],
        "cpu_tlla_over_plain": turns.cpu_ratio("tlla", "plain"),
        "views_and_stss_over_views": 1 + best["stss"] / best["views"],
        "bank_seconds": bank_seconds,
        "bank_bytes": bank.numel() * bank.element_size(),
        "peak_memory_bytes": {"texts": texts_peak, **turns.peaks},
        "largest_feature_difference": (features - expected).abs().max().item(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        "Seconds per image (STSS in milliseconds), ratios, the bank's texts once per class list, peak memory in MiB:",
        "",
        f"{'model':10} {'E':>3} {'K':>5} {'R':>3}  {'plain':>8} {'views':>8} {'tlla':>8} {'stss ms':>8}  "
        f"{'tlla/plain':>10} {'tlla/views':>10} {'1+stss/views':>12}  {'bank s':>7} {'bank MiB':>8}  "
        f"{'MiB texts':>9} {'plain':>7} {'tlla':>7}",
    ]
    for row in rows:
        t, m = row["seconds_per_image"], {k: v / 2**20 for k, v in row["peak_memory_bytes"].items()}
        lines.append(
            f"{row['model']:10} {row['images_at_once']:3} {row['classes']:5} {row['directions']:3}  "
            f"{t['plain']:8.4f} {t['views']:8.4f} {t['tlla']:8.4f} {1000 * t['stss']:8.3f}  "
            f"{row['tlla_over_plain']:10.3f} {row['cpu_tlla_over_plain']:6.3f} {row['tlla_over_views']:10.3f} "
            f"{row['views_and_stss_over_views']:12.4f}  "
            f"{row['bank_seconds']:7.2f} {row['bank_bytes'] / 2**20:8.2f}  {m['texts']:9,.0f} {m['plain']:7,.0f} "
            f"{m['tlla']:7,.0f}"
        )
    return "\n".join(lines)
