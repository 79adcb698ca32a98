"""Images per second of every method, stage by stage and end to end, beside the reference loop and a plain forward.

    python -m benchmarks.throughput [--images FOLDER] [--methods NAME ...] [--device cuda] [--dtype bf16] [--count N]
    python -m benchmarks.throughput --model demo --count 32 --no-growth --out FILE.json
    python -m benchmarks.throughput --project benchmarks/results/MACHINE.json [WITH_AUGMIX.json] [--devices 1 8]

In one run, for each method: each stage by itself (:mod:`benchmarks.throughput_stages`), a real run over JPEG files with
Trainer, data module and observers (:mod:`benchmarks.throughput_run`), and the loop of its authors' kind, one image at a
time with Pillow's views in 4 processes (:mod:`benchmarks.throughput_rival`). Then how time and memory grow with views,
classes and images at once (:mod:`benchmarks.throughput_growth`). Without a folder of images, photo-like JPEG files are
made. The numbers go to ``benchmarks/results/<machine>.json`` and ``.md``, written after each method.

With ``--project``: what the measured images per second mean for the 15 benchmarks.
"""

import argparse
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks import throughput_growth as growing
from benchmarks import throughput_rival as rival
from benchmarks.throughput_run import encode_texts, end_to_end
from benchmarks.throughput_setup import (
    METHODS,
    MODELS,
    Settings,
    build,
    class_names,
    machine,
    machine_name,
    make_photos,
    photos,
    save_head,
)
from benchmarks.throughput_stages import classify_times, decode_speed, first_batch, views_speed
from benchmarks.throughput_tables import markdown, projection
from lorattt.clip.build import Dtype
from lorattt.data.file_list import ListedImages
from lorattt.methods.base import Method
from lorattt.views.crops import Place

RESULTS = Path(__file__).parent / "results"
# Images of a run, images of the reference loop, images at once and repeats: by what it runs on.
_DEFAULTS = {"cuda": (2048, 32, 64, 3), "demo": (64, 8, 8, 3), "cpu": (4, 2, 4, 1)}
_ONE_VIEW = 16  # a method of one view is that much faster, and gets that many more images
_MADE = 32


