"""A sweep's file, read and checked as far as that is possible without a model."""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorattt.errors import UserError, quoted, shortened
from lorattt.inputs import did_you_mean
from lorattt.settings import dotted
from lorattt.yaml_files import read_yaml

COMMANDS = ("test", "validate", "predict")
_KEYS = ("out", "command", "methods", "datasets", "sources", "seeds", "keys", "grid", "skip", "devices", "jobs")
_PATTERNS = ("method", "dataset", "seed")
# What `lorattt test` and `fit` accept at the top of a configuration.
_TOP_KEYS = (
    *("trainer", "model", "data", "run", "seed_everything", "profile"),
    *("ckpt_path", "verbose", "weights_only", "return_predictions"),
)
_GIVEN_BY_SWEEP = {
    "run.folder": "a run's folder follows from out",
    "run.root": "a run's folder follows from out",
    "seed_everything": "use seeds",
    "model.seed": "use seeds",
    "ckpt_path": "a fit goes on from its own checkpoint",
}
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """What is given to a run; ``fit``, ``grid`` and ``seeds`` are of methods, ``source`` is of datasets."""

    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # path to values by dotted keys, in order
    keys: Mapping[str, Any] = field(default_factory=dict)  # as on the command line, in order
    fit: "Entry | None" = None  # what the prompt is fitted with, once for each seed (and source)
    grid: Mapping[str, list[Any]] = field(default_factory=dict)  # keys, each with the values that it takes in turn
    seeds: tuple[int, ...] = ()
    source: str | None = None  # name of the source that prompts are fitted on

    def names(self, key: str) -> bool:
        """Whether a file or a key has a value, or a class, for a dotted key."""
        return any(key in given or f"{key}.class_path" in given for given in (self.keys, *self.files.values()))


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file says."""

    path: Path
    out: Path  # folder of all runs
    command: str
    methods: Mapping[str, Entry]  # with the seeds and the grid of the whole sweep
    datasets: Mapping[str, Entry]
    sources: Mapping[str, Entry]  # to fit on
    shared: Entry  # the keys that every run is given
    skip: list[str]  # patterns METHOD/DATASET/seed-S of runs that are left out
    devices: tuple[str, ...] | None  # CUDA_VISIBLE_DEVICES of each run at a time; None for runs that share all there is
    jobs: int  # runs at a time where there are no devices


def read_sweep(
    path: Path,
    keys: Mapping[str, Any] | None = None,
    *,
    out: str | None = None,
    devices: Sequence[str] | None = None,
    jobs: int | None = None,
) -> Sweep:
    """Read and check a sweep's file; what the command line says joins its ``keys`` and replaces the others."""
    contents = read_yaml(path, strict=True)
    if not isinstance(contents, dict):
        raise UserError(f"{path}: expected keys such as methods and datasets")
    given = {"out": out, "devices": devices, "jobs": jobs}
    contents |= {key: value for key, value in given.items() if value is not None}
    try:
        sweep = _sweep(path, contents, keys or {})
        _check_together(sweep)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return sweep


def _sweep(path: Path, contents: Mapping[str, Any], more: Mapping[str, Any]) -> Sweep:
    _check_words(contents, _KEYS)
    for key in ("methods", "datasets"):
        if key not in contents:
            raise UserError(f"{key} is missing")
    command, out, jobs = contents.get("command", "test"), contents.get("out", f"runs/{path.stem}"), contents.get("jobs")
    if command not in COMMANDS:
        raise UserError(f"command {quoted(command)}: use {', '.join(COMMANDS)}")
    if not isinstance(out, str) or not out:
        raise UserError(f"out {quoted(out)}: expected a folder")
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise UserError(f"jobs {quoted(jobs)}: expected a whole number of at least 1")
    seeds, grid = _seeds(contents.get("seeds", [0]), "seeds"), _grid(contents.get("grid"), "grid")
    methods = _entries(contents["methods"], "methods", "fit", "grid", "seeds")
    for name, method in methods.items():
        if clash := next((key for key in method.grid if key in grid), None):
            raise UserError(f"methods.{name}.grid.{clash}: it is in the grid of all methods as well; keep one")
        methods[name] = replace(method, seeds=method.seeds or seeds, grid={**grid, **method.grid})
    datasets = _entries(contents["datasets"], "datasets", "source")
    return Sweep(
        path=path,
        out=Path(out),
        command=command,
        methods=methods,
        datasets=datasets,
        sources=_entries(contents["sources"], "sources") if contents.get("sources") else {},
        shared=Entry(keys={**_keys(contents.get("keys"), "keys"), **_keys(more, "--key")}),
        skip=_skips([] if contents.get("skip") is None else contents["skip"], {"method": methods, "dataset": datasets}),
        devices=_devices(contents.get("devices")),
        jobs=jobs or 1,
    )


