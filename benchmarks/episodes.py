"""How long adaptation takes: the plain reference loop, ours, and a plain forward of the same views.

    python -m benchmarks.episodes [--method lora_ttt] [--models demo vit-b-16] [--images N] [--json FILE]
    python -m benchmarks.episodes [--compile] [--dtype bf16]

All three run in one process, on the same views, one after the other in turn; each time is the best of the
repeats, as the least disturbed one. Times are per image, without making the views. The outcomes of the reference loop
and of ours are compared as well: a fast wrong answer is worth nothing. The JSON has processor time too: with one
thread (``OMP_NUM_THREADS=1``) it says what a run needs where other guests take a machine's time away.

With ``--compile``, LoRA-TTT runs a second time with ``model.clip.compile``; compiling itself is not counted.
Memory on a CPU is that of the process so far, so all its figures then include the second model and its compiler.
With ``--dtype bf16`` or ``fp16``, the plain forward and ours run in it, the reference loop in float32 and, as a fourth
program, under autocast to that dtype, the way its authors use half precision. The loop's model is then one more in
memory.
With ``--method tlla``: what STSS adds to a forward of the views (:mod:`benchmarks.episodes_tlla`). With
``--method self_tpt``: its images a second beside zero-shot's, and what stage 2 takes
(:mod:`benchmarks.episodes_self_tpt`).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks import episodes_self_tpt, episodes_tlla
from benchmarks.reference import ReferenceLoop, ReferenceSettings, half_precision
from benchmarks.timing import demo_views, device_name, take_turns
from lorattt.adapters.lora import LoRASpec, LoRATuner
from lorattt.clip.build import Dtype
from lorattt.clip.load import ClipSpec, load_clip
from lorattt.clip.model import Clip
from lorattt.data.demo import DemoImages
from lorattt.episodes.optim import OptimiserSpec
from lorattt.methods.lora_ttt_engine import LoRATTTEngine, LossSpec
from lorattt.methods.shared_views import views_at_once
from lorattt.rng import episode_keys
from lorattt.views.selection import kept_count, random_kept_patches

MODELS = {
    "demo": ClipSpec("lorattt-demo", "demo"),
    "vit-b-16": ClipSpec("ViT-B-16-quickgelu", None),  # random weights: the time is the same
}
CLASSES = {"demo": 64, "vit-b-16": 1000}
IMAGES = {"demo": 8, "vit-b-16": 2}
_DEFAULTS: dict[str, dict[str, int]] = {
    "tlla": {"classes": 200, "directions": 10},
    "self_tpt": {"classes": 1000, "steps": 2, "text_chunk": 64},
}


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("lora_ttt", "tlla", "self_tpt"), default="lora_ttt")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--images", type=int, help="images adapted at once (default: 8 for demo, 2 for vit-b-16)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="measure model.clip.compile as well, for lora_ttt")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="fp32", help="model.clip.dtype, for lora_ttt")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--classes", type=int, help="class names (default: 200 for tlla, 1000 for self_tpt)")
    parser.add_argument("--directions", type=int, help="neighbours of the prompt, for tlla (default: 10)")
    parser.add_argument("--steps", type=int, help="steps of stage 2 that are timed, for self_tpt (default: 2)")
    parser.add_argument("--text-chunk", type=int, help="sequences at a time, for self_tpt in parts (default: 64)")
    arguments = parser.parse_args()
    chosen = {key: getattr(arguments, key) for keys in _DEFAULTS.values() for key in keys}
    for key, value in chosen.items():
        if value is not None and key not in _DEFAULTS.get(arguments.method, {}):
            whose = " and ".join(method for method, keys in _DEFAULTS.items() if key in keys)
            parser.error(f"--{key.replace('_', '-')} is for --method {whose}")
    if arguments.compile and arguments.method != "lora_ttt":
        parser.error("--compile is for --method lora_ttt")
    if arguments.dtype != "fp32" and arguments.method != "lora_ttt":
        parser.error(f"--dtype {arguments.dtype} is for --method lora_ttt")
    numbers = {key: chosen[key] or value for key, value in _DEFAULTS.get(arguments.method, {}).items()}
    rows = []
    for name in arguments.models:
        images, device = arguments.images or IMAGES[name], torch.device(arguments.device)
        settings = {"images": images, "repeats": arguments.repeats, **numbers}
        if arguments.method == "lora_ttt":
            more = {"dtype": arguments.dtype, "compile_too": arguments.compile}
            rows.append(measure(name, images, arguments.repeats, device, **more))
        elif arguments.method == "tlla":
            rows.append(episodes_tlla.measure(name, MODELS[name], device=device, **settings))
        else:
            rows.append(episodes_self_tpt.measure(name, MODELS[name], device=device, **settings))
    tables = {"lora_ttt": table, "tlla": episodes_tlla.table, "self_tpt": episodes_self_tpt.table}
    print(tables[arguments.method](rows))
    report = json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}, indent=2)
    if arguments.json:
        arguments.json.write_text(report + "\n", encoding="utf-8")
    print(report)


def measure(
    name: str,
    images: int,
    repeats: int,
    device: torch.device,
    *,
    dtype: Dtype = "fp32",
    compile_too: bool = False,
) -> dict[str, Any]:
    """One model's row."""
    spec = replace(MODELS[name], dtype=dtype)
    clip = _load(spec).to(device)
    pixels = clip.normalise(demo_views(clip, images).to(device))
    # Random class features: what a class is called makes no difference to the time.
    tower, classes = clip.vit, CLASSES[name]
    width = tower.project(torch.zeros(1, tower.width, device=device, dtype=tower.dtype)).shape[-1]
    text = torch.nn.functional.normalize(torch.randn(classes, width, device=device), dim=-1)
    if name == "demo":
        text = clip.text_features(DemoImages("noise", 3, 1, "test").class_names, "single")
    lora, loss = LoRASpec(), LossSpec()
    tuner = LoRATuner(tower, lora, seed=0)
    engine = LoRATTTEngine(tower, tuner, loss=loss, optimiser=OptimiserSpec())
    keys = episode_keys(0, torch.arange(images, device=device))
    kept = random_kept_patches(
        keys,
        torch.arange(pixels.shape[1], device=device).expand(images, -1),
        tower.patches,
        kept_count(tower.patches, loss.mask_ratio),
    )  # (E, V, P')
    initial = {key: value.to(device) for key, value in tuner.initial.items()}
    full = clip if dtype == "fp32" else _load(MODELS[name]).to(device)
    full_pixels = pixels.float()
    loop = ReferenceLoop(full.model.visual, initial, ReferenceSettings(multiplier=lora.multiplier))
    scale = clip.logit_scale

    def masks(step: int, selected: Tensor) -> Tensor:
        return torch.stack([rows[views] for rows, views in zip(kept, selected, strict=True)])

    def ours() -> Tensor:
        return engine.run(pixels, text, scale, keys, masks=masks).after

    def reference() -> Tensor:
        return torch.stack([loop.episode(full_pixels[e], text, scale, kept[e][None])[1] for e in range(images)])

    @torch.no_grad()
    def plain() -> Tensor:
        # The same chunks as ours: larger ones are slower on a CPU, whose caches they leave.
        chunks = pixels.flatten(0, 1).split(engine.chunk or views_at_once(engine.tower, device))
        return torch.cat([clip.model.encode_image(part) for part in chunks])

    runs: dict[str, Callable[[], Tensor]] = {"plain": plain, "ours": ours, "reference": reference}
    if dtype != "fp32":

        def autocast() -> Tensor:
            with half_precision(device, tower.dtype):
                return reference()

        runs["autocast"] = autocast
    if compile_too:
        quick = _load(replace(spec, compile=True)).to(device).vit
        faster = LoRATTTEngine(quick, LoRATuner(quick, lora, seed=0), loss=loss, optimiser=OptimiserSpec())

        def compiled() -> Tensor:
            return faster.run(pixels, text, scale, keys, masks=masks).after

        runs["compiled"] = compiled
        for _ in range(2):  # what is compiled waits for shapes to come again
            compiled_difference = (compiled() - ours()).abs().max().item()
    turns = take_turns(runs, repeats=repeats, images=images, device=device)
    # Dropout decisions differ between the two programs: their outcomes are compared without it.
    exact_tuner = LoRATuner(tower, replace(lora, dropout=0.0), seed=0)
    exact = LoRATTTEngine(tower, exact_tuner, loss=loss, optimiser=OptimiserSpec())
    settings = ReferenceSettings(multiplier=lora.multiplier, dropout=0.0)
    exact_loop = ReferenceLoop(full.model.visual, initial, settings)
    _, expected, _ = exact_loop.episode(full_pixels[0], text, scale, kept[0][None])
    difference = (exact.run(pixels, text, scale, keys, masks=masks).after[0] - expected).abs().max().item()
    best = turns.best()
    more = {"autocast_over_ours": best["autocast"] / best["ours"]} if "autocast" in best else {}
    if compile_too:
        more |= {
            "compiled_over_plain": best["compiled"] / best["plain"],
            "reference_over_compiled": best["reference"] / best["compiled"],
            "largest_difference_when_compiled": compiled_difference,
        }
    return {
        "model": name,
        "images_at_once": images,
        "views": pixels.shape[1],
        "dtype": dtype,
        "device": device_name(device),
        **turns.entries(),
        "ours_over_plain": best["ours"] / best["plain"],
        "reference_over_plain": best["reference"] / best["plain"],
        "reference_over_ours": best["reference"] / best["ours"],
        "peak_memory_bytes": turns.peaks,
        "largest_logit_difference": difference,
        **more,
    }


