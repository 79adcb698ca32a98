"""A dataset of one's own: images and labels from a table."""

import csv
from pathlib import Path

from lorattt.data.datamodule import EpisodeData
from lorattt.data.listing import Item, ListedImages, Listing
from lorattt.errors import UserError


class TableData(EpisodeData):
    """Images and labels from a CSV file with the columns ``path`` and ``label``.

    Args:
        table: The file. Paths in it are relative to its folder, labels are class names.
        batch_size: Images adapted at once. Predictions do not depend on it.
        workers: Processes that read images and make views.
        limit: Use only so many images, evenly spread; all where null.

    Raises:
        UserError: If the file cannot be read or has no such columns.
    """

    def __init__(self, table: str, *, batch_size: int = 8, workers: int = 2, limit: int | None = None) -> None:
        file = Path(table).expanduser()
        try:
            with file.open(newline="", encoding="utf-8") as opened:
                rows = [(row["path"], row["label"]) for row in csv.DictReader(opened)]
        except OSError as error:
            raise UserError(f"data.table {file}: {error.strerror}") from error
        except KeyError as error:
            raise UserError(f"data.table {file}: there is no column {error}: it needs path and label") from error
        names = sorted({label for _, label in rows})
        items = tuple(Item(path, names.index(label)) for path, label in rows)
        super().__init__(
            ListedImages(file.stem, Listing(file.parent, items, tuple(names))),
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            on_bad_image="error",
        )