def _check_together(sweep: Sweep) -> None:
    """Checks of several parts together."""
    for name, dataset in sweep.datasets.items():
        if dataset.source is not None and dataset.source not in sweep.sources:
            fix = did_you_mean(dataset.source, sweep.sources, "name one of sources")
            raise UserError(f"datasets.{name}.source: no source {dataset.source}; {fix}")
    for name, method in sweep.methods.items():
        if method.fit and any("model.prompt.file" in keys for keys in (method.keys, method.grid, sweep.shared.keys)):
            raise UserError(f"methods.{name}: model.prompt.file is that of its fit; leave one of the two out")
        for other, dataset in sweep.datasets.items():
            for part in ("model", "data"):
                if not any(entry.names(part) for entry in (method, dataset, sweep.shared)):
                    raise UserError(
                        f"methods.{name} on datasets.{other}: no {part}: name a configuration that has one, "
                        f"or give {part}: CLASS among the keys"
                    )
    if sweep.devices is None:
        return
    if sweep.jobs > 1:
        raise UserError("devices and jobs: give one of them; one run at a time goes to each of the devices")
    entries = {"keys": sweep.shared}
    for place in ("methods", "datasets", "sources"):
        for name, entry in getattr(sweep, place).items():
            entries |= {f"{place}.{name}": entry, f"{place}.{name}.fit": entry.fit or Entry()}
    for where, entry in entries.items():
        if "trainer.devices" in entry.keys:
            raise UserError(f"{where}: trainer.devices follows from devices; leave it out")


def _entries(given: Any, where: str, *more: str) -> dict[str, Entry]:
    """Entries by their names, which become names of folders; ``more`` is what they may have beside config and keys."""
    _expect(isinstance(given, Mapping) and given, where, "names with a file or keys each", given)
    found = {}
    for name, entry in given.items():
        text = str(name)
        if isinstance(name, bool | float) or name is None or not _NAME.fullmatch(text):
            raise UserError(
                f"{where}: {quoted(text)} is no name: use letters, digits, dots, - and _ (in quotes, if YAML asks)"
            )
        if text == "fit" or text.startswith("seed-"):
            raise UserError(f"{where}.{text}: the sweep has a folder of that name; use another one")
        found[text] = _entry(entry, f"{where}.{text}", more)
    return found


def _entry(given: Any, where: str, more: tuple[str, ...] = ()) -> Entry:
    given = {} if given is None else {"config": given} if isinstance(given, str) else given
    wanted = "a file, or {config: FILE or a list of files, keys: {model.lr: 0.005}}"
    _expect(isinstance(given, Mapping), where, wanted, given)
    for word in given:
        if word in _TOP_KEYS or "." in str(word):
            raise UserError(f"{where}.{word}: no such key; put it under keys")
    _check_words(given, ("config", "keys", *more), f"{where}.")
    files = given.get("config") or []
    files = [files] if isinstance(files, str) else files
    right = isinstance(files, list) and all(isinstance(file, str) for file in files)
    _expect(right, f"{where}.config", "a file or a list of files", files)
    seeds, source = given.get("seeds"), given.get("source")
    return Entry(
        files={file: _config(file, where) for file in files},
        keys=_keys(given.get("keys"), f"{where}.keys"),
        fit=None if given.get("fit") is None else _entry(given["fit"], f"{where}.fit"),
        grid=_grid(given.get("grid"), f"{where}.grid"),
        seeds=() if seeds is None else _seeds(seeds, f"{where}.seeds"),
        source=None if source is None else str(source),
    )


