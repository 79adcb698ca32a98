"""The views of a few images of a run with those marked that its method kept, computed again. Loads torch and models.

The files of a run do not say which views were kept. They are a function of the image, its number and the seed, so that
the run's own method finds them again; an image is shown only where that method's prediction and confidence, computed
again too, are those that the run wrote down.
"""

import importlib
import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lorattt.errors import UserError
from lorattt.report.pictures import data_of, lead, thumbnail
from lorattt.report.predictions import WHEN
from lorattt.report.runs import SHARED_ARGUMENTS, Run

_DATA: Final = {
    "DemoData": "lorattt.data.demo",
    "BenchmarkData": "lorattt.data.benchmark",
    "ImageFolderData": "lorattt.data.folder",
}
_TOLERANCE: Final = 0.01  # of a confidence: another machine adds up in another order, and a run may have rounded
_COLUMNS: Final = 8
_TILE: Final = 72
_FRAME: Final = 5
_KEPT: Final = (213, 94, 0)


def view_sheets(run: Run, rows: NDArray[np.int64]) -> tuple[dict[int, dict[str, str]], str]:
    """Sheets of all views of some images, by their rows in the run's predictions; and why there is none, or nothing.

    A sheet has an ``address``, or none, and what it is ``about``.
    """
    import torch

    try:
        data, method = _data(run), _method(run)
        method.template = getattr(data, "template", None)
        names = method.class_names or data.class_names
        if not names:
            return {}, "its configuration names no classes"
        if not method.needs.all_views:
            return {}, "its method reads the plain view alone"
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        method.to(device).eval()
        method.use_classes(names)
        return {int(row): _sheet(run, data.source, method, int(row), device) for row in rows}, ""
    except UserError as error:
        return {}, str(error)


def _data(run: Run) -> Any:
    name, arguments = data_of(run)
    if name not in _DATA:
        raise UserError(f"the images of {name or 'an unknown kind of data'} cannot be read again")
    kind = getattr(importlib.import_module(_DATA[name]), name)
    return kind(**_converted(kind, {**arguments, "workers": 0}, "data"))


def _method(run: Run) -> Any:
    from lorattt.methods.registry import build_method, find_method

    arguments = run.method_arguments
    for key, file in (("clip", "pretrained"), ("prompt", "file")):
        stated = arguments.get(key)
        # A name of weights or of a prompt is no file.
        if isinstance(stated, dict) and os.path.isfile(found := lead(run, str(stated.get(file)))):
            arguments[key] = {**stated, file: found}
    shared = {key: arguments.pop(key) for key in SHARED_ARGUMENTS if key in arguments}
    # Several methods share a null for what is another method's default.
    common = {key: value for key, value in shared.items() if value is not None}
    return build_method(
        run.method, arguments, prefix="model.", seed=run.seed, **_converted(find_method(run.method), common, "model")
    )


def _converted(kind: type, values: dict[str, Any], place: str) -> dict[str, Any]:
    """Those of the plain values that are arguments of a class, as the types that these are declared to be."""
    from lorattt.methods.registry import arguments_of, convert

    hints = arguments_of(kind)
    return {key: convert(hints[key], f"{place}.{key}", value) for key, value in values.items() if key in hints}


def _sheet(run: Run, source: Any, method: Any, row: int, device: Any) -> dict[str, str]:
    import torch

    from lorattt.data.images import UnreadableImageError
    from lorattt.ranking import top_k

    index = int(run.predictions.index[row])
    try:
        views = method.make_views()(source.read(index), index)
    except UnreadableImageError as error:
        return {"about": f"No views: {error}"}
    batch = {"views": views.unsqueeze(0).to(device), "index": torch.tensor([index], device=device)}
    shared = method.encode_views(batch)
    found = method.prediction_of(shared)
    for when in WHEN:
        logits = found[when]
        sure = float(logits[0].float().softmax(-1).max())
        stated = float(run.predictions.confidence[when][row])
        same = int(top_k(logits, 1)) == int(run.predictions.prediction[when][row])
        if not (same and abs(sure - stated) <= _TOLERANCE):
            text = f"No views: computed again, the prediction {when} is not the one that the run wrote down"
            return {"about": f"{text} (confidence {sure:.4f}, was {stated:.4f})."}
    chosen = method.kept(shared)
    kept: list[int] = [] if chosen is None else chosen[0].tolist()
    about = f"All {views.shape[0]} views, the plain one first, then by rows. "
    if chosen is None:
        about += "The method has no rule that keeps some of them."
    else:
        about += f"Framed: the {len(kept)} that the method kept. Their numbers, the plain one being 0, by rank: "
        about += f"{', '.join(map(str, kept))}."
    return {"address": draw_sheet(views.permute(0, 2, 3, 1).numpy(), kept), "about": about}


def draw_sheet(views: NDArray[np.uint8], kept: list[int]) -> str:
    """``(V, S, S, 3)`` views in rows of eight as one picture, the kept ones framed; a ``data:`` address."""
    step = _TILE + 2 * _FRAME
    lines = -(-len(views) // _COLUMNS)
    sheet = Image.new("RGB", (step * min(_COLUMNS, len(views)), step * lines), "white")
    pen = ImageDraw.Draw(sheet)
    for number, view in enumerate(views):
        top, left = step * (number // _COLUMNS), step * (number % _COLUMNS)
        if number in kept:
            pen.rectangle((left, top, left + step - 1, top + step - 1), fill=_KEPT)
        sheet.paste(Image.fromarray(view).resize((_TILE, _TILE)), (left + _FRAME, top + _FRAME))
    return thumbnail(sheet, side=max(sheet.size))
