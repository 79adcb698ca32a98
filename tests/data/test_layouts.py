"""The fifteen benchmarks in every layout: labels, names and order; what a naive reader gets wrong; each mistake."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import miniature
import numpy as np
import pytest
from miniature import FOLDERS, SPLIT_FILES, Miniature

from lorattt.data.catalogue import BENCHMARKS
from lorattt.data.check import problems
from lorattt.data.file_list import ListedImages, Sample
from lorattt.data.imagenet_family import imagenet_names
from lorattt.data.layouts import looked_for, read_benchmark
from lorattt.data.split_files import read_cars_tables
from lorattt.errors import UserError

Trees = Callable[[str, str], tuple[Path, Miniature]]
WNIDS = list(imagenet_names())


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Datasets that tests only read, written once: ``trees(key, layout)`` gives the data root and what is there."""
    made: dict[str, tuple[Path, Miniature]] = {}

    def tree(key: str, layout: str) -> tuple[Path, Miniature]:
        folder = f"{key}/{FOLDERS[key, layout][1]}"
        if folder not in made:
            root = tmp_path_factory.mktemp(f"{key}_{layout}")
            made[folder] = root, miniature.write(key, layout, root)
        return made[folder]

    return tree


def first_layout(key: str, layout: str) -> str:
    """Layouts that agree in the folder have the name of the first."""
    return next(name for (other, name), folders in FOLDERS.items() if (other, folders) == (key, FOLDERS[key, layout]))


def refused(*args: Any, **keywords: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_benchmark(*args, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- every dataset in every layout --------------------------------------------------------------------------------


def test_every_dataset_is_written_in_every_layout_that_is_searched() -> None:
    assert {(key, layout) for key, known in BENCHMARKS.items() for layout in known.layouts} == set(FOLDERS)
    assert len(BENCHMARKS) == 15


@pytest.mark.parametrize(("key", "layout"), FOLDERS, ids=map("-".join, FOLDERS))
def test_images_labels_and_names(key: str, layout: str, trees: Trees) -> None:
    root, written = trees(key, layout)
    listing, located = read_benchmark(key, root)
    assert located.layout == first_layout(key, layout)
    assert listing.root == written.folder
    assert listing.samples == tuple(Sample(*item) for item in written.items)
    assert listing.class_names == tuple(name.replace("_", " ") for name in written.names)
    assert len(listing.class_names) == BENCHMARKS[key].classes == len({item.label for item in listing.samples})
    assert all((listing.root / item.path).is_file() for item in listing.samples)
    assert ListedImages(key, listing).read(0).size == (8, 6)
    if key in SPLIT_FILES:
        assert located.split_file is not None
        assert located.split_file.name == SPLIT_FILES[key]


@pytest.mark.parametrize("key", BENCHMARKS)
def test_names_are_the_published_ones(key: str, trees: Trees) -> None:
    known = BENCHMARKS[key]
    names = read_benchmark(key, trees(key, "coop")[0])[0].class_names
    assert (names[0], names[-1], len(names)) == (known.first_name, known.last_name, known.classes)
    assert hashlib.sha1("\n".join(names).encode()).hexdigest() == known.names_sha1
    assert not [name for name in names if "_" in name or name != name.strip()]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("imagenet", {657: "missile", 744: "missile", 836: "sunglasses", 837: "sunglasses"}),
        ("imagenet_sketch", {0: "tench", 134: "crane bird", 517: "construction crane"}),
        ("imagenet_v2", {2: "great white shark", 10: "brambling", 100: "black swan", 999: "toilet paper"}),
        ("imagenet_a", {0: "stingray", 1: "goldfinch"}),
        ("imagenet_r", {0: "goldfish", 1: "great white shark"}),
        ("flowers102", {0: "pink primrose", 76: "passion flower"}),
        ("oxford_pets", {0: "abyssinian", 2: "american pit bull terrier"}),  # lower case, underscores in the file
        ("stanford_cars", {180: "2007 Suzuki Aerio Sedan"}),  # the year first
        ("ucf101", {0: "Apply Eye Makeup", 34: "Hammering", 35: "Hammer Throw"}),  # not in sorted order
        ("caltech101", {0: "face", 1: "leopard", 2: "motorbike", 3: "accordion"}),  # order of the folders, not names
        ("food101", {16: "cheese plate", 17: "cheesecake"}),
        ("sun397", {8: "outdoor apartment building", 389: "wheat field", 392: "barrel storage wine cellar"}),
        ("fgvc_aircraft", {21: "A300B4", 72: "F-16A/B"}),
        ("eurosat", {3: "Highway or Road", 9: "Sea or Lake"}),
    ],
)
def test_names_at_known_labels(key: str, names: dict[int, str], trees: Trees) -> None:
    found = read_benchmark(key, trees(key, "coop")[0])[0].class_names
    assert {label: found[label] for label in names} == names


