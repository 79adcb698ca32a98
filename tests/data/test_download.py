"""Downloads without a network: torchvision's classes are replaced by ones that write, or fail. And CIFAR's reader."""

import hashlib
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torchvision.datasets

from lorattt.data.catalogue import BENCHMARKS
from lorattt.data.download import DOWNLOADABLE, CifarImages, download
from lorattt.errors import UserError

CLASSES = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}


def replace(monkeypatch: pytest.MonkeyPatch, key: str, act: Callable[[Path], None]) -> None:
    """Have torchvision's class of a dataset do something else with its root."""

    def dataset(root: str, *, download: bool) -> None:
        assert download is True
        act(Path(root))

    monkeypatch.setattr(torchvision.datasets, DOWNLOADABLE[key], dataset)


def raising(error: Exception) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        raise error

    return act


@pytest.mark.parametrize("key", DOWNLOADABLE)
def test_torchvision_is_asked_to_download_into_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    parameters = inspect.signature(getattr(torchvision.datasets, DOWNLOADABLE[key])).parameters
    assert "download" in parameters
    assert [name for name, each in parameters.items() if each.default is each.empty] == ["root"]
    roots: list[Path] = []
    replace(monkeypatch, key, roots.append)
    download(key, tmp_path / "new" / "data")
    assert roots == [tmp_path / "new" / "data"]
    assert roots[0].is_dir()


def test_the_catalogue_names_the_same_classes() -> None:
    named = {benchmark.key: benchmark.torchvision for benchmark in BENCHMARKS.values() if benchmark.torchvision}
    assert named == {key: name for key, name in DOWNLOADABLE.items() if not key.startswith("cifar")}
    assert named.keys() == {
        *("flowers102", "dtd", "oxford_pets", "food101", "sun397", "fgvc_aircraft", "eurosat", "caltech101")
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("File not found or corrupted."), "File not found or corrupted"),
        (URLError("[Errno -2] Name or service not known"), "<urlopen error [Errno -2] Name or service not known>"),
        (HTTPError("https://x.org", 404, "Not Found", {}, None), "HTTP Error 404: Not Found"),  # type: ignore[arg-type]
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("several\nlines"), "several"),
        (EOFError(), "EOFError"),
        (ModuleNotFoundError("No module named 'gdown'", name="gdown"), "No module named 'gdown'"),
    ],
)
def test_a_failure_is_one_line_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    replace(monkeypatch, "dtd", raising(error))
    with pytest.raises(UserError) as caught:
        download("dtd", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"dtd: the download into {tmp_path} failed: {reason}; ")
    assert "by hand" in message
    assert "`lorattt data check`" in message
    assert "\n" not in message


@pytest.mark.parametrize(("key", "note"), [("caltech101", "gdown"), ("sun397", "37 GB")])
def test_known_troubles_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, note: str) -> None:
    replace(monkeypatch, key, raising(RuntimeError("no")))
    with pytest.raises(UserError, match=note):
        download(key, tmp_path)


@pytest.mark.parametrize("name", ["scipy", "scipy.io"])
def test_scipy_is_not_needed_for_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def act(root: Path) -> None:
        (root / "flowers-102").mkdir()
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    replace(monkeypatch, "flowers102", act)
    download("flowers102", tmp_path)
    assert (tmp_path / "flowers-102").is_dir()


def test_an_interrupt_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def act(root: Path) -> None:
        raise KeyboardInterrupt

    replace(monkeypatch, "dtd", act)
    with pytest.raises(KeyboardInterrupt):
        download("dtd", tmp_path)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("stanford_cars", r"^stanford_cars cannot be downloaded \(its server is gone.*\): fetch it by hand"),
        ("imagenet", r"^imagenet cannot be downloaded \(torchvision fetches only flowers102, .*: fetch it by hand"),
        ("flowers", r"did you mean flowers102\? Otherwise fetch it by hand; `lorattt data check`"),
        ("stanford_car", r"did you mean stanford_cars\?"),
    ],
)
def test_what_cannot_be_downloaded_is_refused(tmp_path: Path, key: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        download(key, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_torchvision_still_cannot_download_stanford_cars() -> None:
    with pytest.raises(ValueError, match="cannot be downloaded anymore"):
        torchvision.datasets.StanfordCars.download(object())


def test_a_file_is_no_data_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=rf"^data\.data_root {re.escape(str(tmp_path))}/file is a file"):
        download("dtd", tmp_path / "file")


def put_cifar(
    root: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[np.ndarray[Any, Any], list[int]]]:
    """A CIFAR folder of torchvision's format with 3 images a file; its checksums become the expected ones."""
    dataset = CLASSES[key]
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    names = ["apple", "aquarium_fish", "baby"] if key == "cifar100" else ["airplane", "automobile", "bird"]
    label_key = "fine_labels" if key == "cifar100" else "labels"
    pixels: dict[str, list[np.ndarray[Any, Any]]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}

    def dump(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for split, attribute in (("train", "train_list"), ("test", "test_list")):
        sums = []
        for name, _ in getattr(dataset, attribute):
            rows = noise.integers(0, 256, (3, 3072), dtype=np.uint8)
            chosen = noise.integers(0, 3, 3).tolist()
            sums.append([name, dump(name, {"data": rows, label_key: chosen})])
            pixels[split].append(rows)
            labels[split] += chosen
        monkeypatch.setattr(dataset, attribute, sums)
    meta = {**dataset.meta, "md5": dump(dataset.meta["filename"], {dataset.meta["key"]: names})}
    monkeypatch.setattr(dataset, "meta", meta)
    return {split: (np.concatenate(pixels[split]), labels[split]) for split in pixels}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("key", ["cifar10", "cifar100"])
def test_cifar_is_read_from_torchvisions_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, split: str
) -> None:
    rows, labels = put_cifar(tmp_path, key, monkeypatch)[split]
    source = CifarImages(key, tmp_path, split)
    assert len(source) == len(rows)
    assert source.name == f"{key}-{split}"
    assert source.class_names[1] == ("aquarium fish" if key == "cifar100" else "automobile")
    for index in range(len(rows)):
        assert source.path(index) == f"{split}/{index:05d}"
        assert source.label(index) == labels[index]
        image = source.read(index)
        assert (image.mode, image.size) == ("RGB", (32, 32))
        # Rows hold the red plane, the green and the blue.
        assert np.array_equal(np.asarray(image), rows[index].reshape(3, 32, 32).transpose(1, 2, 0))


def test_what_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cifar(tmp_path, "cifar100", monkeypatch)
    monkeypatch.setattr(
        "torchvision.datasets.cifar.download_and_extract_archive", lambda *_, **__: pytest.fail("asked")
    )
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    download("cifar100", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("damage", ["missing", "file", "meta", "bytes"])
def test_missing_or_damaged_cifar_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    if damage != "missing":
        put_cifar(tmp_path, "cifar10", monkeypatch)
        folder = tmp_path / "cifar-10-batches-py"
        if damage == "bytes":
            (folder / "data_batch_3").write_bytes(b"x")
        else:
            (folder / ("test_batch" if damage == "file" else "batches.meta")).unlink()
    with pytest.raises(UserError, match="files of cifar10 are missing or damaged: set data.download") as caught:
        CifarImages("cifar10", tmp_path, "test")
    assert str(caught.value).startswith(str(tmp_path / "cifar-10-batches-py"))


def test_unknown_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cifar10 has no split 'val': use train or test"):
        CifarImages("cifar10", tmp_path, "val")
