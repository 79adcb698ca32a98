"""The runs of a sweep: their folders, their command lines, and what each waits for."""

import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorattt.errors import UserError
from lorattt.settings import affects_results
from lorattt.sweep.entries import Entry, hint
from lorattt.sweep.spec import Sweep

PROMPT_FILE = "prompt.safetensors"
FIT = "fit"
# A step of a fit is a batch of all devices, so that there are fewer such keys.
_NOT_OF_FIT = (
    *("trainer.accelerator", "trainer.enable_progress_bar", "trainer.logger", "data.workers", "data.prefetch"),
    *("run.root", "run.folder", "run.resume", "profile"),
)
_LONGEST = 80


@dataclass(frozen=True)
class Run:
    """One process of a sweep.

    Attributes:
        name: What it is called on the screen: its folder below that of the sweep.
        command: ``fit``, ``test``, ``validate`` or ``predict``.
        row: The method's name, with its values of the grid.
        method: The method's name.
        dataset: The dataset's name; for a fit that of its source, or nothing.
        seed: ``seed_everything``.
        grid: Values of the grid by key.
        folder: ``run.folder``.
        arguments: What follows the name of the program, but for the devices.
        settings: All that decides what comes out: keys and the contents of files, by place.
        accelerator: Whether a file or a key names ``trainer.accelerator``.
        needs: The fit whose prompt it takes.
    """

    name: str
    command: str
    row: str
    method: str
    dataset: str
    seed: int
    grid: Mapping[str, Any]
    folder: Path
    arguments: tuple[str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    accelerator: bool = False
    needs: "Run | None" = None

    @property
    def product(self) -> str:
        """The file that a finished run has."""
        return PROMPT_FILE if self.command == FIT else "results.json"


def plan(sweep: Sweep) -> list[Run]:
    """All test runs of a sweep in their order, those left out by ``skip`` excepted.

    Seeds are the outermost loop, so that a sweep that is stopped has a whole table of the first seeds.

    Raises:
        UserError: If two of them would have one folder, or nothing is left.
    """
    seeds = dict.fromkeys(seed for entry in sweep.methods.values() for seed in entry.seeds or sweep.seeds)
    fits: dict[str, Run] = {}
    runs = []
    for seed, (method, entry) in itertools.product(seeds, sweep.methods.items()):
        if seed not in (entry.seeds or sweep.seeds):
            continue
        for values, (dataset, data) in itertools.product(_grid(sweep, entry), sweep.datasets.items()):
            if _skipped(sweep, method, dataset, seed):
                continue
            needs = None
            if entry.fit:
                made = _fit(sweep, method, entry.fit, data.source, seed)
                needs = fits.setdefault(made.name, made)
            runs.append(_test(sweep, method, dataset, seed, values, needs))
    if not runs:
        raise UserError(f"{sweep.path}: skip leaves nothing to run")
    folders: dict[str, Run] = {}
    for run in runs:
        # Some file systems take capital letters for small ones.
        other = folders.setdefault(str(run.folder).casefold(), run)
        if other is not run:
            raise UserError(f"{sweep.path}: {other.name} and {run.name} would have one folder: name them apart")
    return runs


def select(runs: list[Run], patterns: list[str]) -> list[Run]:
    """The runs that one of the patterns fits: ``METHOD``, ``METHOD/DATASET`` or ``METHOD/DATASET/seed-1``.

    Raises:
        UserError: If a pattern fits none.
    """
    if not patterns:
        return runs
    for pattern in patterns:
        if not any(_fits(run, pattern) for run in runs):
            known = dict.fromkeys(text for run in runs for text in (run.row, f"{run.row}/{run.dataset}"))
            raise UserError(f"--only {pattern}: no such run{hint(pattern, known)}")
    return [run for run in runs if any(_fits(run, pattern) for pattern in patterns)]


def _fits(run: Run, pattern: str) -> bool:
    wanted = pattern.strip("/").split("/")
    if len(wanted) > 3:
        return False
    given = ((run.row, run.method), (run.dataset,), (f"seed-{run.seed}",))
    return all(
        any(fnmatch.fnmatchcase(name, part) for name in names)
        for names, part in zip(given[: len(wanted)], wanted, strict=True)
    )


def _skipped(sweep: Sweep, method: str, dataset: str, seed: int) -> bool:
    names = {"method": method, "dataset": dataset, "seed": str(seed)}
    return any(all(fnmatch.fnmatchcase(names[key], value) for key, value in pattern.items()) for pattern in sweep.skip)


def _grid(sweep: Sweep, method: Entry) -> Iterator[dict[str, Any]]:
    grid = {**sweep.grid, **method.grid}
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _test(sweep: Sweep, method: str, dataset: str, seed: int, values: dict[str, Any], needs: Run | None) -> Run:
    row = ",".join([method, *(f"{_short(key)}={_text(value)}" for key, value in values.items())])
    if len(row) > _LONGEST:
        row = f"{row[: _LONGEST - 9]}-{hashlib.sha256(row.encode()).hexdigest()[:8]}"
    folder = sweep.out / row / dataset / f"seed-{seed}"
    entries = (sweep.methods[method], sweep.datasets[dataset])
    return _run(sweep, sweep.command, row, method, dataset, seed, values, folder, entries, needs)


def _fit(sweep: Sweep, method: str, fit: Entry, source: str | None, seed: int) -> Run:
    entries = (fit, sweep.sources[source]) if source else (fit,)
    folder = sweep.out.joinpath(FIT, method, *([source] if source else []), f"seed-{seed}")
    return _run(sweep, FIT, method, method, source or "", seed, {}, folder, entries, None)


def _run(
    sweep: Sweep,
    command: str,
    row: str,
    method: str,
    dataset: str,
    seed: int,
    values: dict[str, Any],
    folder: Path,
    entries: tuple[Entry, ...],
    needs: Run | None,
) -> Run:
    files = list(dict.fromkeys(file for entry in entries for file in entry.files))
    # The nearer a key stands to the run, the later it comes, and the later one counts.
    keys: dict[str, Any] = {}
    for given in (sweep.keys, *(entry.keys for entry in entries), values):
        for key, value in given.items():
            keys.pop(key, None)
            keys[key] = seed if value == "{seed}" else value
    keys = {key: keys[key] for key in sorted(keys, key=lambda key: key not in ("model", "data"))}  # class before keys
    ours: dict[str, Any] = {"seed_everything": seed}
    if needs:
        ours["model.prompt.file"] = str(needs.folder / PROMPT_FILE)
    arguments = [command, *(text for file in files for text in ("-c", file))]
    arguments += [f"--{key}={argument(value)}" for key, value in {**keys, **ours}.items()]
    all_entries = (Entry(keys=sweep.keys), *entries)
    return Run(
        name=folder.relative_to(sweep.out).as_posix(),
        command=command,
        row=row,
        method=method,
        dataset=dataset,
        seed=seed,
        grid=values,
        folder=folder,
        arguments=(*arguments, f"--run.folder={folder}"),
        settings=_settings(sweep, command, files, {**keys, **ours}, needs),
        accelerator=sweep.configs.value(all_entries, "trainer.accelerator") is not None,
        needs=needs,
    )


def _settings(sweep: Sweep, command: str, files: list[str], keys: dict[str, Any], needs: Run | None) -> dict[str, Any]:
    found: dict[str, Any] = {"command": command, "files": " ".join(files)}
    places = [("", keys), *((f"{file}: ", sweep.configs.read[file]) for file in files)]
    for place, contents in places:
        found.update({place + key: value for key, value in _flat(contents) if _counts(command, key)})
    if needs:
        found.pop("model.prompt.file")  # which is where the sweep's folder is; what counts is how it was made
        found.update({f"{FIT} {place}": value for place, value in needs.settings.items()})
    # As it will be read from the file.
    written: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return written


def _counts(command: str, key: str) -> bool:
    """Whether what a run gives may depend on a key."""
    if command == FIT:
        return not any(f"{key}.".startswith(f"{each}.") for each in _NOT_OF_FIT)
    return affects_results(key.split("."))


def _flat(given: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def argument(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _short(key: str) -> str:
    return key.split(".", 1)[1] if "." in key else key


def _text(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", argument(value)).strip("-") or "none"