def test_published_counts() -> None:
    tests = {key: known.counts["test"] for key, known in BENCHMARKS.items()}
    assert sum(tests[key] for key, known in BENCHMARKS.items() if known.family == "fine_grained") == 83_696
    assert [tests[key] for key in ("imagenet", "imagenet_a", "imagenet_v2", "imagenet_r", "imagenet_sketch")] == [
        50_000,
        7_500,
        10_000,
        30_000,
        50_889,
    ]
    assert all(len(known.counts) == 3 for known in BENCHMARKS.values() if known.family == "fine_grained")
    assert [key for key, known in BENCHMARKS.items() if known.family == "fine_grained" and not known.split_file] == [
        "fgvc_aircraft"
    ]


@pytest.mark.parametrize("known", BENCHMARKS.values(), ids=lambda known: known.key)
def test_catalogue_entries_can_be_shown_and_filled_in(known: Any) -> None:
    assert known.template.count("{}") == 1
    assert "\n" not in known.fetch
    assert known.licence
    folder = FOLDERS[known.key, "coop"][0]
    assert folder in known.fetch
    assert known.split_file is None or known.split_file in known.fetch
    if known.torchvision:
        import torchvision.datasets

        assert hasattr(torchvision.datasets, known.torchvision)


# --- what a naive reader gets wrong -------------------------------------------------------------------------------


def test_numbered_folders_are_not_sorted_as_text(trees: Trees) -> None:
    root, _ = trees("imagenet_v2", "tpt")
    items = read_benchmark("imagenet_v2", root)[0].samples
    assert [item.path for item in items[:12:5]] == ["0/0_0.JPEG", "5/5_0.JPEG", "10/10_0.JPEG"]
    assert all(int(item.path.split("/")[0]) == item.label for item in items)


@pytest.mark.parametrize("key", ["imagenet_a", "imagenet_r"])
def test_names_of_the_200_class_sets_belong_to_their_wnids(key: str, trees: Trees) -> None:
    listing, _ = read_benchmark(key, trees(key, "coop")[0])
    names = imagenet_names()
    for item in listing.samples:
        assert listing.class_names[item.label] == names[item.path.split("/")[0]]
    assert not [item for item in listing.samples if "README" in item.path]
    assert list(listing.class_names) != list(names.values())[:200]


def test_the_200_class_sets_share_86_classes() -> None:
    wnids = [{WNIDS[place] for place in miniature.FACTS[key]} for key in ("imagenet_a", "imagenet_r")]
    assert [len(each) for each in wnids] == [200, 200]
    assert len(wnids[0] & wnids[1]) == 86


def test_equal_names_stay_two_classes(trees: Trees) -> None:
    listing, _ = read_benchmark("imagenet", trees("imagenet", "tpt")[0])
    assert len(listing.class_names) == 1000
    assert len(set(listing.class_names)) == 998
    for name in ("missile", "sunglasses"):
        labels = [label for label, each in enumerate(listing.class_names) if each == name]
        assert len(labels) == 2
        assert len({listing.samples[label].path.split("/")[0] for label in labels}) == 2


def test_equal_names_in_a_split_file_stay_two_classes(tmp_path: Path) -> None:
    content = miniature.split_content("eurosat")
    for entries in content.values():
        for entry in entries:
            entry[2] = "crop" if entry[1] in (0, 6) else entry[2]
    names = read_split(tmp_path, content)[0].class_names
    assert [label for label, name in enumerate(names) if name == "crop"] == [0, 6]


def test_images_are_numbered_by_label_then_name(tmp_path: Path) -> None:
    written = miniature.write("imagenet_a", "tpt", tmp_path)
    first, second = miniature.class_folders("imagenet_a")[:2]
    miniature.put(written.folder, f"{second}/a.jpg", f"{first}/z.png", f"{first}/.hidden.jpg")
    (written.folder / first / "notes.txt").write_text("x")
    items = read_benchmark("imagenet_a", tmp_path)[0].samples
    assert items[:4] == ((f"{first}/{first}_0.JPEG", 0), (f"{first}/z.png", 0), (f"{second}/a.jpg", 1), items[3])
    assert items[3] == (f"{second}/{second}_0.JPEG", 1)


def test_imagenet_is_tested_on_its_validation_images(tmp_path: Path) -> None:
    for part in ("train", "val"):
        miniature.put(tmp_path / "ImageNet" / part, *(f"{wnid}/{part}.JPEG" for wnid in WNIDS))
    for split, folder in (("train", "train"), ("val", "val"), ("test", "val")):
        listing, _ = read_benchmark("imagenet", tmp_path, split)
        assert listing.root == tmp_path / "ImageNet" / folder
        assert {item.path.split("/")[1] for item in listing.samples} == {f"{folder}.JPEG"}


@pytest.mark.parametrize("key", ["stanford_cars", "fgvc_aircraft", "ucf101"])
def test_other_splits_have_the_same_classes(key: str, tmp_path: Path) -> None:
    written = miniature.write(key, "coop", tmp_path, split="train")
    listing, _ = read_benchmark(key, tmp_path, "train")
    assert listing.samples == tuple(Sample(*item) for item in written.items)
    assert listing.class_names == tuple(name.replace("_", " ") for name in written.names)
    assert listing.root == written.folder
    assert "no images of its test split" in refused(key, tmp_path, "test")