def _config(file: str, where: str) -> dict[str, Any]:
    if not Path(file).is_file():
        raise UserError(f"{where}: no such file {file} (paths count from the current folder)")
    contents = read_yaml(Path(file))
    if not isinstance(contents, dict):
        raise UserError(f"{where}: {file} is no configuration: keys such as model and data are expected")
    _check_words(contents, _TOP_KEYS, f"{where}: {file}: ")
    return dotted(contents)


def _keys(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    _expect(isinstance(given, Mapping), where, "keys such as {model.lr: 0.005}", given)
    for key, value in given.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise UserError(f"{where}: {quoted(key)} is no key: write it as model.views.number")
        _check_words([key.split(".")[0]], _TOP_KEYS, f"{where}.")
        if key in _GIVEN_BY_SWEEP:
            raise UserError(f"{where}.{key}: given by the sweep; {_GIVEN_BY_SWEEP[key]}")
        if key in ("trainer", "model", "data", "run") and isinstance(value, Mapping):
            raise UserError(
                f"{where}.{key}: write its keys with dots, such as {key}.{next(iter(value), 'name')}: VALUE"
            )
    return dict(given)


def _grid(given: Any, where: str) -> dict[str, list[Any]]:
    """Keys with the values that each takes in turn."""
    keys = _keys(given, where)
    for key, values in keys.items():
        _expect(isinstance(values, list) and values, f"{where}.{key}", "a list of values", values)
        if any(value in values[:place] for place, value in enumerate(values)):
            raise UserError(f"{where}.{key}: a value is given twice")
    return keys


def _seeds(given: Any, where: str) -> tuple[int, ...]:
    right = isinstance(given, list) and given and all(type(seed) is int and seed >= 0 for seed in given)
    _expect(right, where, "a list of whole numbers of at least 0", given)
    if len(set(given)) < len(given):
        raise UserError(f"{where}: a seed is given twice")
    return tuple(given)


def _skips(given: Any, known: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    _expect(isinstance(given, list), "skip", "a list such as [{method: tpt, dataset: imagenet}]", given)
    for item in given:
        _expect(isinstance(item, Mapping) and item, "skip", "{method: NAME, dataset: NAME} or one of them", item)
        _check_words(item, _PATTERNS, "skip: ")
        for key, value in item.items():
            if key in known and not fnmatch.filter(known[key], str(value)):
                fix = did_you_mean(value, known[key], f"use {', '.join(known[key])}")
                raise UserError(f"skip: no {key} {value}; {fix}")
    return ["{method}/{dataset}/seed-{seed}".format_map({**dict.fromkeys(_PATTERNS, "*"), **item}) for item in given]


def _devices(given: Any) -> tuple[str, ...] | None:
    """``CUDA_VISIBLE_DEVICES`` of each run at a time, from a list of numbers or names; ``"0,1"`` is for two devices.

    A number is that of a device that the sweep itself may see, as for torch: where the batch system has set
    ``CUDA_VISIBLE_DEVICES=4,5``, device 0 is 4.
    """
    if given is None:
        return None
    right = isinstance(given, list) and given and all(type(each) in (int, str) for each in given)
    _expect(right, "devices", "a list of GPUs such as [0, 1] or null", given)
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


def _expect(right: object, where: str, what: str, got: Any) -> None:
    if not right:
        raise UserError(f"{where}: expected {what}, got {quoted(got)}")


def _check_words(given: Iterable[Any], known: tuple[str, ...], where: str = "") -> None:
    for word in given:
        if word not in known:
            fix = did_you_mean(word, known, f"use {', '.join(known)}")
            raise UserError(f"{where}{shortened(str(word))}: no such key; {fix}")
