"""The runs of a sweep: their folders, their command lines, and the fit that each waits for."""

import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorattt.errors import UserError
from lorattt.inputs import did_you_mean
from lorattt.settings import affects_results, dotted
from lorattt.sweep.spec import Entry, Sweep

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
    """One process of a sweep."""

    name: str  # its folder below that of the sweep: METHOD/DATASET/seed-S, the method with its values of the grid
    method: str
    command: str  # fit, test, validate or predict
    folder: Path  # run.folder
    arguments: tuple[str, ...]  # what follows the name of the program, without the devices
    settings: Mapping[str, Any] = field(repr=False)  # all that affects the results: keys and files' values, by place
    needs: "Run | None" = None  # the fit whose prompt it takes


def plan(sweep: Sweep) -> list[Run]:
    """All test runs of a sweep in their order, without those left out by ``skip``."""
    runs = []
    # Seeds are the outermost loop, so that a sweep that is stopped has a whole table of the first seeds.
    seeds = dict.fromkeys(seed for method in sweep.methods.values() for seed in method.seeds)
    for seed, (method, entry) in itertools.product(seeds, sweep.methods.items()):
        if seed not in entry.seeds:
            continue
        for values, (dataset, data) in itertools.product(
            itertools.product(*entry.grid.values()), sweep.datasets.items()
        ):
            needs = _fit(sweep, method, entry.fit, data.source, seed) if entry.fit else None
            grid = dict(zip(entry.grid, values, strict=True))
            parts = [_row(method, grid), dataset, f"seed-{seed}"]
            runs.append(_run(sweep, sweep.command, method, parts, seed, [entry, data, Entry(keys=grid)], needs))
    runs = [run for run in runs if not any(_fits(run, pattern) for pattern in sweep.skip)]
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
    """The runs that one of the patterns fits: ``METHOD``, ``METHOD/DATASET`` or ``METHOD/DATASET/seed-1``."""
    for pattern in patterns:
        if not any(_fits(run, pattern) for run in runs):
            folders = [run.name.split("/") for run in runs]
            known = [text for row, dataset, _ in folders for text in (row, f"{row}/{dataset}")]
            raise UserError(f"--only {pattern}: no such run; {did_you_mean(pattern, known, 'use METHOD/DATASET')}")
    return [run for run in runs if not patterns or any(_fits(run, pattern) for pattern in patterns)]


def _fits(run: Run, pattern: str) -> bool:
    wanted, parts = pattern.strip("/").split("/"), run.name.split("/")
    if len(wanted) > len(parts):
        return False
    matches = [fnmatch.fnmatchcase(name, part) for name, part in zip(parts, wanted, strict=False)]
    matches[0] = matches[0] or fnmatch.fnmatchcase(run.method, wanted[0])
    return all(matches)


def _row(method: str, grid: Mapping[str, Any]) -> str:
    """The method with its values of the grid, as the name of a folder."""
    values = [(key.partition(".")[2] or key, re.sub(r"[^A-Za-z0-9._-]+", "-", argument(grid[key]))) for key in grid]
    row = ",".join([method, *(f"{key}={value.strip('-') or 'none'}" for key, value in values)])
    return row if len(row) <= _LONGEST else f"{row[: _LONGEST - 9]}-{hashlib.sha256(row.encode()).hexdigest()[:8]}"


def _fit(sweep: Sweep, method: str, fit: Entry, source: str | None, seed: int) -> Run:
    parts = [FIT, method, *([source] if source else []), f"seed-{seed}"]
    return _run(sweep, FIT, method, parts, seed, [fit, *([sweep.sources[source]] if source else [])], None)


def _run(
    sweep: Sweep, command: str, method: str, parts: list[str], seed: int, entries: list[Entry], needs: Run | None
) -> Run:
    folder = sweep.out.joinpath(*parts)
    files = {file: contents for entry in entries for file, contents in entry.files.items()}
    # The nearer a key is to the run, the later it comes, and the later one counts.
    keys: dict[str, Any] = {}
    for entry in (sweep.shared, *entries):
        for key, value in entry.keys.items():
            keys.pop(key, None)
            keys[key] = seed if value == "{seed}" else value
    keys = {key: keys[key] for key in sorted(keys, key=lambda key: key not in ("model", "data"))}  # class before keys
    keys["seed_everything"] = seed
    if needs:
        keys["model.prompt.file"] = str(needs.folder / PROMPT_FILE)
    arguments = [command, *(text for file in files for text in ("-c", file))]
    arguments += [f"--{key}={argument(value)}" for key, value in keys.items()]
    if sweep.devices and not any(entry.names("trainer.accelerator") for entry in (sweep.shared, *entries)):
        # Without this, a machine whose GPU is not found would go on with its processor, a hundred times as long.
        arguments.append("--trainer.accelerator=gpu")
    settings = _settings(command, keys, files, needs)
    arguments.append(f"--run.folder={folder}")
    return Run("/".join(parts), method, command, folder, tuple(arguments), settings, needs)


def _settings(
    command: str, keys: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], needs: Run | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"command": command, "files": " ".join(files)}
    for place, given in (("", dotted(keys)), *((f"{file}: ", values) for file, values in files.items())):
        found |= {place + key: value for key, value in given.items() if _counts(command, key)}
    if needs:
        del found["model.prompt.file"]  # which is where the sweep's folder is; what counts is how it was made
        found |= {f"{FIT} {place}": value for place, value in needs.settings.items()}
    written: dict[str, Any] = json.loads(json.dumps(found, default=str))  # as it will be read from the file
    return written


def _counts(command: str, key: str) -> bool:
    """Whether a key may affect the results of a run."""
    if command == FIT:
        return not any(f"{key}.".startswith(f"{each}.") for each in _NOT_OF_FIT)
    return affects_results(key.split("."))


def argument(value: Any) -> str:
    """A value as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