# --- which place ------------------------------------------------------------------------------------------------


def test_the_first_layout_with_an_image_is_taken(tmp_path: Path) -> None:
    for number, layout in enumerate(("torchvision", "zero", "tpt", "coop")):
        miniature.write("flowers102", layout, tmp_path)
        assert read_benchmark("flowers102", tmp_path)[1].layout == layout, number
    first = miniature.image_path("flowers102", 101, "test")
    (tmp_path / "oxford_flowers" / "jpg" / first).unlink()
    assert read_benchmark("flowers102", tmp_path)[1].layout == "tpt"


def test_folders_that_differ_in_case_are_different_places(tmp_path: Path) -> None:
    written = miniature.write("flowers102", "zero", tmp_path)
    assert read_benchmark("flowers102", tmp_path)[0].root == written.folder
    written.folder.parent.rename(tmp_path / "FLOWER102")
    assert "no images of its test split" in refused("flowers102", tmp_path)


def test_a_file_system_that_ignores_case_gives_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on one: DTD is also found as dtd, and only the list of names tells which it is."""
    written = miniature.write("dtd", "tpt", tmp_path)
    (tmp_path / "dtd").symlink_to(tmp_path / "DTD")
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [name for name in real(path) if name != "dtd"])
    listing, located = read_benchmark("dtd", tmp_path)
    assert (located.layout, listing.root) == ("tpt", written.folder)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("place", ["given", "eurosat", "eurosat/2750", "data_splits", "splits"])
def test_split_files_are_found(place: str, lower: bool, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" if place == "given" else tmp_path / "data" / place
    written = miniature.write("eurosat", "coop", tmp_path / "data", splits=folder)
    file = folder / SPLIT_FILES["eurosat"]
    if lower:
        file = file.rename(folder / file.name.lower())
    splits = folder if place == "given" else None
    listing, located = read_benchmark("eurosat", tmp_path / "data", splits=splits)
    assert located.split_file == file
    assert listing.samples == tuple(Sample(*item) for item in written.items)


def test_a_split_folder_of_the_users_goes_first(tmp_path: Path) -> None:
    miniature.write("eurosat", "coop", tmp_path)
    (tmp_path / "mine").mkdir()
    content = miniature.split_content("eurosat")
    content["test"] = content["test"][:3]
    (tmp_path / "mine" / SPLIT_FILES["eurosat"]).write_text(json.dumps(content))
    assert len(read_benchmark("eurosat", tmp_path)[0].samples) == 10
    assert len(read_benchmark("eurosat", tmp_path, splits=tmp_path / "mine")[0].samples) == 3


@pytest.mark.parametrize(
    ("key", "layout"),
    [("dtd", "torchvision"), ("oxford_pets", "tpt"), ("fgvc_aircraft", "torchvision"), ("stanford_cars", "zero")],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_dataset_with_another_name_is_read_from_its_path(key: str, layout: str, whole: bool, tmp_path: Path) -> None:
    """``path`` is the dataset's folder, or the images' own."""
    written = miniature.write(key, layout, tmp_path / "data")
    base = tmp_path / "data" / FOLDERS[key, layout][0]
    moved = base.rename(tmp_path / "mine")
    folder = moved / written.folder.relative_to(base)
    path = folder if whole else moved
    splits = tmp_path / "data" / "data_splits" if layout == "tpt" else moved
    listing, located = read_benchmark(key, tmp_path / "data", path=path, splits=splits)
    assert (located.layout, listing.root) == ("path", folder)
    assert listing.samples == tuple(Sample(*item) for item in written.items)


@pytest.mark.parametrize("inner", ["", "imagenet-r"])
def test_class_folders_are_read_from_a_path(inner: str, tmp_path: Path) -> None:
    items = [f"{name}/1.jpg" for name in miniature.class_folders("imagenet_r")]
    miniature.put(tmp_path / "renditions" / inner, *items)
    listing, located = read_benchmark("imagenet_r", tmp_path / "no data", path=tmp_path / "renditions")
    assert (located.layout, listing.root) == ("path", tmp_path / "renditions" / inner)
    assert [item.path for item in listing.samples] == items


def test_a_given_path_is_the_only_place(tmp_path: Path) -> None:
    miniature.write("eurosat", "coop", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    message = refused("eurosat", tmp_path / "data", path=tmp_path / "empty", splits=tmp_path / "data" / "eurosat")
    assert str(tmp_path / "empty" / "2750") in message
    assert str(tmp_path / "data") not in message


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written = miniature.write("eurosat", "coop", tmp_path / "data", splits=tmp_path / "lists")
    for root, path in ((Path("~/data"), None), (Path("nowhere"), Path("~/data/eurosat"))):
        assert read_benchmark("eurosat", root, path=path, splits=Path("~/lists"))[0].root == written.folder


# --- Stanford Cars in ZERO's layout -------------------------------------------------------------------------------


def test_cars_of_zero_are_read_from_its_tables(tmp_path: Path) -> None:
    items = miniature.write_cars_tables(tmp_path / "stanford_cars")
    miniature.put(tmp_path / "stanford_cars" / "images", *(path for path, _ in items))
    listing, located = read_benchmark("stanford_cars", tmp_path)
    assert located.layout == "zero"
    assert located.split_file == tmp_path / "stanford_cars" / "annots" / "split_coop.csv"
    assert listing.samples == tuple(Sample(*item) for item in items)
    assert list(listing.class_names) == miniature.names_of("stanford_cars")


def test_a_split_file_goes_before_the_tables(tmp_path: Path) -> None:
    written = miniature.write("stanford_cars", "zero", tmp_path)
    items = miniature.write_cars_tables(tmp_path / "stanford_cars")
    assert sorted(items) == sorted(written.items)
    (tmp_path / "stanford_cars" / "annots" / "labels.csv").unlink()
    listing, located = read_benchmark("stanford_cars", tmp_path)
    assert located.split_file == tmp_path / "stanford_cars" / SPLIT_FILES["stanford_cars"]
    assert listing.samples == tuple(Sample(*item) for item in written.items)
    for path, _ in written.items:
        (written.folder / path).unlink()
    assert "(first: cars_test/01953.jpg)" in refused("stanford_cars", tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("split_coop.csv", "filename,part\n", r"split_coop.csv has no column 'split'"),
        ("split_coop.csv", "filename,split\na.jpg,train\n", r"split_coop.csv lists no images of split 'test'"),
        ("split_coop.csv", "filename,split\n../a.jpg,test\n", r"split_coop.csv: path '../a.jpg' leads out"),
        ("split_coop.csv", "filename,split\na.jpg,test\n", r"class_idx of 'a.jpg' is missing"),
        ("labels.csv", "filename,class_idx\ntest/01953.jpg,196\n", r"class_idx of 'test/01953.jpg' is 196"),
        ("labels.csv", "filename,class_idx\ntest/01953.jpg\n", r"class_idx of 'test/01953.jpg' is missing"),
        ("labels.csv", "", r"labels.csv has no column 'filename'"),
        ("metadata.csv", "name\n", r"metadata.csv has no column 'class_name'"),
        ("metadata.csv", None, r"metadata.csv cannot be read \(No such file"),
    ],
)
def test_damaged_tables_of_cars_are_refused(file: str, content: str | None, message: str, tmp_path: Path) -> None:
    items = miniature.write_cars_tables(tmp_path / "stanford_cars")
    miniature.put(tmp_path / "stanford_cars" / "images", *(path for path, _ in items[:1]))
    table = tmp_path / "stanford_cars" / "annots" / file
    table.unlink()
    if content is not None:
        table.write_text(content)
    assert_matches(message, refused("stanford_cars", tmp_path))


# --- flat validation images of ImageNet ---------------------------------------------------------------------------

# Some of ILSVRC's own class numbers; the others follow in an order of ours, so that all 1,000 have one.
ILSVRC = {1: "n02119789", 2: "n02100735", 3: "n02110185", 490: "n01751748", 1000: "n03255030"}
FLAT = {1: "n01751748", 2: "n02119789", 3: "n03255030", 4: "n02100735"}


def class_numbers() -> dict[int, str]:
    rest = iter([wnid for wnid in WNIDS if wnid not in ILSVRC.values()][::-1])
    return {number: ILSVRC.get(number) or next(rest) for number in range(1, 1001)}


def flat(folder: Path) -> None:
    miniature.put(folder, *(f"ILSVRC2012_val_{number:08d}.JPEG" for number in FLAT))


def check_flat(root: Path, **keywords: Any) -> None:
    listing, _ = read_benchmark("imagenet", root, **keywords)
    truth = {f"ILSVRC2012_val_{number:08d}.JPEG": WNIDS.index(wnid) for number, wnid in FLAT.items()}
    assert {item.path: item.label for item in listing.samples} == truth
    assert list(listing.samples) == sorted(listing.samples, key=lambda item: (item.label, item.path))
    assert listing.class_names == tuple(imagenet_names().values())


def truth_and(place: Path, numbers: dict[int, str], name: str) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    of = {wnid: number for number, wnid in numbers.items()}
    lines = "".join(f"{of.get(wnid, 1)}\n" for wnid in FLAT.values())
    (place / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    if name == "map_clsloc.txt":
        (place / name).write_text("".join(f"{wnid} {number} some_name\n" for number, wnid in numbers.items()))
    elif name:
        (place / name).write_bytes(b"MATLAB 5.0 MAT-file")
    return place


def solution(lines: str | None = None) -> str:
    rows = [f"ILSVRC2012_val_{number:08d},{wnid} 111 108 441 253 {wnid} 1 2 3 4 \n" for number, wnid in FLAT.items()]
    return "ImageId,PredictionString\n" + "".join(rows[::-1]) if lines is None else lines


@pytest.mark.parametrize("place", ["ImageNet/val", "ImageNet"])
def test_flat_images_with_the_published_solution(place: str, tmp_path: Path) -> None:
    flat(tmp_path / "ImageNet" / "val")
    (tmp_path / place / "LOC_val_solution.csv").write_text(solution())
    check_flat(tmp_path)
    check_flat(tmp_path, path=tmp_path / "ImageNet" / "val")
    assert "no images of its train split" in refused("imagenet", tmp_path, "train", path=tmp_path / "ImageNet" / "val")


@pytest.mark.parametrize(
    "place", ["imagenet/images/val", "imagenet/images", "imagenet/images/ILSVRC2012_devkit_t12/data"]
)
def test_flat_images_with_ilsvrc_numbers(place: str, tmp_path: Path) -> None:
    """ILSVRC's numbers are not in the order of the wnids: 490, not 66, is the sea snake of the first image."""
    flat(tmp_path / "imagenet" / "images" / "val")
    truth_and(tmp_path / place, class_numbers(), "map_clsloc.txt")
    assert class_numbers()[490] == FLAT[1] != WNIDS[489]
    check_flat(tmp_path)