def _load(spec: ClipSpec) -> Clip:
    torch.manual_seed(0)  # random weights are the same ones each time
    return load_clip(spec)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [
        "Seconds per image (64 views each), ratios to a plain forward of the same views, peak memory in MiB:",
        "",
        f"{'model':10} {'E':>3}  {'plain':>8} {'ours':>8} {'reference':>9}  {'ours/plain':>10} {'ref/plain':>9} "
        f"{'ref/ours':>8}  {'MiB plain':>9} {'ours':>7} {'ref':>7}  {'difference':>10}",
    ]
    for row in rows:
        t, m = row["seconds_per_image"], {k: v / 2**20 for k, v in row["peak_memory_bytes"].items()}
        lines.append(
            f"{row['model']:10} {row['images_at_once']:3}  {t['plain']:8.4f} {t['ours']:8.4f} {t['reference']:9.4f}  "
            f"{row['ours_over_plain']:10.2f} {row['reference_over_plain']:9.2f} {row['reference_over_ours']:8.2f}  "
            f"{m['plain']:9,.0f} {m['ours']:7,.0f} {m['reference']:7,.0f}  {row['largest_logit_difference']:10.1e}"
        )
        if "autocast" in t:
            lines.append(
                f"{'autocast':10} {'':3}  {'':8} {'':8} {t['autocast']:9.4f}  "
                f"{'':10} {t['autocast'] / t['plain']:9.2f} {row['autocast_over_ours']:8.2f}  "
                f"{'':9} {'':7} {m['autocast']:7,.0f}"
            )
        if "compiled" in t:
            lines.append(
                f"{'compiled':10} {'':3}  {'':8} {t['compiled']:8.4f} {'':9}  {row['compiled_over_plain']:10.2f} "
                f"{'':9} {row['reference_over_compiled']:8.2f}  {'':9} {'':7} {'':7}  "
                f"{row['largest_difference_when_compiled']:10.1e}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
