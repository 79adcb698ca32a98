"""The fifteen benchmarks in small: true folder, file and class names, true formats, one image per class and split.

``class_names.json`` has the class names as the datasets' own lists have them, in label order; of ImageNet-A and -R,
the places of their classes among ImageNet's sorted wnids.
"""

import io
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lorattt.data.imagenet_family import imagenet_names

FACTS = json.loads((Path(__file__).parent / "class_names.json").read_text(encoding="utf-8"))
SPLIT_FILES = {
    "flowers102": "split_zhou_OxfordFlowers.json",
    "dtd": "split_zhou_DescribableTextures.json",
    "oxford_pets": "split_zhou_OxfordPets.json",
    "stanford_cars": "split_zhou_StanfordCars.json",
    "ucf101": "split_zhou_UCF101.json",
    "caltech101": "split_zhou_Caltech101.json",
    "food101": "split_zhou_Food101.json",
    "sun397": "split_zhou_SUN397.json",
    "eurosat": "split_zhou_EuroSAT.json",
}
# (Dataset, layout) -> (the dataset's folder, the images' folder); written out, as the authors' programs have them.
FOLDERS = {
    ("imagenet", "coop"): ("imagenet", "imagenet/images/val"),
    ("imagenet", "tpt"): ("ImageNet", "ImageNet/val"),
    ("imagenet", "zero"): ("imagenet", "imagenet/val"),
    ("imagenet_a", "coop"): ("imagenet-adversarial", "imagenet-adversarial/imagenet-a"),
    ("imagenet_a", "tpt"): ("imagenet-a", "imagenet-a"),
    ("imagenet_a", "zero"): ("imagenet-a", "imagenet-a"),
    ("imagenet_v2", "coop"): ("imagenetv2", "imagenetv2/imagenetv2-matched-frequency-format-val"),
    ("imagenet_v2", "tpt"): ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
    ("imagenet_v2", "zero"): ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
    ("imagenet_r", "coop"): ("imagenet-rendition", "imagenet-rendition/imagenet-r"),
    ("imagenet_r", "tpt"): ("imagenet-r", "imagenet-r"),
    ("imagenet_r", "zero"): ("imagenet-r", "imagenet-r"),
    ("imagenet_sketch", "coop"): ("imagenet-sketch", "imagenet-sketch/images"),
    ("imagenet_sketch", "tpt"): ("ImageNet-Sketch", "ImageNet-Sketch"),
    ("imagenet_sketch", "zero"): ("imagenet-sketch", "imagenet-sketch"),
    ("flowers102", "coop"): ("oxford_flowers", "oxford_flowers/jpg"),
    ("flowers102", "tpt"): ("Flower102", "Flower102/jpg"),
    ("flowers102", "zero"): ("flower102", "flower102/jpg"),
    ("flowers102", "torchvision"): ("flowers-102", "flowers-102/jpg"),
    ("dtd", "coop"): ("dtd", "dtd/images"),
    ("dtd", "tpt"): ("DTD", "DTD/images"),
    ("dtd", "zero"): ("dtd", "dtd/images"),
    ("dtd", "torchvision"): ("dtd", "dtd/dtd/images"),
    ("oxford_pets", "coop"): ("oxford_pets", "oxford_pets/images"),
    ("oxford_pets", "tpt"): ("OxfordPets", "OxfordPets"),
    ("oxford_pets", "zero"): ("oxford_pets", "oxford_pets/images"),
    ("oxford_pets", "torchvision"): ("oxford-iiit-pet", "oxford-iiit-pet/images"),
    ("stanford_cars", "coop"): ("stanford_cars", "stanford_cars"),
    ("stanford_cars", "tpt"): ("StanfordCars", "StanfordCars"),
    ("stanford_cars", "zero"): ("stanford_cars", "stanford_cars/images"),
    ("stanford_cars", "torchvision"): ("stanford_cars", "stanford_cars"),
    ("ucf101", "coop"): ("ucf101", "ucf101/UCF-101-midframes"),
    ("ucf101", "tpt"): ("UCF101", "UCF101"),
    ("ucf101", "zero"): ("ucf101", "ucf101/images"),
    ("caltech101", "coop"): ("caltech-101", "caltech-101/101_ObjectCategories"),
    ("caltech101", "tpt"): ("Caltech101", "Caltech101"),
    ("caltech101", "zero"): ("caltech-101", "caltech-101/images"),
    ("caltech101", "torchvision"): ("caltech101", "caltech101/101_ObjectCategories"),
    ("food101", "coop"): ("food-101", "food-101/images"),
    ("food101", "tpt"): ("Food101", "Food101/images"),
    ("food101", "zero"): ("food101", "food101/images"),
    ("food101", "torchvision"): ("food-101", "food-101/images"),
    ("sun397", "coop"): ("sun397", "sun397/SUN397"),
    ("sun397", "tpt"): ("SUN397", "SUN397"),
    ("sun397", "zero"): ("sun397", "sun397/images"),
    ("sun397", "torchvision"): ("SUN397", "SUN397"),
    ("fgvc_aircraft", "coop"): ("fgvc_aircraft", "fgvc_aircraft/images"),
    ("fgvc_aircraft", "tpt"): ("fgvc_aircraft", "fgvc_aircraft/images"),
    ("fgvc_aircraft", "zero"): ("fgvc_aircraft", "fgvc_aircraft/images"),
    ("fgvc_aircraft", "torchvision"): ("fgvc-aircraft-2013b", "fgvc-aircraft-2013b/data/images"),
    ("eurosat", "coop"): ("eurosat", "eurosat/2750"),
    ("eurosat", "tpt"): ("eurosat", "eurosat"),
    ("eurosat", "zero"): ("eurosat", "eurosat/images"),
    ("eurosat", "torchvision"): ("eurosat", "eurosat/2750"),
}
_EUROSAT = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
_CALTECH = {"face": "Faces", "leopard": "Leopards", "motorbike": "Motorbikes", "airplane": "airplanes"}
_NUMBER = {"train": 1, "val": 2, "test": 3}