def scipy_with(monkeypatch: pytest.MonkeyPatch, loadmat: Callable[..., Any]) -> None:
    module: Any = ModuleType("scipy.io")
    module.loadmat = loadmat
    monkeypatch.setitem(sys.modules, "scipy", ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.io", module)


def test_flat_images_with_the_development_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tmp_path / "imagenet" / "val")
    place = truth_and(tmp_path / "imagenet" / "ILSVRC2012_devkit_t12" / "data", class_numbers(), "meta.mat")
    # As scipy gives it: a structured array of objects. Inner nodes have numbers above 1,000.
    rows = [*class_numbers().items(), (1001, "n00001740"), (1002, "n00001930")]
    table = np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])

    def loadmat(path: str, *, squeeze_me: bool) -> dict[str, Any]:
        assert Path(path) == place / "meta.mat"
        assert squeeze_me
        return {"synsets": table}

    scipy_with(monkeypatch, loadmat)
    check_flat(tmp_path)


def test_a_damaged_development_kit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tmp_path / "imagenet" / "val")
    truth_and(tmp_path / "imagenet", class_numbers(), "meta.mat")
    for content in ({}, {"synsets": np.zeros(2)}):
        scipy_with(monkeypatch, lambda path, squeeze_me, content=content: content)
        assert_matches(r"meta\.mat is not the development kit's table", refused("imagenet", tmp_path))