def main() -> None:
    """Measure, print the tables, write JSON and Markdown."""
    arguments = _parser().parse_args()
    if arguments.project:
        print(projection([_read(path) for path in arguments.project], arguments.devices))
        return
    settings = settings_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = measure(arguments, settings, Path(folder))
    print(markdown(report))


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: report[key] for key in ("machine", "settings", "rows")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"--project {path} cannot be read as a report of this benchmark ({error})") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--model", choices=list(MODELS), default="vit-b-16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="of the frozen towers (default: bf16 on a GPU)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="model.clip.compile: the frozen pass, and the blocks that LoRA-TTT adapts",
    )
    parser.add_argument("--images", type=Path, help="folder of real images (default: JPEG files made here)")
    parser.add_argument("--count", type=int, help="images of a run (default: 2048 on a GPU, 64 for demo, else 4)")
    parser.add_argument("--batch-size", type=int, help="images at once (default: 64 on a GPU, 8 for demo, else 4)")
    parser.add_argument("--workers", type=int, help="loader processes (default: one a core, at most 16)")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--augmix", action="store_true", help="mix AugMix into the views")
    parser.add_argument("--place", choices=get_args(Place), default="auto", help="where views are made")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--reference-count", type=int, help="images of the slow loop, 0 for none (default: 32, 8 or 2)")
    parser.add_argument("--reference-workers", type=int, default=4)
    parser.add_argument("--repeats", type=int, help="of each stage; the best counts (default: 3, 1 for ViT on a CPU)")
    parser.add_argument("--growth", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--growth-methods", nargs="+", choices=list(METHODS), default=list(growing.METHODS))
    parser.add_argument("--growth-views", type=int, nargs="+", default=list(growing.VIEWS))
    parser.add_argument("--growth-classes", type=int, nargs="+", default=list(growing.CLASSES))
    parser.add_argument("--growth-episodes", type=int, nargs="+", help="images at once")
    parser.add_argument("--out", type=Path, help="the JSON file, with the Markdown beside it")
    parser.add_argument("--project", type=Path, nargs="+", metavar="JSON", help="project a finished report instead")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8], help="with --project: how many devices")
    return parser


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings, with defaults for what it runs on.

    Raises:
        SystemExit: If a number is out of range or the device is not there.
    """
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {arguments.device}: there is no such device")
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    count, reference, batch, repeats = _DEFAULTS[device.type if device.type == "cuda" else _kind(arguments.model)]

    def given(value: int | None, default: int) -> int:
        return default if value is None else value

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings = Settings(
        model=arguments.model,
        device=device,
        dtype=arguments.dtype or ("bf16" if device.type == "cuda" else "fp32"),
        views=arguments.views,
        augmix=arguments.augmix,
        place=arguments.place,
        classes=arguments.classes,
        batch_size=given(arguments.batch_size, batch),
        count=given(arguments.count, count),
        workers=given(arguments.workers, min(16, cores)),
        reference_count=given(arguments.reference_count, reference),
        reference_workers=arguments.reference_workers,
        repeats=given(arguments.repeats, repeats),
        compile=arguments.compile,
    )
    # Of fewer views, MTA's bandwidth counts no neighbour.
    least = {"views": 5, "classes": 2, "batch_size": 1, "count": 1, "repeats": 1, "workers": 0, "reference_count": 0}
    for key, smallest in least.items():
        if getattr(settings, key) < smallest:
            raise SystemExit(f"--{key.replace('_', '-')} {getattr(settings, key)}: must be at least {smallest}")
    return settings


def _kind(model: str) -> str:
    return "demo" if model == "demo" else "cpu"


def measure(arguments: argparse.Namespace, settings: Settings, folder: Path) -> dict[str, Any]:
    """The report, written anew after each method.

    Args:
        arguments: As parsed.
        settings: What is measured.
        folder: For photos and runs.
    """
    found = machine(settings.device)
    images = arguments.images or folder / "photos"
    if arguments.images is None:
        images.mkdir()
        make_photos(images, _MADE)
    bench = Bench(settings, images, folder)
    report: dict[str, Any] = {
        "machine": found,
        "settings": settings.told(),
        "photos": f"{bench.files} {'JPEG files' if arguments.images else 'photo-like JPEG files made for it'}",
        "rows": [],
        "growth": [],
    }
    out = arguments.out or RESULTS / (machine_name(found) + ("-demo" if settings.model == "demo" else "") + ".json")
    for name in arguments.methods:
        row = bench.row(name)
        report["rows"].append(row)
        speed = row["end_to_end"]["images_per_second"]
        print(
            f"{name}: {speed:.3g} images a second end to end, {row['stages']['ours_over_plain']:.2f} of plain",
            flush=True,
        )
        _write(report, out)
    if arguments.growth:
        episodes = arguments.growth_episodes or growing.EPISODES.get(settings.device.type, growing.EPISODES["cpu"])
        axes = growing.Axes(arguments.growth_views, arguments.growth_classes, episodes, arguments.growth_methods)
        for point in growing.measure(axes, bench.clip, settings, bench.head):
            report["growth"].append(point)
            print(f"{point['method']}, {point['grows']}: {point.get('seconds_per_image', 'no memory')}", flush=True)
            _write(report, out)
    return report


class Bench:
    """What the rows share: model, photos, class names, and the speed of decoding.

    Args:
        settings: What is measured.
        images: The folder of images.
        folder: For prompts and runs.
    """

    def __init__(self, settings: Settings, images: Path, folder: Path) -> None:
        self.settings, self._folder = settings, folder
        self.clip = settings.clip()
        self.head = save_head(self.clip.clip, folder)
        self._own = self.clip if settings.dtype == "fp32" else settings.clip("fp32")  # the reference loop's
        self._names = class_names(settings.classes)
        self._source = photos(images, _ONE_VIEW * max(settings.count, settings.reference_count), self._names)
        self.files = len({item.path for item in self._source.listing.samples})
        self._decode = decode_speed(self._source, settings)
        self._views: dict[int, float] = {}

    def row(self, name: str) -> dict[str, Any]:
        """All that is measured of one method."""
        settings = self.settings
        method = build(name, self.clip, settings, self.head)
        texts = encode_texts(method, self._names, settings.device)
        stages = classify_times(method, first_batch(method, self._source, settings), settings.device, settings.repeats)
        factor = 1 if method.needs.all_views else _ONE_VIEW
        run = end_to_end(method, self._first(factor * settings.count), settings, self._folder / "runs" / name)
        predicted, reference = run.pop("predictions"), None
        if settings.reference_count:
            rule = rival.rule_of(name, self._own.clip, method, self._names)
            reference = rival.measure(rule, method, self._first(factor * settings.reference_count), settings)
            _compare(predicted, reference)
        seconds = {**stages["seconds"], "plain": stages["plain_seconds"]}
        speeds = {key: 1 / value if value else None for key, value in seconds.items()}
        if not settings.on_device:
            speeds["views"] = self._views_speed(method)
        # Without what it takes to start, which the loop's own figure leaves out too.
        speed = run["later_images_per_second"] or run["images_per_second"]
        return {
            "method": name,
            "views": method.views.number,
            "texts_seconds": texts,
            "images_per_second": {"decode": self._decode, **speeds},
            "stages": stages,
            "end_to_end": run,
            "reference": reference,
            "ours_over_reference": speed / reference["images_per_second"] if reference else None,
        }

    def _first(self, count: int) -> ListedImages:
        listing = self._source.listing
        return ListedImages(self._source.name, replace(listing, samples=listing.samples[:count]))

    def _views_speed(self, method: Method) -> float:
        """Of the workers; the same for all methods of as many views."""
        number = method.views.number
        if number not in self._views:
            self._views[number] = views_speed(method, self._source, self.settings)
        return self._views[number]


def _compare(predicted: dict[int, int], reference: dict[str, Any]) -> None:
    """How many of the reference loop's answers are ours as well, in place of the answers."""
    expected: dict[int, int] = reference.pop("predictions")
    both = [index for index in expected if index in predicted]
    reference |= {"compared": len(both), "same": sum(expected[index] == predicted[index] for index in both)}


def _write(report: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
