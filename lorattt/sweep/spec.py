"""A sweep's file, read and checked as far as it can be without a model."""

import fnmatch
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorattt.errors import UserError, quoted
from lorattt.sweep.entries import Configs, Entry, entry_of, grid_of, hint, keys_of, named, seeds_of
from lorattt.yaml_files import load_yaml

COMMANDS = ("test", "validate", "predict")
KEYS = ("out", "command", "methods", "datasets", "sources", "seeds", "keys", "grid", "skip", "devices", "jobs")
_SKIP_KEYS = ("method", "dataset", "seed")


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file says.

    Attributes:
        path: The file.
        out: Folder of all runs.
        command: ``test``, ``validate`` or ``predict``.
        methods: Entries by name; rows of the table.
        datasets: Entries by name; its columns.
        sources: Entries by name, to fit on.
        seeds: Seeds of every method that has none of its own.
        keys: Keys given to every run.
        grid: Keys that take several values in turn, for every method.
        skip: Patterns of ``method``, ``dataset`` and ``seed``; a run that fits all of one is left out.
        devices: What ``CUDA_VISIBLE_DEVICES`` is for each run at a time; None for runs that share all there is.
        jobs: Runs at a time where there are no devices.
        configs: Contents of all files named.
    """

    path: Path
    out: Path
    command: str
    methods: Mapping[str, Entry]
    datasets: Mapping[str, Entry]
    sources: Mapping[str, Entry]
    seeds: tuple[int, ...]
    keys: Mapping[str, Any]
    grid: Mapping[str, list[Any]]
    skip: tuple[Mapping[str, str], ...]
    devices: tuple[str, ...] | None
    jobs: int
    configs: Configs


def read_sweep(path: Path, given: Mapping[str, Any] | None = None) -> Sweep:
    """Read a sweep's file.

    Args:
        path: The file.
        given: What the command line says instead: some of ``out``, ``devices`` and ``jobs``; its ``keys`` join the
            file's.

    Raises:
        UserError: If something of it is wrong, or a file it names is missing or no configuration.
    """
    given = given or {}
    contents = load_yaml(path, strict=True)
    if not isinstance(contents, dict):
        raise UserError(f"{path}: expected keys such as methods and datasets")
    for key in contents:
        if key not in KEYS:
            raise UserError(f"{path}: {key}: no such key{hint(key, KEYS) or '; accepted are ' + ', '.join(KEYS)}")
    for key in ("methods", "datasets"):
        if key not in contents:
            raise UserError(f"{path}: {key} is missing")
    try:
        return _sweep(path, contents, given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _sweep(path: Path, contents: dict[str, Any], given: Mapping[str, Any]) -> Sweep:
    configs = Configs()
    command = contents.get("command", "test")
    if command not in COMMANDS:
        raise UserError(f"command {quoted(command)}: use {', '.join(COMMANDS)}")
    out = given.get("out") or contents.get("out", f"runs/{path.stem}")
    if not isinstance(out, str) or not out:
        raise UserError(f"out {quoted(out)}: expected a folder")
    methods = {
        name: entry_of(entry, f"methods.{name}", ("fit", "grid", "seeds"), configs)
        for name, entry in named(contents["methods"], "methods").items()
    }
    datasets = {
        name: entry_of(entry, f"datasets.{name}", ("source",), configs)
        for name, entry in named(contents["datasets"], "datasets").items()
    }
    sources = {
        name: entry_of(entry, f"sources.{name}", (), configs)
        for name, entry in (named(contents["sources"], "sources") if contents.get("sources") else {}).items()
    }
    sweep = Sweep(
        path=path,
        out=Path(out),
        command=command,
        methods=methods,
        datasets=datasets,
        sources=sources,
        seeds=seeds_of(contents.get("seeds", [0]), "seeds"),
        keys={**keys_of(contents.get("keys"), "keys"), **keys_of(given.get("keys"), "--key")},
        grid=grid_of(contents.get("grid"), "grid"),
        skip=_skips(contents.get("skip"), methods, datasets),
        devices=devices_of(given.get("devices") or contents.get("devices")),
        jobs=_jobs(given.get("jobs") or contents.get("jobs", 1)),
        configs=configs,
    )
    _check(sweep)
    return sweep


def _check(sweep: Sweep) -> None:
    """What can only be seen of parts together."""
    shared = Entry(keys=sweep.keys)
    for dataset, entry in sweep.datasets.items():
        if entry.source is not None and entry.source not in sweep.sources:
            raise UserError(f"datasets.{dataset}.source: no source {entry.source}{hint(entry.source, sweep.sources)}")
    for name, method in sweep.methods.items():
        clash = next((key for key in method.grid if key in sweep.grid), None)
        if clash:
            raise UserError(f"methods.{name}.grid.{clash}: it is in the grid of all methods as well; keep one")
        if method.fit and any("model.prompt.file" in keys for keys in (method.keys, method.grid, sweep.keys)):
            raise UserError(f"methods.{name}: model.prompt.file is that of its fit; leave one of the two out")
        for dataset, entry in sweep.datasets.items():
            for part in ("model", "data"):
                if not sweep.configs.says((method, entry, shared), part):
                    raise UserError(
                        f"methods.{name} on datasets.{dataset}: no {part}: name a configuration that has one, "
                        f"or give {part}: CLASS among the keys"
                    )
    if sweep.devices is not None:
        if sweep.jobs > 1:
            raise UserError("devices and jobs: give one of them; one run at a time goes to each of the devices")
        for where, entry in _all_entries(sweep):
            if "trainer.devices" in entry.keys:
                raise UserError(f"{where}: trainer.devices follows from devices; leave it out")


def _all_entries(sweep: Sweep) -> list[tuple[str, Entry]]:
    found = [("keys", Entry(keys=sweep.keys))]
    found += [(f"methods.{name}", entry) for name, entry in sweep.methods.items()]
    found += [(f"methods.{name}.fit", entry.fit) for name, entry in sweep.methods.items() if entry.fit]
    found += [(f"datasets.{name}", entry) for name, entry in sweep.datasets.items()]
    return [*found, *((f"sources.{name}", entry) for name, entry in sweep.sources.items())]


def _skips(given: Any, methods: Mapping[str, Entry], datasets: Mapping[str, Entry]) -> tuple[Mapping[str, str], ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise UserError(f"skip: expected a list such as [{{method: tpt, dataset: imagenet}}], got {quoted(given)}")
    found = []
    for item in given:
        if not isinstance(item, Mapping) or not item:
            raise UserError(f"skip: expected {{method: NAME, dataset: NAME}} or one of them, got {quoted(item)}")
        for key, value in item.items():
            if key not in _SKIP_KEYS:
                raise UserError(f"skip: {key}: no such key{hint(key, _SKIP_KEYS) or '; use method, dataset or seed'}")
            known = {"method": methods, "dataset": datasets}.get(key)
            if known is not None and not fnmatch.filter(known, str(value)):
                raise UserError(f"skip: no {key} {value}{hint(value, known)}")
        found.append({key: str(value) for key, value in item.items()})
    return tuple(found)


def devices_of(given: Any) -> tuple[str, ...] | None:
    """What each run at a time sees as ``CUDA_VISIBLE_DEVICES``.

    A number is that of a device the sweep itself may see, as for torch: where the batch system has set
    ``CUDA_VISIBLE_DEVICES=4,5``, device 0 is 4.

    Args:
        given: A list of numbers or device names; ``"0,1"`` for a run on two of them; None for none.

    Raises:
        UserError: If it is something else, or a device is not among those to be seen.
    """
    if given is None:
        return None
    if not isinstance(given, list) or not given or any(type(each) not in (int, str) for each in given):
        raise UserError(f"devices: expected a list of GPUs such as [0, 1] or null, got {quoted(given)}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    return tuple(",".join(_device(part.strip(), names) for part in str(each).split(",")) for each in given)


def _device(name: str, visible: list[str] | None) -> str:
    if not name or name.startswith("-"):
        raise UserError(f"devices: {quoted(name)} is no GPU: give its number or its UUID")
    if visible is None or not name.isdigit():
        return name
    if int(name) >= len(visible):
        raise UserError(
            f"devices: no GPU {name}: CUDA_VISIBLE_DEVICES={','.join(visible)} leaves {len(visible)} to see"
        )
    return visible[int(name)]


def _jobs(given: Any) -> int:
    if type(given) is not int or given < 1:
        raise UserError(f"jobs {quoted(given)}: expected a whole number of at least 1")
    return given