def test_the_development_kit_needs_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tmp_path / "imagenet" / "val")
    truth_and(tmp_path / "imagenet", class_numbers(), "meta.mat")
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert_matches(r"needs scipy: pip install scipy, or put map_clsloc.txt or LOC_", refused("imagenet", tmp_path))


@pytest.mark.parametrize("companion", ["", "LOC_synset_mapping.txt", "imagenet_lsvrc_2015_synsets.txt"])
def test_ilsvrc_numbers_alone_are_refused(companion: str, tmp_path: Path) -> None:
    """Lists in the order of the wnids do not tell ILSVRC's numbers."""
    flat(tmp_path / "imagenet" / "val")
    truth_and(tmp_path / "imagenet", class_numbers(), "")
    if companion:
        (tmp_path / "imagenet" / companion).write_text("".join(f"{wnid} a name\n" for wnid in WNIDS))
    message = refused("imagenet", tmp_path)
    assert_matches(r"not in the order of the wnids: put meta\.mat .* or map_clsloc\.txt", message)


def test_flat_images_without_labels_are_refused(tmp_path: Path) -> None:
    flat(tmp_path / "imagenet" / "val")
    assert_matches(r"flat validation images without labels: put LOC_val_solution\.csv", refused("imagenet", tmp_path))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "has no columns ImageId and PredictionString"),
        ("ImageId,Label\n", "has no columns ImageId and PredictionString"),
        ("ImageId,PredictionString\n", r"the class of ILSVRC2012_val_0000000\d.JPEG is missing"),
        (solution().replace("n01751748 111", "n00000000 111"), r"_00000001.JPEG is n00000000, no wnid of ImageNet"),
        ("ImageId,PredictionString\nILSVRC2012_val_00000001\n", "_00000001.JPEG is empty"),
    ],
)
def test_damaged_solutions_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    flat(tmp_path / "imagenet" / "val")
    (tmp_path / "imagenet" / "LOC_val_solution.csv").write_text(lines)
    assert_matches(message, refused("imagenet", tmp_path))


def test_class_numbers_must_cover_all_classes(tmp_path: Path) -> None:
    flat(tmp_path / "imagenet" / "val")
    good = class_numbers()
    for bad in (
        {number: good[number] for number in range(1, 1000)},
        {**good, 7: good[8]},
        {number - 1: wnid for number, wnid in good.items()},
    ):
        truth_and(tmp_path / "imagenet", bad, "map_clsloc.txt")
        assert_matches(r"map_clsloc\.txt does not give .* 1 to 1000", refused("imagenet", tmp_path))


