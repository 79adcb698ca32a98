"""What Self-TPT costs beside plain zero-shot; run by ``python -m benchmarks.episodes --method self_tpt``.

In turn, in one process, on the same images: zero-shot, and Self-TPT after stage 2, each of the plain view alone, from
pixels to logits; then open_clip's own forward of all views, and Self-TPT-v on them. A ratio is the median of those of
the rounds, whose two times are taken one right after the other.

Stage 2 runs once per list of class names and is timed by itself, with so many sequences at a time that its memory is
bounded, and with as many as the available memory suggests. The head is drawn at random: the time is the same.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import demo_views, device_name, take_turns, timed
from lorattt.callbacks.results import peak_memory
from lorattt.clip.load import ClipSpec, LoadedClip, load_clip
from lorattt.clip.model import Clip
from lorattt.data.imagenet_family import imagenet_names
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.class_contrast import ContrastiveTask, ProjectionHead
from lorattt.methods.self_tpt import SelfTPT, adapt_to_names, distinct_names
from lorattt.methods.shared_views import encode_tokens, views_at_once
from lorattt.methods.zero_shot import ZeroShot
from lorattt.prompts.class_views import ClassViews
from lorattt.prompts.files import save_prompt
from lorattt.prompts.prompt import PromptSpec, build_prompt


def measure(
    name: str,
    spec: ClipSpec,
    *,
    images: int,
    repeats: int,
    device: torch.device,
    classes: int,
    steps: int,
    text_chunk: int,
) -> dict[str, Any]:
    """One model's row."""
    torch.manual_seed(0)
    clip = load_clip(spec).to(device)
    names, _ = distinct_names(clip, list(imagenet_names().values())[:classes])
    stage2 = measure_stage2(clip, names, device, steps=steps, chunk=text_chunk)
    pixels = demo_views(clip, images).to(device)
    zero, own, many = methods(LoadedClip(clip, spec), names, pixels.shape[1])

    def batch_of(views: Tensor) -> EpisodeBatch:
        none = torch.zeros(images, dtype=torch.int64, device=device)
        index = torch.arange(images, device=device)
        return {"views": views, "label": none, "index": index, "path": [""] * images, "skipped": []}

    alone, whole = batch_of(pixels[:, :1].contiguous()), batch_of(pixels)

    @torch.no_grad()
    def plain() -> Tensor:
        # The same chunks as ours: larger ones are slower on a CPU, whose caches they leave.
        parts = clip.normalise(pixels).flatten(0, 1).split(views_at_once(clip.vit, device))
        return torch.cat([clip.model.encode_image(part) for part in parts])

    @torch.no_grad()
    def views() -> Tensor:
        return encode_tokens(clip.vit, pixels.flatten(0, 1), prepare=clip.normalise)[1]

    runs: dict[str, Callable[[], object]] = {
        "zero_shot": lambda: zero.predictions(alone),
        "self_tpt": lambda: own.predictions(alone),
        "plain": plain,
        "views": views,
        "self_tpt_v": lambda: many.predictions(whole),
    }
    texts_peak = peak_memory(device)
    turns = take_turns(runs, repeats=repeats, images=images, device=device)
    return {
        "model": name,
        "images_at_once": images,
        "views": pixels.shape[1],
        "classes": len(names),
        "device": device_name(device),
        **turns.entries(),
        "speed_of_zero_shot": turns.ratio("zero_shot", "self_tpt"),
        "cpu_speed_of_zero_shot": turns.cpu_ratio("zero_shot", "self_tpt"),
        "v_over_plain": turns.ratio("self_tpt_v", "plain"),
        "v_over_views": turns.ratio("self_tpt_v", "views"),
        "stage2": stage2,
        "peak_memory_bytes": {"texts": texts_peak, **turns.peaks},
    }


def measure_stage2(
    clip: Clip, names: list[str], device: torch.device, *, steps: int, chunk: int
) -> dict[str, dict[str, float]]:
    """Seconds a step, and the peak of memory, of stage 2 in parts and as the memory suggests.

    A step is timed together with its share of what a stage 2 does but once: the fixed texts, and the last loss.
    """
    context = build_prompt(PromptSpec(), clip, [], 0).context.to(device)
    head = ProjectionHead(clip.text_features(["a"], "single").shape[1]).to(device).requires_grad_(False)
    found: dict[str, dict[str, float]] = {}
    moved: list[Tensor] = []
    # In parts first: elsewhere than on CUDA the peak is that of the process so far.
    for key, size in (("in_parts", chunk), ("by_memory", None)):

        def run(size: int | None = size) -> None:
            task = ContrastiveTask(ClassViews(clip, names, context.shape[0]), head, 0.07)
            moved.append(adapt_to_names(task, context, steps=steps, lr=0.002, chunk=size)[0])

        seconds, peak = timed(run, device)
        found[key] = {"seconds": seconds, "seconds_per_step": seconds / steps, "peak_memory_bytes": peak}
    found["in_parts"]["text_chunk"] = chunk
    found["difference"] = {
        "context": (moved[0] - moved[1]).abs().max().item(),
        "of_a_move_of": (moved[1] - context).abs().max().item(),
    }
    return found


def methods(clip: LoadedClip, names: list[str], views: int) -> tuple[ZeroShot, SelfTPT, SelfTPT]:
    """Zero-shot, Self-TPT and Self-TPT-v with the same prompt, after a stage 2 of no steps, which changes no speed."""
    prompt = build_prompt(PromptSpec(), clip.clip, [], 0)
    head = ProjectionHead(clip.clip.text_features(["a"], "single").shape[1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.safetensors"
        save_prompt(replace(prompt, extras=head.tensors()), file)
        spec = PromptSpec(file=str(file))
        made = (
            ZeroShot(clip=clip, prompt=spec),
            SelfTPT(clip=clip, prompt=spec, steps=0),
            SelfTPT(clip=clip, prompt=spec, steps=0, ensemble=True, selection=max(0.1, 1 / views)),
        )
        device = clip.clip.text_tower.device
        for method in made:
            method.to(device).eval().use_classes(names)
    return made


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        "Images a second of Self-TPT as a share of zero-shot's; Self-TPT-v over a plain forward of the views, and over "
        "ours; milliseconds per image; stage 2 in seconds a step and MiB, in parts and as the memory suggests:",
        "",
        f"{'model':10} {'E':>3} {'K':>5}  {'share':>6} {'of CPU':>6} {'v/plain':>8} {'v/views':>8}  "
        f"{'zero':>8} {'own':>8} {'plain':>9} {'v':>9}  {'parts s':>8} {'MiB':>7} {'memory s':>8} {'MiB':>7}",
    ]
    for row in rows:
        t = {key: 1000 * value for key, value in row["seconds_per_image"].items()}
        parts, whole = (row["stage2"][key] for key in ("in_parts", "by_memory"))
        lines.append(
            f"{row['model']:10} {row['images_at_once']:3} {row['classes']:5}  {row['speed_of_zero_shot']:6.3f} "
            f"{row['cpu_speed_of_zero_shot']:6.3f} {row['v_over_plain']:8.3f} {row['v_over_views']:8.3f}  "
            f"{t['zero_shot']:8.3f} {t['self_tpt']:8.3f} {t['plain']:9.3f} {t['self_tpt_v']:9.3f}  "
            f"{parts['seconds_per_step']:8.2f} {parts['peak_memory_bytes'] / 2**20:7,.0f} "
            f"{whole['seconds_per_step']:8.2f} {whole['peak_memory_bytes'] / 2**20:7,.0f}"
        )
    return "\n".join(lines)
