"""The catalogue of image benchmarks: sizes, class names, prompts, licences, folders, and where to get them.

The entries are in ``benchmarks.yaml``. A new one needs an entry there and, if its images are listed in a way that no
other has, a case in :mod:`lorattt.data.layouts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

import yaml

from lorattt.errors import UserError, quoted
from lorattt.inputs import nearest


@dataclass(frozen=True)
class Benchmark:
    """One dataset.

    Attributes:
        lists: What lists its images: ``class_folders`` named by wnid or number; ``coop``, the split file, which defines
            images, labels and names; ``cars``, that or ZERO's tables; ``aircraft``, the dataset's own text files.
        licence: Terms of the images as its owners state them, in short; ``not stated`` where none are known.
        fetch: Where to get it by hand, and where it goes below the folder of all datasets.
        layouts: Layout to the dataset's folder below the folder of all datasets, and the images' folder in that one.
        download_note: What is known to go wrong with a download.
        names_sha1: SHA-1 of the class names in label order, joined by newlines, in UTF-8; empty where not known.
    """

    key: str
    title: str  # its name in tables
    family: Literal["imagenet", "fine_grained"]
    lists: Literal["class_folders", "coop", "cars", "aircraft"]
    counts: Mapping[str, int]  # published number of images of each split it has
    classes: int
    licence: str
    fetch: str
    layouts: Mapping[str, Sequence[str]]
    split_file: str | None = None  # file name of CoOp's split
    template: str = "a photo of a {}."  # CoOp's prompt for it
    torchvision: str | None = None  # class of ``torchvision.datasets`` that can download it
    download_note: str = ""
    names_sha1: str = ""
    first_name: str = ""
    last_name: str = ""


def _load() -> dict[str, Benchmark]:
    text = files("lorattt.data").joinpath("benchmarks.yaml").read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # much faster, where PyYAML was built with it
    found = {}
    for key, entry in yaml.load(text, loader).items():
        if file := entry.get("split_file"):
            entry["fetch"] += f"; {file} is linked from CoOp's DATASETS.md (repository KaiyangZhou/CoOp on GitHub)"
        found[key] = Benchmark(key, **entry)
    return found


BENCHMARKS: Final[dict[str, Benchmark]] = _load()


def benchmark(key: str) -> Benchmark:
    """The dataset of that name."""
    if key not in BENCHMARKS:
        # Users write ImageNet-A or Food101: only letters and digits are compared.
        plain = {"".join(filter(str.isalnum, each)): each for each in BENCHMARKS}
        near = nearest("".join(filter(str.isalnum, key.lower())), plain)
        hint = f"did you mean {plain[near]}?" if near else f"known are {', '.join(BENCHMARKS)}"
        raise UserError(f"there is no benchmark {quoted(key)}: {hint}")
    return BENCHMARKS[key]