@pytest.mark.parametrize(("text", "number"), [("490\n1\n1000\n", "missing"), ("490\n1\n1001\n2\n", "1001")])
def test_damaged_ground_truth_is_refused(text: str, number: str, tmp_path: Path) -> None:
    flat(tmp_path / "imagenet" / "val")
    truth_and(tmp_path / "imagenet", class_numbers(), "map_clsloc.txt")
    (tmp_path / "imagenet" / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    assert_matches(rf"the class of ILSVRC2012_val_0000000\d.JPEG, is {number}", refused("imagenet", tmp_path))


def test_label_files_must_be_text(tmp_path: Path) -> None:
    flat(tmp_path / "imagenet" / "val")
    (tmp_path / "imagenet" / "LOC_val_solution.csv").write_bytes(b"\xff\xfe\x00")
    assert_matches(r"LOC_val_solution\.csv is not a text file in UTF-8", refused("imagenet", tmp_path))
    (tmp_path / "imagenet" / "LOC_val_solution.csv").write_bytes(b"ImageId,PredictionString\n\0\0\n")
    assert_matches(r"LOC_val_solution\.csv is not a text file \(it holds NUL bytes\)", refused("imagenet", tmp_path))


# --- refusals -----------------------------------------------------------------------------------------------------


def assert_matches(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=pattern):
        raise UserError(message)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("imagenet-a", "did you mean imagenet_a?"),
        ("ImageNet-Sketch", "did you mean imagenet_sketch?"),
        ("Flower102", "did you mean flowers102?"),
        ("aircraft", "did you mean fgvc_aircraft?"),
        ("cars", "known are imagenet, imagenet_a,"),
        ("", "known are imagenet, imagenet_a,"),
    ],
)
def test_unknown_datasets_are_refused(key: str, hint: str, tmp_path: Path) -> None:
    assert refused(key, tmp_path).startswith(f"there is no benchmark {key!r}: {hint}")


@pytest.mark.parametrize(
    ("key", "split", "splits"),
    [("imagenet_a", "val", "test"), ("imagenet_v2", "train", "test"), ("dtd", "valid", "train or val or test")],
)
def test_unknown_splits_are_refused(key: str, split: str, splits: str, tmp_path: Path) -> None:
    assert refused(key, tmp_path, split) == f"{key} has no {split!r} split: use {splits}"


