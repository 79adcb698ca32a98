"""Check that runs on one dataset have the same images."""

from collections.abc import Sequence

import numpy as np

from lorattt.errors import UserError, shortened
from lorattt.report.escape import visible
from lorattt.report.runs import Run


def of_same_images(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Leave out runs with fewer images than others of their dataset, such as short trials; and a note for each.

    Raises:
        UserError: If two runs of one dataset's name have another image or label under one number; the message says
            how many differ and names one.
    """
    largest: dict[str, Run] = {}
    for run in runs:
        if run.dataset not in largest or len(run.predictions.index) > len(largest[run.dataset].predictions.index):
            largest[run.dataset] = run
    kept, notes = [], []
    for run in runs:
        other = largest[run.dataset]
        mine, theirs = run.predictions, other.predictions
        if run is not other:
            _check_common(run, other)
        if not np.array_equal(mine.index, theirs.index):
            notes.append(
                f"{run.folder}: left out, as its {len(mine.index):,} images of {run.dataset} are not the "
                f"{len(theirs.index):,} of {other.folder}. Name such runs alone to report them."
            )
        else:
            kept.append(run)
    return kept, notes


def _check_common(run: Run, other: Run) -> None:
    """Require the same image and label under each number that both runs have."""
    mine, theirs = run.predictions, other.predictions
    common, here, there = np.intersect1d(mine.index, theirs.index, assume_unique=True, return_indices=True)
    paths = [number for number, (i, j) in enumerate(zip(here, there, strict=True)) if mine.path[i] != theirs.path[j]]
    labels = np.flatnonzero(mine.label[here] != theirs.label[there])
    apart = sorted({*paths, *labels.tolist()})
    if not apart:
        return
    path = shortened(visible(theirs.path[there[apart[0]]]))
    raise UserError(
        f"{other.folder} and {run.folder}: both are of {run.dataset} with different {'images' if paths else 'labels'}: "
        f"{len(apart)} of {len(common)} differ, such as number {common[apart[0]]} ({path}): report them apart"
    )