class Miniature(NamedTuple):
    """A dataset that was written: the images' folder, test images (path, label) in order, names as in its lists."""

    folder: Path
    items: list[tuple[str, int]]
    names: list[str]


@cache
def jpeg() -> bytes:
    """A tiny image; all share it."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 90, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def names_of(key: str) -> list[str]:
    """Class names as the dataset's lists have them, in label order."""
    wnids = list(imagenet_names())
    if key in ("imagenet_a", "imagenet_r"):
        return [imagenet_names()[wnids[place]] for place in FACTS[key]]
    return list(imagenet_names().values()) if key.startswith("imagenet") else list(FACTS[key])


def class_folders(key: str) -> list[str]:
    """Folder names of the ImageNet family in label order."""
    wnids = list(imagenet_names())
    if key == "imagenet_v2":
        return [str(label) for label in range(1000)]
    return [wnids[place] for place in FACTS[key]] if key in FACTS else wnids


def put(folder: Path, *paths: str) -> None:
    """Write the tiny image there."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(jpeg())


def image_path(key: str, label: int, split: str) -> str:
    """A class's image, named as in CoOp's split file."""
    name, number = FACTS[key][label], _NUMBER[split]
    match key:
        case "flowers102":
            return f"image_{label * 10 + number:05d}.jpg"
        case "oxford_pets":
            return f"{name}_{number}.jpg"
        case "stanford_cars":
            return f"cars_{'test' if split == 'test' else 'train'}/{label * 10 + number:05d}.jpg"
        case "ucf101":
            return f"{name}/v_{name.replace('_', '')}_g{number:02d}_c01.jpg"
        case "caltech101":
            return f"{_CALTECH.get(name, name)}/image_{number:04d}.jpg"
        case "sun397":
            # "outdoor church" lies in c/church/outdoor.
            path = "/".join(reversed(name.split(" ")))
            return f"{path[0]}/{path}/sun_{number}.jpg"
        case "eurosat":
            folder = _EUROSAT.split()[label]
            return f"{folder}/{folder}_{number}.jpg"
        case _:
            return f"{name}/{name}_{number:04d}.jpg"


def split_content(key: str) -> dict[str, list[list[str | int]]]:
    """The content of a split file; the test list starts with the last class, so that order of names is not theirs."""
    content: dict[str, list[list[str | int]]] = {}
    for split in ("train", "val", "test"):
        labels = range(len(FACTS[key]))
        entries: list[list[str | int]] = [[image_path(key, label, split), label, FACTS[key][label]] for label in labels]
        content[split] = entries[::-1] if split == "test" else entries
    return content


def write(key: str, layout: str, root: Path, *, split: str = "test", splits: Path | None = None) -> Miniature:
    """Write a dataset with the images of one split.

    ``splits`` is where its split file goes; without, where the layout has it.
    """
    base, folder = (root / each for each in FOLDERS[key, layout])
    if key.startswith("imagenet"):
        items = [(f"{name}/{name}_0.JPEG", label) for label, name in enumerate(class_folders(key))]
        put(folder, *(path for path, _ in items))
        if key in ("imagenet_a", "imagenet_r"):
            (folder / "README.txt").write_text("synsets and names\n")
        if layout == "coop":
            (base / "classnames.txt").write_text("".join(f"{a} {b}\n" for a, b in imagenet_names().items()))
    elif key == "fgvc_aircraft":
        items = _aircraft(folder, split)
    else:
        content = split_content(key)
        items = [(str(path), int(label)) for path, label, _ in content[split]]
        if (key, layout) == ("stanford_cars", "zero"):
            items = [(path.removeprefix("cars_"), label) for path, label in items]
        put(folder, *(path for path, _ in items))
        place = splits or (root / "data_splits" if layout == "tpt" else base)
        place.mkdir(parents=True, exist_ok=True)
        (place / SPLIT_FILES[key]).write_text(json.dumps(content, indent=4))
    return Miniature(folder, items, names_of(key))


def _aircraft(folder: Path, split: str) -> list[tuple[str, int]]:
    names = FACTS["fgvc_aircraft"]
    lists = folder.parent
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    items: list[tuple[str, int]] = []
    for part, number in _NUMBER.items():
        order = list(range(len(names)))[::-1]
        lines = [f"{label * 10 + number:07d} {names[label]}\n" for label in order]
        (lists / f"images_variant_{part}.txt").write_text("".join(lines))
        if part == split:
            items = [(f"{label * 10 + number:07d}.jpg", label) for label in order]
    put(folder, *(path for path, _ in items))
    return items


def write_cars_tables(folder: Path, split: str = "test") -> list[tuple[str, int]]:
    """ZERO's tables of Stanford Cars in ``folder/annots``; gives the split's images as they list them."""
    names, annots = FACTS["stanford_cars"], folder / "annots"
    annots.mkdir(parents=True, exist_ok=True)
    rows = [
        (image_path("stanford_cars", label, part).removeprefix("cars_"), label, part)
        for label in reversed(range(len(names)))
        for part in _NUMBER
    ]
    (annots / "split_coop.csv").write_text("filename,split\n" + "".join(f"{path},{part}\n" for path, _, part in rows))
    # Another order, as nothing says that it is the same.
    (annots / "labels.csv").write_text(
        "filename,class_idx\n" + "".join(f"{path},{label}\n" for path, label, _ in sorted(rows))
    )
    (annots / "metadata.csv").write_text("class_name\n" + "".join(f"{name}\n" for name in names))
    return [(path, label) for path, label, part in rows if part == split]