def test_missing_folders_are_refused(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refused("dtd", missing) == f"data_root {missing}: no such folder"
    assert refused("dtd", tmp_path, path=missing) == f"path {missing}: no such folder"
    assert refused("dtd", tmp_path, splits=missing) == f"splits {missing}: no such folder"


@pytest.mark.parametrize("key", BENCHMARKS)
def test_a_dataset_that_is_not_there_is_reported_with_every_place(key: str, tmp_path: Path) -> None:
    message = refused(key, tmp_path)
    assert message.startswith(f"{key}: no images of its test split in {tmp_path}/")
    assert "put them into one of these folders, or name the dataset's folder with path" in message
    for (other, _), (_, folder) in FOLDERS.items():
        assert other != key or folder in message
    assert len(message.removeprefix(str(tmp_path))) < 400


def test_a_split_file_that_is_not_there_is_reported_with_every_place(tmp_path: Path) -> None:
    written = miniature.write("dtd", "coop", tmp_path / "data")
    file = tmp_path / "data" / "dtd" / SPLIT_FILES["dtd"]
    file.unlink()
    message = refused("dtd", tmp_path / "data", splits=tmp_path)
    assert message == (
        f"dtd: no list of its images (split_zhou_DescribableTextures.json) in {tmp_path}, "
        f"{tmp_path}/data/{{dtd, dtd/images, data_splits, splits}}: put it into one of these folders, or name its "
        "folder with splits"
    )
    assert written.folder.is_dir()


def test_lists_of_aircraft_that_are_not_there_are_reported(tmp_path: Path) -> None:
    miniature.write("fgvc_aircraft", "coop", tmp_path)
    lists = tmp_path / "fgvc_aircraft"
    (lists / "variants.txt").unlink()
    assert_matches(r"variants\.txt cannot be read \(No such file", refused("fgvc_aircraft", tmp_path))
    (lists / "images_variant_test.txt").unlink()
    message = refused("fgvc_aircraft", tmp_path)
    assert_matches(r"no list of its images at .*fgvc_aircraft/images_variant_test\.txt.*: put it there", message)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("images_variant_test.txt", "0000001 707-32\n", r"line '0000001 707-32' names no variant"),
        ("images_variant_test.txt", "0000001\n", r"line '0000001' names no variant"),
        ("images_variant_test.txt", "../1 707-320\n", r"path '\.\./1' leads out"),
        ("images_variant_test.txt", "\n", r"images_variant_test\.txt lists no images"),
        ("variants.txt", "707-320\n707-320\n", r"variants\.txt has a variant twice"),
        ("variants.txt", "707-320\n", r"names no variant"),
        ("variants.txt", b"\xff\xfe", r"variants\.txt is not a text file in UTF-8"),
    ],
)
def test_damaged_lists_of_aircraft_are_refused(file: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    miniature.write("fgvc_aircraft", "coop", tmp_path)
    (tmp_path / "fgvc_aircraft" / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_matches(message, refused("fgvc_aircraft", tmp_path))


def test_a_wrong_number_of_variants_is_refused(tmp_path: Path) -> None:
    miniature.write("fgvc_aircraft", "coop", tmp_path)
    with (tmp_path / "fgvc_aircraft" / "variants.txt").open("a") as file:
        file.write("Concorde\n")
    assert_matches(
        r"images_variant_test\.txt has 101 classes, but the dataset has 100", refused("fgvc_aircraft", tmp_path)
    )


@pytest.mark.parametrize("key", ["imagenet_a", "imagenet_r"])
def test_missing_empty_and_foreign_class_folders_are_named(key: str, tmp_path: Path) -> None:
    written = miniature.write(key, "coop", tmp_path)
    wnid = miniature.class_folders(key)[7]
    (written.folder / wnid / f"{wnid}_0.JPEG").unlink()
    assert refused(key, tmp_path) == (
        f"{key}: class folder {written.folder / wnid} holds no image: unpack the dataset again"
    )
    (written.folder / wnid).rmdir()
    assert refused(key, tmp_path) == f"{key}: class folder {written.folder / wnid} is missing: unpack the dataset again"
    other = next(each for each in WNIDS if each not in miniature.class_folders(key))
    miniature.put(written.folder, f"{other}/1.jpg")
    assert refused(key, tmp_path) == (
        f"{key}: class folder {written.folder / other} is none of its 200 classes: move it away"
    )


@pytest.mark.parametrize("name", ["1000", "007", "tench", "n01440764"])
def test_foreign_folders_of_imagenet_v2_are_named(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "imagenetv2-matched-frequency-format-val"
    miniature.put(folder, "0/a.jpeg", f"{name}/a.jpeg")
    assert_matches(rf"class folder {folder}/{name} is none of its 1000 classes", refused("imagenet_v2", tmp_path))


def read_split(root: Path, content: Any) -> Any:
    """EuroSAT with a split file of that content, as text or as what JSON has."""
    if not (root / "eurosat").is_dir():
        miniature.write("eurosat", "coop", root)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "eurosat" / SPLIT_FILES["eurosat"]).write_text(text)
    return read_benchmark("eurosat", root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"test": [', r"is not valid JSON \(Expecting value"),
        ("[" * 100_000, "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[]", "has no list 'test' of images"),
        ("{}", "has no list 'test' of images"),
        ('{"train": [["a.jpg", 0, "a"]]}', "has no list 'test' of images"),
        ('{"test": []}', "has no list 'test' of images"),
        ('{"test": {"a.jpg": 0}}', "has no list 'test' of images"),
        ('{"test": [["a.jpg", 0, "a"]], "train": 3}', "'train' is no list of images"),
    ],
)
def test_split_files_without_a_split_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^split file {tmp_path}/eurosat/split_zhou_EuroSAT\.json:? .*{message}"):
        read_split(tmp_path, content)


@pytest.mark.parametrize(
    "entry",
    [
        *("a.jpg", 3, None, [], ["a.jpg", 0], ["a.jpg", 0, "a", 1], [0, "a.jpg", "a"], ["a.jpg", "0", "a"]),
        *(["a.jpg", 0.0, "a"], ["a.jpg", True, "a"], ["a.jpg", -1, "a"], ["a.jpg", 0, None], ["a.jpg", 0, " "]),
    ],
)
@pytest.mark.parametrize("split", ["test", "train"])
def test_entries_of_another_form_are_refused(entry: Any, split: str, tmp_path: Path) -> None:
    content: dict[str, Any] = {**miniature.split_content("eurosat")}
    content[split] = [*content[split], entry]
    with pytest.raises(UserError, match=r"is not \[path, label, class name\]") as caught:
        read_split(tmp_path, content)
    assert f"entry {json.dumps(entry)} of {split!r}" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret.jpg",
        "a/../../b.jpg",
        "..",
        "a/..",
        "",
        "\\\\server\\a.jpg",
        "C:\\a.jpg",
        "a\\..\\b.jpg",
    ],
)
def test_paths_that_lead_out_are_refused(path: str, tmp_path: Path) -> None:
    content = miniature.split_content("eurosat")
    content["test"][4][0] = path
    with pytest.raises(UserError, match="leads out of the dataset's folder") as caught:
        read_split(tmp_path, content)
    assert f"split_zhou_EuroSAT.json: path {path!r}" in str(caught.value)


