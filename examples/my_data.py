"""A dataset of one's own: images and labels from a table."""

import csv
from pathlib import Path
from typing import Any

from lorattt.data.datamodule import EpisodeData
from lorattt.data.file_list import FileList, ListedImages, Sample
from lorattt.errors import UserError


class TableData(EpisodeData):
    """Images and labels from a CSV file with the columns ``path`` and ``label``.

    Args:
        table: The file. Paths in it are relative to its folder, labels are class names.
        kwargs: The arguments of every dataset: ``batch_size``, ``workers``, ``limit``, ...

    Raises:
        UserError: If the file cannot be read or has no such columns.
    """

    def __init__(self, table: str, **kwargs: Any) -> None:
        file = Path(table).expanduser()
        try:
            with file.open(newline="", encoding="utf-8") as opened:
                rows = [(row["path"], row["label"]) for row in csv.DictReader(opened)]
        except OSError as error:
            raise UserError(f"data.table {file}: {error.strerror}") from error
        except KeyError as error:
            raise UserError(f"data.table {file}: there is no column {error}: it needs path and label") from error
        names = sorted({label for _, label in rows})
        items = tuple(Sample(path, names.index(label)) for path, label in rows)
        super().__init__(ListedImages(file.stem, FileList(file.parent, items, tuple(names))), **kwargs)
