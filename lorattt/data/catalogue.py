"""What is known of the fifteen image benchmarks: sizes, class names, prompts, licences, and where to get them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from lorattt.errors import UserError, quoted

Family = Literal["imagenet", "fine_grained"]

_PLAIN: Final = "a photo of a {}."
_SPLIT_PAGE: Final = "CoOp's DATASETS.md (repository KaiyangZhou/CoOp on GitHub)"


@dataclass(frozen=True)
class Benchmark:
    """One dataset.

    Attributes:
        key: Its name in lorattt.
        title: Its name in tables.
        family: ``imagenet``: class folders named by wnid or number; ``fine_grained``: lists of images.
        classes: Number of classes.
        counts: Published number of images of each split it has.
        split_file: File name of CoOp's split, which defines the images, labels and names; null where class
            folders or the dataset's own lists do.
        template: CoOp's prompt for it, with one ``{}``.
        licence: Terms of the images as its owners state them, in short; ``not stated`` where none are known.
        fetch: Where to get it by hand, and where it goes below the folder of all datasets.
        torchvision: Class of ``torchvision.datasets`` that can download it; null where none can.
        names_sha1: SHA-1 of the class names in label order, joined by newlines, in UTF-8; empty where not known.
        first_name: Name of class 0.
        last_name: Name of the last class.
    """

    key: str
    title: str
    family: Family
    classes: int
    counts: Mapping[str, int]
    split_file: str | None
    template: str
    licence: str
    fetch: str
    torchvision: str | None
    names_sha1: str
    first_name: str
    last_name: str


def _imagenet(
    key: str,
    title: str,
    counts: dict[str, int],
    licence: str,
    fetch: str,
    *,
    classes: int = 1000,
    names_sha1: str = "b0592a5053f02cd6eb425644c9d6d1732378131b",
    first_name: str = "tench",
    last_name: str = "toilet paper",
) -> Benchmark:
    return Benchmark(
        key=key,
        title=title,
        family="imagenet",
        classes=classes,
        counts=counts,
        split_file=None,
        template=_PLAIN,
        licence=licence,
        fetch=fetch,
        torchvision=None,
        names_sha1=names_sha1,
        first_name=first_name,
        last_name=last_name,
    )


def _fine_grained(
    key: str,
    title: str,
    names: tuple[int, str, str, str],
    counts: tuple[int, int, int],
    split: str | None,
    licence: str,
    fetch: str,
    *,
    template: str = _PLAIN,
    torchvision: str | None = None,
) -> Benchmark:
    classes, first_name, last_name, names_sha1 = names
    split_file = None if split is None else f"split_zhou_{split}.json"
    return Benchmark(
        key=key,
        title=title,
        family="fine_grained",
        classes=classes,
        counts=dict(zip(("train", "val", "test"), counts, strict=True)),
        split_file=split_file,
        template=template,
        licence=licence,
        fetch=fetch if split_file is None else f"{fetch}; {split_file} is linked from {_SPLIT_PAGE}",
        torchvision=torchvision,
        names_sha1=names_sha1,
        first_name=first_name,
        last_name=last_name,
    )


_ALL: Final = (
    _imagenet(
        "imagenet",
        "ImageNet",
        # The papers test on the validation images: the labels of ImageNet's own test images are not public.
        {"train": 1_281_167, "val": 50_000, "test": 50_000},
        "non-commercial research and education only",
        "register at image-net.org and unpack the ILSVRC 2012 images, one folder per class, into imagenet/images/val "
        "and imagenet/images/train",
    ),
    _imagenet(
        "imagenet_a",
        "ImageNet-A",
        {"test": 7_500},
        "MIT (its repository)",
        "unpack imagenet-a.tar of the repository hendrycks/natural-adv-examples on GitHub into imagenet-adversarial",
        classes=200,
        names_sha1="0c1c28d179f3dd8d82709451057fb61166a62cdf",
        first_name="stingray",
        last_name="acorn",
    ),
    _imagenet(
        "imagenet_v2",
        "ImageNet-V2",
        {"test": 10_000},
        "MIT (its repository)",
        "unpack imagenetv2-matched-frequency.tar.gz of the repository modestyachts/ImageNetV2 on GitHub into "
        "imagenetv2",
    ),
    _imagenet(
        "imagenet_r",
        "ImageNet-R",
        {"test": 30_000},
        "MIT (its repository)",
        "unpack imagenet-r.tar of the repository hendrycks/imagenet-r on GitHub into imagenet-rendition",
        classes=200,
        names_sha1="81a269154a65ca05d89532290a487c1b33ebe1c6",
        first_name="goldfish",
        last_name="acorn",
    ),
    _imagenet(
        "imagenet_sketch",
        "ImageNet-Sketch",
        {"test": 50_889},
        "MIT (its repository)",
        "unpack the class folders of the repository HaohanWang/ImageNet-Sketch on GitHub into imagenet-sketch/images",
    ),
    _fine_grained(
        "flowers102",
        "Flowers-102",
        (102, "pink primrose", "blackberry lily", "720834b5f140c6fcf346edb052372464baa9b376"),
        (4_093, 1_633, 2_463),
        "OxfordFlowers",
        "not stated",
        'unpack 102flowers.tgz of the "102 Category Flower Dataset" page of Oxford\'s VGG into oxford_flowers',
        template="a photo of a {}, a type of flower.",
        torchvision="Flowers102",
    ),
    _fine_grained(
        "dtd",
        "DTD",
        (47, "banded", "zigzagged", "81f150b27664a69df2a398f08e628253b15894e6"),
        (2_820, 1_128, 1_692),
        "DescribableTextures",
        "research only",
        'unpack dtd-r1.0.1.tar.gz of the "Describable Textures Dataset" page of Oxford\'s VGG, which makes dtd',
        template="{} texture.",
        torchvision="DTD",
    ),
    _fine_grained(
        "oxford_pets",
        "Oxford Pets",
        (37, "abyssinian", "yorkshire terrier", "75baae97f49f925173aa0e4b724cab351c8e3074"),
        (2_944, 736, 3_669),
        "OxfordPets",
        "CC BY-SA 4.0",
        'unpack images.tar.gz of the "Oxford-IIIT Pet Dataset" page of Oxford\'s VGG into oxford_pets',
        template="a photo of a {}, a type of pet.",
        torchvision="OxfordIIITPet",
    ),
    _fine_grained(
        "stanford_cars",
        "Stanford Cars",
        (
            196,
            "2000 AM General Hummer SUV",
            "2012 smart fortwo Convertible",
            "4e4aa3d01bcc493bfea040f493379b4286d06a30",
        ),
        (6_509, 1_635, 8_041),
        "StanfordCars",
        "not stated",
        "its page at Stanford is gone, so take a mirror's cars_train and cars_test, with images directly inside, "
        "into stanford_cars",
    ),
    _fine_grained(
        "ucf101",
        "UCF101",
        (101, "Apply Eye Makeup", "Yo Yo", "83476c3c766d9f3b482f986978239d51462c2117"),
        (7_639, 1_898, 3_783),
        "UCF101",
        "not stated",
        f"unpack the middle frames, UCF-101-midframes.zip, linked from {_SPLIT_PAGE}, into ucf101",
        template="a photo of a person doing {}.",
    ),
    _fine_grained(
        "caltech101",
        "Caltech-101",
        (100, "face", "yin yang", "83119bed2dd9060ec9807d90536bb89afe82fa4d"),
        (4_128, 1_649, 2_465),
        "Caltech101",
        "CC BY 4.0",
        'unpack 101_ObjectCategories.tar.gz of the "Caltech 101" record of CaltechDATA into caltech-101',
        torchvision="Caltech101",
    ),
    _fine_grained(
        "food101",
        "Food-101",
        # In the order of the split file, cheese plate before cheesecake; some published lists have them the other way.
        (101, "apple pie", "waffles", "1c84dd0a271ce92831302cdb067c3677fa59404d"),
        (50_500, 20_200, 30_300),
        "Food101",
        "scientific fair use (images from Foodspotting)",
        'unpack food-101.tar.gz of the "Food-101" page of ETH Zurich\'s Computer Vision Lab, which makes food-101',
        template="a photo of {}, a type of food.",
        torchvision="Food101",
    ),
    _fine_grained(
        "sun397",
        "SUN397",
        (397, "abbey", "youth hostel", "297b4c8e52022354ffd2b25d2fc8f92385a2dca0"),
        (15_880, 3_970, 19_850),
        "SUN397",
        "not stated",
        'unpack SUN397.tar.gz of the "SUN Database" page of Princeton into sun397',
        torchvision="SUN397",
    ),
    _fine_grained(
        "fgvc_aircraft",
        "FGVC-Aircraft",
        (100, "707-320", "Yak-42", "69165e2222adb5da22162f953360947455696206"),
        (3_334, 3_333, 3_333),
        None,
        "non-commercial research only",
        'take the folder data of fgvc-aircraft-2013b.tar.gz of the "FGVC-Aircraft Benchmark" page of Oxford\'s VGG '
        "as fgvc_aircraft",
        template="a photo of a {}, a type of aircraft.",
        torchvision="FGVCAircraft",
    ),
    _fine_grained(
        "eurosat",
        "EuroSAT",
        (10, "Annual Crop Land", "Sea or Lake", "2fc4ef7cb828b8ca3c21e5988186223818c34a5d"),
        (13_500, 5_400, 8_100),
        "EuroSAT",
        "MIT (its repository)",
        "unpack EuroSAT.zip (the RGB images) of the repository phelber/EuroSAT on GitHub into eurosat, which makes "
        "eurosat/2750",
        template="a centered satellite photo of {}.",
        torchvision="EuroSAT",
    ),
)

BENCHMARKS: Final[dict[str, Benchmark]] = {each.key: each for each in _ALL}


def benchmark(key: str) -> Benchmark:
    """The dataset of that name."""
    if key not in BENCHMARKS:
        # Users write ImageNet-A or Food101: only letters and digits are compared.
        plain = {"".join(filter(str.isalnum, each)): each for each in BENCHMARKS}
        near = difflib.get_close_matches("".join(filter(str.isalnum, key.lower())), plain, n=1)
        hint = f"did you mean {plain[near[0]]}?" if near else f"known are {', '.join(BENCHMARKS)}"
        raise UserError(f"there is no benchmark {quoted(key)}: {hint}")
    return BENCHMARKS[key]