def test_dots_within_names_do_not_lead_out(tmp_path: Path) -> None:
    content = miniature.split_content("eurosat")
    content["test"][4][0] = "River/a..b...jpg"
    assert read_split(tmp_path, content)[0].samples[4].path == "River/a..b...jpg"


def test_labels_with_gaps_or_two_names_are_refused(tmp_path: Path) -> None:
    content = miniature.split_content("eurosat")
    for entries in content.values():
        entries[:] = [entry for entry in entries if entry[1] != 4]
    with pytest.raises(UserError, match="labels go up to 9 but none is 4"):
        read_split(tmp_path, content)
    content = miniature.split_content("eurosat")
    content["val"][3][2] = "Road"
    with pytest.raises(UserError, match="class 3 is called 'Highway or Road' and, at Highway/Highway_2.jpg, 'Road'"):
        read_split(tmp_path, content)


def test_a_wrong_number_of_classes_is_refused(tmp_path: Path) -> None:
    content = miniature.split_content("eurosat")
    for entries in content.values():
        entries[:] = [entry for entry in entries if entry[1] != 9]
    with pytest.raises(UserError, match=r"^eurosat: .*EuroSAT\.json has 9 classes, but the dataset has 10"):
        read_split(tmp_path, content)


def test_fewer_images_are_no_mistake_and_a_split_need_not_have_every_class(tmp_path: Path) -> None:
    content = miniature.split_content("eurosat")
    content["test"] = content["test"][:2]
    listing, _ = read_split(tmp_path, content)
    assert [item.label for item in listing.samples] == [9, 8]
    assert len(listing.class_names) == 10


def test_folders_that_systems_make_are_no_classes_of_a_benchmark(tmp_path: Path) -> None:
    written = miniature.write("imagenet_a", "tpt", tmp_path)
    miniature.put(written.folder, "@eaDir/x.jpg", "__MACOSX/x.jpg", ".ipynb_checkpoints/x.jpg")
    assert read_benchmark("imagenet_a", tmp_path)[0].samples == tuple(Sample(*item) for item in written.items)
    miniature.put(written.folder, "mine/x.jpg")
    assert "mine is none of its 200 classes" in refused("imagenet_a", tmp_path)


def test_images_are_looked_for_along_the_whole_list() -> None:
    items = [Sample(f"{number}.jpg", 0) for number in range(1000)]
    numbers = [int(item.path[:-4]) for item in looked_for(items)]
    assert (numbers[0], numbers[-1], len(set(numbers))) == (0, 999, 32)
    steps = [after - before for before, after in pairwise(numbers)]
    assert max(steps) - min(steps) <= 1
    assert list(looked_for(items[:32])) == items[:32]
    assert len(looked_for(items[:33])) == 32


def test_the_layout_that_holds_most_is_taken(tmp_path: Path) -> None:
    first = miniature.write("eurosat", "coop", tmp_path)
    second = miniature.write("eurosat", "zero", tmp_path)
    for path, _ in first.items[:4]:
        (first.folder / path).unlink()
    (second.folder / second.items[9][0]).unlink()
    assert read_benchmark("eurosat", tmp_path)[1].layout == "zero"
    for path, _ in second.items[:8]:
        (second.folder / path).unlink()
    assert read_benchmark("eurosat", tmp_path)[1].layout == "coop"


@pytest.mark.parametrize("kept", [0, 4, 9])
def test_a_dataset_is_there_if_any_of_the_images_looked_for_is(kept: int, tmp_path: Path) -> None:
    written = miniature.write("eurosat", "coop", tmp_path)
    for place, (path, _) in enumerate(written.items):
        if place != kept:
            (written.folder / path).unlink()
    listing, located = read_benchmark("eurosat", tmp_path)
    assert len(listing.samples) == 10
    assert located.absent == tuple(path for place, (path, _) in enumerate(written.items) if place != kept)
    (problem,) = problems(BENCHMARKS["eurosat"], listing, located)
    assert problem.startswith("of the 10 listed images that were looked for, 9 are missing, the first is ")
    (written.folder / written.items[kept][0]).unlink()
    assert "(first: SeaLake/SeaLake_3.jpg)" in refused("eurosat", tmp_path)


@pytest.mark.parametrize("name", ["split_coop.csv", "labels.csv", "metadata.csv"])
def test_nul_bytes_in_a_table_are_one_line(tmp_path: Path, name: str) -> None:
    """Python 3.10's reader of CSV raises for them, later ones take them."""
    tables = {
        "split_coop.csv": "filename,split\na.jpg,test\n",
        "labels.csv": "filename,class_idx\na.jpg,0\n",
        "metadata.csv": "class_name\ncar\n",
    }
    for each, text in tables.items():
        (tmp_path / each).write_text(text + "\0" * 9 * (each == name), encoding="utf-8")
    with pytest.raises(
        UserError, match=rf"{name} is not a text file \(it holds NUL bytes\): put it there, or fetch the dataset again"
    ):
        read_cars_tables(tmp_path / "split_coop.csv", "test")
