"""The report of benchmarks.throughput as Markdown, and what its figures mean for the 15 benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

from lorattt.data.catalogue import BENCHMARKS

_GROWTH = {"views": "views", "images at once": "images_at_once", "classes": "classes"}


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report."""
    machine, settings = report["machine"], report["settings"]
    device = machine["gpu"] or "no GPU"
    memory = machine["memory_bytes"]
    lines = [
        f"# Images per second: {machine['gpu'] or machine['cpu']}",
        "",
        f"- Machine: {device}; {machine['cpu']}, {machine['cores']} cores"
        + (f", {memory / 2**30:.0f} GiB" if memory else "")
        + f", {machine['threads']} threads; load before the run {_number(machine['load_average'], 1)}.",
        f"- torch {machine['torch']}"
        + (f", CUDA {machine['cuda']}" if machine["cuda"] else "")
        + f", Python {machine['python']}, lorattt {machine['lorattt']}.",
        f"- {settings['model']} ({settings['weights']} weights), {settings['dtype']}"
        + (", compiled" if settings["compiled"] else "")
        + f"; {settings['views']} views{' with AugMix' if settings['augmix'] else ''}, made by the "
        f"{settings['views_made_on']}; {settings['classes']} classes; {report['photos']}; {settings['batch_size']} "
        f"images at once; {settings['workers']} loader processes, {settings['reference_workers']} for the reference "
        "loop.",
        "",
        *_main_table(report["rows"]),
        "",
        "Images per second. Decode, views, encode and adapt: each stage alone; decoding, and views that workers "
        "make, in all loader processes together. Plain forward: open_clip's own, of the same views, each image's; "
        "ours / plain: the time of encoding and adapting over the plain forward's. End to end: a run as `lorattt "
        "test` makes it, start of the loader processes included; later: without the first quarter of its batches. "
        "Reference: one image at a time, Pillow's views, all of them through the whole tower, without the start of "
        "its loader; ours over it is the later figure's where there is one. Texts: seconds, once per list of "
        "classes. MiB: peak of the end-to-end run, of the allocator on a GPU, elsewhere of the process. Same: "
        "images to which both gave the same answer; LoRA-TTT draws other masks in each.",
    ]
    if report["growth"]:
        lines += ["", "## Growth", "", *_growth_table(report["growth"])]
    return "\n".join(lines) + "\n"


def _main_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| method | views | texts, s | decode | views made | encode | adapt | plain forward | ours / plain "
        "| end to end | later | reference | ours / reference | MiB | same |",
        "| --- |" + " ---: |" * 14,
    ]
    for row in rows:
        stages, run, reference = row["stages"], row["end_to_end"], row["reference"]
        cells = [
            row["method"],
            str(row["views"]),
            _number(row["texts_seconds"], 2),
            *(_number(row["images_per_second"][key]) for key in ("decode", "views", "encode", "adapt", "plain")),
            _number(stages["ours_over_plain"], 2),
            _number(run["images_per_second"]),
            _number(run["later_images_per_second"]),
            _number(reference["images_per_second"] if reference else None),
            _number(row["ours_over_reference"], 2),
            f"{run['peak_memory_bytes'] / 2**20:,.0f}",
            f"{reference['same']} of {reference['compared']}" if reference else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _growth_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "One thing grows at a time. Texts: seconds and peak memory once per list of classes; encode and adapt: "
        "milliseconds an image. Memory is the peak of the allocator on a GPU, elsewhere of the process with its model.",
        "",
        "| what grows | method | to | texts, s | texts, MiB | encode, ms | adapt, ms | images per second | MiB |",
        "| --- | --- |" + " ---: |" * 7,
    ]
    for row in rows:
        start = [row["grows"], row["method"], f"{row[_GROWTH[row['grows']]]:,}"]
        if row.get("not_enough_memory"):
            lines.append("| " + " | ".join([*start, *[""] * 5, "not enough memory"]) + " |")
            continue
        cells = [
            _number(row["texts_seconds"], 2),
            f"{row['texts_peak_memory_bytes'] / 2**20:,.0f}",
            *(_number(1000 * row["seconds"][key], 1) for key in ("encode", "adapt")),
            _number(1 / row["seconds_per_image"]),
            f"{row['peak_memory_bytes'] / 2**20:,.0f}",
        ]
        lines.append("| " + " | ".join([*start, *cells]) + " |")
    return lines


def projection(reports: Sequence[Mapping[str, Any]], devices: Sequence[int]) -> str:
    """How long the test images of the 15 benchmarks would take, from measured images per second.

    Args:
        reports: One report; or one without AugMix for ImageNet and its variants and one with it for the ten others.
        devices: Numbers of devices of the same kind; N are taken to be N times as fast.
    """
    families = {"imagenet": 0, "fine_grained": 0}
    for benchmark in BENCHMARKS.values():
        families[benchmark.family] += benchmark.counts["test"]
    total = sum(families.values())
    plain = next((report for report in reports if not report["settings"]["augmix"]), reports[0])
    mixed = next((report for report in reports if report["settings"]["augmix"]), plain)
    what = plain["machine"]["gpu"] or plain["machine"]["cpu"]
    lines = [
        f"Projection, not a measurement: {total:,} test images of 15 benchmarks at the images per second that were "
        f"measured end to end on {what} ({plain['settings']['dtype']}, {plain['settings']['views']} views"
        + (", AugMix for the ten fine-grained sets" if mixed is not plain else "")
        + "); N devices are taken to be N times as fast.",
        "",
        "| method | images per second |" + "".join(f" hours on {count} |" for count in devices),
        "| --- | ---: |" + " ---: |" * len(devices),
    ]
    speeds = {row["method"]: row["end_to_end"]["images_per_second"] for row in mixed["rows"]}
    for row in plain["rows"]:
        speed = row["end_to_end"]["images_per_second"]
        seconds = families["imagenet"] / speed + families["fine_grained"] / speeds.get(row["method"], speed)
        hours = [_number(seconds / 3600 / count, 1 if seconds / count > 36_000 else 2) for count in devices]
        lines.append("| " + " | ".join([row["method"], _number(total / seconds), *hours]) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int | None = None) -> str:
    """With so many digits; by default three that count."""
    if value is None:
        return ""
    if digits is None:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"
