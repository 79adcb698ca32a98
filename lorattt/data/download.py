"""Datasets that torchvision can fetch, and its CIFAR folders as sources of images."""

from pathlib import Path
from typing import Any, Final

from PIL import Image

from lorattt.data.catalogue import BENCHMARKS
from lorattt.data.file_list import FileList, ListedImages, Sample
from lorattt.errors import UserError, first_line, quoted
from lorattt.inputs import nearest

DOWNLOADABLE: Final[dict[str, str]] = {
    **{each.key: each.torchvision for each in BENCHMARKS.values() if each.torchvision},
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
"""Key to torchvision's class; the catalogue's other datasets are fetched by hand."""
_NOTES: Final = {each.key: each.download_note for each in BENCHMARKS.values() if each.download_note}
_CHECK: Final = "`lorattt data check` tells which files are expected where"


def download(key: str, data_root: Path) -> None:
    """Fetch a dataset into ``data_root``, under the folder names that torchvision uses, unless it is there already."""
    if key not in DOWNLOADABLE:
        near = nearest(key, [*DOWNLOADABLE, *_NOTES])
        hint = f"did you mean {near}? Otherwise fetch" if near and near != key else "fetch"
        reason = _NOTES.get(key, f"torchvision fetches only {', '.join(DOWNLOADABLE)}")
        raise UserError(f"{key} cannot be downloaded ({reason}): {hint} it by hand; {_CHECK}")
    if data_root.exists() and not data_root.is_dir():
        raise UserError(f"data.data_root {data_root} is a file: name a folder")
    try:
        data_root.mkdir(parents=True, exist_ok=True)
        _torchvision_class(key)(str(data_root), download=True)
    except Exception as error:  # of the network, the disk, a checksum, an archive
        # Some classes read labels with scipy once all files are in place; lorattt reads them itself.
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "scipy":
            return
        reason = first_line(error).rstrip(".") + (f" ({_NOTES[key]})" if key in _NOTES else "")
        failed = f"{key}: the download into {data_root} failed: {reason}"
        raise UserError(f"{failed}; try again, or fetch it by hand: {_CHECK}") from error


def _torchvision_class(key: str) -> Any:
    import torchvision.datasets  # slow to import, and needed for a download alone

    return getattr(torchvision.datasets, DOWNLOADABLE[key])


class CifarImages(ListedImages):
    """CIFAR-10 or CIFAR-100 as torchvision keeps it, in a folder ``cifar-10-batches-py`` or ``cifar-100-python``.

    All pixels are in memory, 3 kB an image. An image's path is its split, ``train`` or ``test``, and number.
    """

    def __init__(self, key: str, data_root: Path, split: str) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{key} has no split {quoted(split)}: use train or test")
        dataset_class = _torchvision_class(key)
        folder = data_root / dataset_class.base_folder
        try:
            dataset = dataset_class(str(data_root), train=split == "train", download=False)
        except Exception as error:  # RuntimeError where files are missing or their checksums wrong, OSError, pickle's
            bad = f"{folder}: files of {key} are missing or damaged"
            raise UserError(f"{bad}: set data.download to true, or correct data.data_root") from error
        samples = tuple(Sample(f"{split}/{place:05d}", int(label)) for place, label in enumerate(dataset.targets))
        names = tuple(str(name).replace("_", " ") for name in dataset.classes)
        super().__init__(f"{key}-{split}", FileList(folder, samples, names))
        self._pixels = dataset.data

    def read(self, index: int) -> Image.Image:
        """The image, RGB, 32 x 32."""
        return Image.fromarray(self._pixels[index])
