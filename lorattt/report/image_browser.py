"""The data of the page's image browser: which images of a run, which of them with pictures, and their columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.data.images import UnreadableImageError
from lorattt.errors import one_line, shortened
from lorattt.report.escape import visible
from lorattt.report.pictures import Pictures, thumbnail
from lorattt.report.predictions import WHEN, Predictions
from lorattt.report.runs import Run
from lorattt.report.topk import TopK, share_of

Rows = NDArray[np.int64]
_LONGEST_NAME: Final = 1000


def movement(predictions: Predictions) -> NDArray[np.float64]:
    """``(N,)`` how far images moved: confidence, negative where wrong, after less before; NaN where not known."""
    signed = [
        np.where(predictions.prediction[when] == predictions.label, 1, -1) * predictions.confidence[when]
        for when in WHEN
    ]
    moved: NDArray[np.float64] = np.where(predictions.known, signed[1] - signed[0], np.nan)
    return moved


def _by_interest(predictions: Predictions) -> tuple[Rows, int]:
    """All rows: won and lost ones first, each by falling movement, then the others; and how many were won or lost.

    Won and lost take turns, so that any number from the front has both.
    """
    right = {when: predictions.prediction[when] == predictions.label for when in WHEN}
    # Where the label is not known, changed predictions come before others.
    changed = predictions.prediction["before"] != predictions.prediction["after"]
    moved = np.abs(movement(predictions))
    moved = np.where(np.isnan(moved), np.where(changed, -0.5, -1.0), moved)
    ranked = np.argsort(-moved, kind="stable")
    won = (right["after"] & ~right["before"] & predictions.known)[ranked]
    lost = (right["before"] & ~right["after"] & predictions.known)[ranked]
    turn = np.concatenate([2 * np.arange(won.sum()), 2 * np.arange(lost.sum()) + 1])
    first = np.concatenate([ranked[won], ranked[lost]])[np.argsort(turn, kind="stable")]
    return np.concatenate([first, ranked[~(won | lost)]]), len(first)


def choose_rows(predictions: Predictions, most: int) -> Rows:
    """Which images a page holds, rising: all, or those won and lost first, then evenly spread ones of the others."""
    count = len(predictions.index)
    if count <= most:
        return np.arange(count)
    order, changed = _by_interest(predictions)
    if changed >= most:
        return np.sort(order[:most])
    others = np.sort(order[changed:])
    spread = others[np.floor(np.arange(most - changed) * len(others) / (most - changed)).astype(np.int64)]
    return np.sort(np.concatenate([order[:changed], spread]))


def choose_pictured(predictions: Predictions, number: int) -> Rows:
    """Which images have their pictures in a page: the won and lost ones that moved most, then others that did."""
    return _by_interest(predictions)[0][:number]


def columns(predictions: Predictions, top_k: TopK, rows: Rows, images: Mapping[int, int]) -> dict[str, Any]:
    """A run's rows as the browser reads them.

    Args:
        predictions: The run's.
        top_k: The classes listed for its images.
        rows: Which images.
        images: Where an image, by its row, stands in the list of paths.
    """
    listed = {when: top_k.classes[when][rows] for when in WHEN}
    widest = max(1, int(max((each >= 0).sum(axis=1).max(initial=1) for each in listed.values())))
    return {
        "index": predictions.index[rows].tolist(),
        "image": [images[int(row)] for row in rows],
        "label": predictions.label[rows].tolist(),
        "before": predictions.prediction["before"][rows].tolist(),
        "after": predictions.prediction["after"][rows].tolist(),
        "sureBefore": share_of(predictions.confidence["before"][rows]).tolist(),
        "sureAfter": share_of(predictions.confidence["after"][rows]).tolist(),
        "listed": widest,
        "listBefore": listed["before"][:, :widest].reshape(-1).tolist(),
        "listAfter": listed["after"][:, :widest].reshape(-1).tolist(),
        "shareBefore": top_k.shares["before"][rows, :widest].reshape(-1).tolist(),
        "shareAfter": top_k.shares["after"][rows, :widest].reshape(-1).tolist(),
        "fallback": np.flatnonzero(top_k.fallback[rows]).tolist(),
    }


def browser_data(
    runs: Sequence[Run],
    titles: Sequence[str],
    top_k: Mapping[int, TopK],
    *,
    pictured: int,
    most: int,
    views: Mapping[int, Mapping[int, dict[str, str]]],
    messages: list[str],
) -> dict[str, Any]:
    """All blocks of data of the browser, by the ids of their elements.

    Args:
        runs: The runs, those with labels of one dataset on the same images.
        titles: What each is called.
        top_k: Of the runs, by their identities.
        pictured: How many images of a run have their pictures in the page.
        most: How many images the page lists, of all runs together; each run has an equal part.
        views: Of some runs, by their identities, the sheets of views by row.
        messages: Gets a line for each set of images of which no picture could be read.
    """
    each = max(1, most // max(1, len(runs)))
    chosen = {id(run): choose_rows(run.predictions, each) for run in runs}
    changing = [number for number, run in enumerate(runs) if _by_interest(run.predictions)[1]]
    found: dict[str, Any] = {"about": {"first": changing[0] if changing else 0, "runs": []}}
    sets = list(dict.fromkeys(map(_images_of, runs)))
    places: dict[str, dict[int, int]] = {}
    for number, images in enumerate(sets):
        mine = [run for run in runs if _images_of(run) == images]
        shown: set[int] = set()
        for run in mine:
            with_picture = choose_pictured(run.predictions, pictured)
            shown.update(with_picture.tolist())
            chosen[id(run)] = np.union1d(chosen[id(run)], with_picture)
        rows = np.unique(np.concatenate([chosen[id(run)] for run in mine]))
        places[images] = {int(row): place for place, row in enumerate(rows)}
        paths = mine[0].predictions.path
        pictures = _pictures(mine[0], sorted(shown), places[images])
        found[f"images-{number}"] = {"paths": [_shown(paths[row]) for row in rows], "pictures": pictures}
        problems = [picture["problem"] for picture in pictures.values() if "problem" in picture]
        if problems and len(problems) == len(pictures):
            others = f" and {len(mine) - 1} more run(s)" if len(mine) > 1 else ""
            messages.append(f"no pictures of {mine[0].folder}{others}: {problems[0]}")
    for number, (run, title) in enumerate(zip(runs, titles, strict=True)):
        rows = chosen[id(run)]
        place = places[_images_of(run)]
        found[f"run-{number}"] = columns(run.predictions, top_k[id(run)], rows, place)
        note = ""
        if run.corruption is not None:
            note = f"Pictures are shown without the corruption ({run.corruption.name} {run.corruption.severity})."
        found["about"]["runs"].append(
            {
                "title": _shown(title),
                "images": sets.index(_images_of(run)),
                "n": len(run.predictions.index),
                "note": _shown(note),
                "names": {str(label): _shown(name) for label, name in sorted(top_k[id(run)].names.items())},
            }
        )
        if views.get(id(run)):
            found[f"views-{number}"] = {str(place[row]): sheet for row, sheet in views[id(run)].items()}
    return found


def _images_of(run: Run) -> str:
    """A name of the images of a run: runs with labels of one dataset have the same ones."""
    return run.dataset if run.labelled else f"{run.dataset} of {run.folder}"


def _pictures(run: Run, rows: Sequence[int], places: Mapping[int, int]) -> dict[str, dict[str, str]]:
    source, paths = Pictures(run), run.predictions.path
    found = {}
    for row in rows:
        try:
            found[str(places[row])] = {"address": thumbnail(source.read(paths[row]))}
        except UnreadableImageError as error:
            found[str(places[row])] = {"problem": _shown(one_line(error).rstrip("."))}
    return found


def _shown(text: str) -> str:
    """A text on one line, without invisible characters; the page's script needs no other escape."""
    short = shortened(text, _LONGEST_NAME)
    return short if short.isascii() and short.isprintable() else visible(short)
