"""The data of the page's image browser: which images of a run, which of them with pictures, and their columns."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lorattt.data.images import UnreadableImageError
from lorattt.errors import one_line, shortened
from lorattt.report.escape import visible
from lorattt.report.pictures import Pictures, thumbnail
from lorattt.report.predictions import WHEN, Predictions, TopK, share_of
from lorattt.report.runs import Run

Rows = NDArray[np.int64]
Sheets = Mapping[int, Mapping[str, str]]  # of views by row of a run: a sheet's address, and what it is about
_LONGEST_NAME: Final = 1000


def movement(predictions: Predictions) -> NDArray[np.float64]:
    """``(N,)`` how far images moved: confidence, negative where wrong, after less before; NaN where not known."""
    right = {when: predictions.prediction[when] == predictions.label for when in WHEN}
    before, after = (np.where(right[when], 1, -1) * predictions.confidence[when] for when in WHEN)
    moved: NDArray[np.float64] = np.where(predictions.known, after - before, np.nan)
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


def _columns(predictions: Predictions, top_k: TopK, rows: Rows, images: Mapping[int, int]) -> dict[str, Any]:
    """A run's rows as the browser reads them; ``images`` are the places of rows in the list of paths."""
    listed = {when: top_k.classes[when][rows] for when in WHEN}
    widest = int(max((each >= 0).sum(axis=1).max(initial=1) for each in listed.values()))
    found: dict[str, Any] = {
        "index": predictions.index[rows].tolist(),
        "image": [images[int(row)] for row in rows],
        "label": predictions.label[rows].tolist(),
        "listed": widest,
        "fallback": np.flatnonzero(top_k.fallback[rows]).tolist(),
    }
    for when in WHEN:
        title = when.title()
        found[when] = predictions.prediction[when][rows].tolist()
        found[f"sure{title}"] = share_of(predictions.confidence[when][rows]).tolist()
        found[f"list{title}"] = listed[when][:, :widest].reshape(-1).tolist()
        found[f"share{title}"] = top_k.shares[when][rows, :widest].reshape(-1).tolist()
    return found


def browser_data(
    titled: Sequence[tuple[str, Run]], views: Mapping[int, Sheets], images: int, rows: int, messages: list[str]
) -> dict[str, Any]:
    """All blocks of data of the browser, by the ids of their elements.

    Args:
        titled: The runs with their titles.
        views: Of some runs, by their identities.
        images: How many images of a run have their pictures in the page.
        rows: How many images the page lists, of all runs together; each run has an equal part.
        messages: Gets a line for each set of images of which no picture could be read.
    """
    runs = [run for _, run in titled]
    most = max(1, rows // max(1, len(runs)))
    sets: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        # Runs with labels of one dataset have the same images.
        sets.setdefault(run.dataset if run.labelled else f"{run.dataset} of {run.folder}", []).append(number)
    first = next((number for number, run in enumerate(runs) if _by_interest(run.predictions)[1]), 0)
    about: list[dict[str, Any]] = [{}] * len(runs)
    found: dict[str, Any] = {"about": {"first": first, "runs": about}}
    for place, members in enumerate(sets.values()):
        mine = [runs[number] for number in members]
        with_picture = [choose_pictured(run.predictions, images) for run in mine]
        held = [choose_rows(run.predictions, most) for run in mine]
        chosen = [np.union1d(*rows_of) for rows_of in zip(held, with_picture, strict=True)]
        listed = np.unique(np.concatenate(chosen))
        places = {int(row): image for image, row in enumerate(listed)}
        pictures = _pictures(mine[0], np.unique(np.concatenate(with_picture)).tolist(), places)
        paths = mine[0].predictions.path
        found[f"images-{place}"] = {"paths": [_shown(paths[row]) for row in listed], "pictures": pictures}
        problems = [picture["problem"] for picture in pictures.values() if "problem" in picture]
        if problems and len(problems) == len(pictures):
            others = f" and {len(mine) - 1} more run(s)" if len(mine) > 1 else ""
            messages.append(f"no pictures of {mine[0].folder}{others}: {problems[0]}")
        for number, run, shown in zip(members, mine, chosen, strict=True):
            found[f"run-{number}"] = _columns(run.predictions, run.top_k, shown, places)
            about[number] = _about(run, titled[number][0], place)
            if views.get(id(run)):
                found[f"views-{number}"] = {str(places[row]): sheet for row, sheet in views[id(run)].items()}
    return found


def _about(run: Run, title: str, images: int) -> dict[str, Any]:
    corruption = run.corruption and f"{run.corruption.name} {run.corruption.severity}"
    return {
        "title": _shown(title),
        "images": images,
        "n": len(run.predictions.index),
        "note": _shown(f"Pictures are shown without the corruption ({corruption}).") if corruption else "",
        "names": {str(label): _shown(name) for label, name in sorted(run.top_k.names.items())},
    }


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
