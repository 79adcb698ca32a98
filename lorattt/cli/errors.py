"""A user's mistake as one line: the key, what is wrong with it, and what is accepted.

jsonargparse reports every type that it tried, over many lines, without structure. Its text is read here; what is not
recognised is passed on as one line.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lorattt.callbacks.run_folder import RunFolder
from lorattt.cli.checks import found_class, import_problem, keys_of, known_classes, near_key
from lorattt.data.loader import lost_worker
from lorattt.errors import UserError, one_line, quoted, shortened
from lorattt.inputs import nearest
from lorattt.methods.batch import no_memory

_TOP = ("seed_everything", "trainer", "model", "data", "run", "profile", "ckpt_path")
_BELOW = ("model.class_path", "model.init_args", "data.class_path", "data.init_args")
_PLACE = re.compile(r"Parser key \"(?P<key>[^\"]+)\":|Problem with given class_path '(?P<owner>[^']+)':")
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']+)'|Subcommand '\w+') does not accept option '(?P<key>[^']+)'"
    r"|Option '(?P<option>[^']+)' is not accepted|unrecognized arguments: -*(?P<word>[^\s=]+)"
)
_NO_CLASS = re.compile(
    r"Expected a dot import path string: (?P<a>\S+)|given class_path '(?P<b>[^']+)':\s+(?:No module|module .* has no)"
    r"|Import path (?P<c>\S+) does not correspond to a subclass"
)
_IMPORT_PATH = re.compile(r"(?!.*\.(?:ya?ml|json)$)[^\W\d]\w*(?:\.\w+)+")
# What gloo, NCCL and PyTorch's store say of a process that is no more.
_PEER_LOST = re.compile(
    r"Connection (?:closed|reset) by peer|Connection was likely closed|Broken pipe|remote process exit"
)
_NO_VALUE = re.compile(r"argument (?:-\w/)?(--[\w.]+): expected one argument")
_NO_CONFIG = re.compile(r"Unable to load config ['\"](.*)['\"]")
_BELOW_NO_GROUP = re.compile(r"NestedArg\(key='([^']*)', val=.*\)")
# What YAML reads as something else than a text.
_NO_TEXT = re.compile(r"True|False|[-+]?\d[\d.e+-]*")
_CHOICES = re.compile(r"typing\.Literal\[(.*?)\]")
_EXPECTED = re.compile(r"Expected an? (?P<kind>.+?)(?:\. Got value: (?P<value>.*))?$", re.MULTILINE)


def explain(error: BaseException) -> str | None:
    """The line for an exception that stands for a user's mistake; None for a defect of the program."""
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, UserError) and (mistake := device_mistake(cause)):
            return mistake
        if isinstance(cause, UserError | MisconfigurationException):
            # From a loader's worker the message comes with the worker's traceback before it.
            return one_line(str(cause).rsplit(f"{type(cause).__name__}: ", 1)[-1])
        cause = cause.__cause__
    if isinstance(error, RuntimeError) and no_memory(error):
        return (
            "the device is out of memory, for one image at a time as well: use a smaller model.views.number, "
            "model.chunk where the method has it, or model.clip.dtype bf16"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"model.clip.compile: compiling failed ({one_line(str(error))[:200]}): leave it false"
    if not isinstance(error, RuntimeError):
        return None
    if _PEER_LOST.search(str(error)):
        return "another device's process has ended the run: the message that it left says why"
    return lost_worker(error)


def condense(message: str, typed: Sequence[str] = ()) -> str:
    """A report of the parser as one line, with keys as they are on the command line (``typed``) or in a file."""
    path, owner, body = _innermost(message)
    key = _spelled(".".join(path), typed)
    if no_class := _NO_CLASS.search(message):
        return _no_class(_spelled(".".join(path).removesuffix(".init_args"), typed), no_class, path, owner, body)
    if unknown := _UNKNOWN.search(body):
        last = ".".join(filter(None, (unknown["group"], unknown["key"] or unknown["option"] or unknown["word"])))
        return _unknown_key(_spelled(".".join([*path, last]), typed).removesuffix(last), last, owner)
    if "arguments are required:" in body:
        return _required(path, body.split("arguments are required:")[1], owner)
    if '"subcommand"' in body:
        return "name a command: fit, validate, test or predict (lorattt --help tells more)"
    if needs := _NO_VALUE.search(body):
        return _without_value(needs[1], typed)
    if unreadable := _NO_CONFIG.search(body):
        path = path[:-1] if path[-2:-1] == path[-1:] else path  # the report says the last one twice
        value = shortened(unreadable[1])
        return f"{_spelled('.'.join(path), typed)}: expected keys below it{_fields(path, owner)}, got {value}"
    if found := list(_EXPECTED.finditer(body)):
        _, given, last = body.rpartition("Given value: ")
        value = next((m["value"] for m in found if m["value"]), None) or (last if given else "another value")
        kinds, value = dict.fromkeys(_kind(m["kind"]) for m in found), one_line(value)
        if path in (["model"], ["data"]) and _IMPORT_PATH.fullmatch(value) and import_problem(value):
            return _unknown_class(path[0], value)  # its module raises what the parser takes for another kind of value
        if below := _BELOW_NO_GROUP.fullmatch(value):
            return f"{key}.{below[1]}: no such key; {key} has no keys below it"
        if "str" in kinds and _NO_TEXT.fullmatch(value):
            return f"{key}: expected a text, got {value}: put it in quotes, as YAML reads no, on and 1e3 as no texts"
        return f"{key}: expected {' or '.join(kinds)}, got {shortened(value)}"
    body = body.replace("File does not exist:", "no such file")
    return one_line(": ".join([key, body] if path else [body]))


def _spelled(key: str, typed: Sequence[str]) -> str:
    """A key as it was given: on the command line without ``init_args``, in a file with it."""
    short = ".".join(part for part in key.split(".") if part != "init_args")
    given = (word.split("=")[0].removeprefix("--").replace(".init_args", "") for word in typed)
    return short if any(f"{word}.".startswith(f"{short}.") for word in given) else key


def _innermost(message: str) -> tuple[list[str], str | None, str]:
    """Follow the report down: the key's path, the class it belongs to, and what is said about it."""
    path: list[str] = []
    owner: str | None = None
    depth, body = -1, []
    for line in message.splitlines():
        place, indent = _PLACE.search(line), len(line) - len(line.lstrip())
        if place is None or indent <= depth:
            body.append((indent, line))
            continue
        depth, body = indent, [(indent + 1, line[place.end() :])]
        if place["owner"]:
            owner = place["owner"]
            if not dataclasses.is_dataclass(found_class(owner)):  # whose keys are below it, in files as well
                path.append("init_args")
        else:
            path += place["key"].split(".")
    end = next((number for number, (indent, line) in enumerate(body) if line.strip() and indent <= depth), None)
    return path, owner, "\n".join(line for _, line in body[:end]).strip()


def _kind(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text.strip())
    if choices := _CHOICES.fullmatch(text):
        return "one of " + choices[1].replace("'", "")
    return {"NoneType": "null", "list": "a list, such as '[a, b]'", "tuple": "a list, such as '[a, b]'"}.get(text, text)


def _unknown_key(prefix: str, key: str, owner: str | None) -> str:
    """A key of a class (``owner``) or of the command that does not exist; ``prefix`` is before it, with its dot."""
    place = prefix.split(".")[0]
    if owner and key == "class_path":
        return f"{place}: beside class_path, the keys of a class go below init_args"
    if place in ("model", "data") and owner and owner.startswith("lightning."):
        return f"{prefix}{key}: name the class before its keys, with --{place} CLASS or -c FILE"
    level, _, last = key.rpartition(".")
    if last == "seed":
        return f"{prefix}{key}: no such key; the seed of a run is seed_everything"
    kind = found_class(owner)
    groups = (("run", RunFolder), ("trainer", Trainer))
    whole = [*_TOP, *_BELOW, *(f"{group}.{name}" for group, each in groups for name in keys_of(each))]
    known = list(keys_of(kind)) if kind else whole
    if near := near_key(key, known):
        return f"{prefix}{key}: no such key; did you mean {prefix}{near}?"
    of = f" of {kind.__name__}" if kind else ""
    others = [name for name, each in known_classes(place).items() if key in keys_of(each)] if kind else []
    also = f" ({', '.join(others)} {'has' if len(others) == 1 else 'have'} it)" if others else ""
    siblings = [name for name in known if level and name.rpartition(".")[0] == level]
    siblings = siblings or [name for name in known if "." not in name]
    accepted = f"accepted are {', '.join(siblings)}" if siblings else "it has no keys"
    return f"{prefix}{key}: no such key{of}{also}; {accepted}"


def _without_value(option: str, typed: Sequence[str]) -> str:
    """An option that ends the command line, or is followed by another one."""
    pairs = pairwise([*typed, "--"])
    found = [word for word, later in pairs if f"{word}.".startswith(f"{option}.") and later.startswith("--")]
    return f"{(found or [option])[0].removeprefix('--')}: give a value behind it"


def _fields(path: Sequence[str], owner: str | None) -> str:
    """The keys below a key in brackets; nothing where it has none."""
    kind = found_class(owner) if path else None
    found = [key.rpartition(".")[2] for key in keys_of(kind) if key.startswith(f"{path[-1]}.")] if kind else []
    return f" ({', '.join(found)})" if found else ""


def _no_class(key: str, found: re.Match[str], path: Sequence[str], owner: str | None, body: str) -> str:
    """A value that the parser takes for the name of a class."""
    name = str(found["a"] or found["b"] or found["c"])
    if fields := _fields(path, owner):
        return f"{key}: expected keys below it{fields}, got {shortened(name)}"
    if (choices := _CHOICES.search(body)) and "." not in name:
        return f"{key}: expected {_kind(choices[0])} or the import path of a class, got {name}"
    return _unknown_class(key, name)


def _unknown_class(place: str, name: str) -> str:
    if re.search(r"\.(ya?ml|json)$", name):
        return f"{place}: no such file {name}"
    known = known_classes(place.removesuffix(".class_path"))
    near = nearest(name.rsplit(".", 1)[-1], known)
    hint = f"did you mean {near}? " if near else ""
    accepted = f"known are {', '.join(known)}" if known else "give the import path of a class"
    where = f"{place}: " if place else ""
    return f"{where}unknown class {name}; {hint}{accepted}{import_problem(name)}"


def _required(path: list[str], names: str, owner: str | None) -> str:
    missing = [name.strip().removeprefix("test.") for name in names.split(",")]
    if owner:
        key = ".".join(part for part in [*path, missing[0]] if part != "init_args")
        return f"{key}: {owner.rsplit('.', 1)[-1]} needs it"
    short = " and ".join(sorted((name.rsplit(".", 1)[-1] for name in missing), reverse=True))
    return (
        f"no {short}: name a configuration (-c lightning_configs/demo/lora_ttt.yaml), "
        "or give --model LoRATTT --data DemoData"
    )


_MISTAKES = Path(__file__).with_name("device_mistakes.yaml")
_INTEGERS = (
    *("MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),
    *("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)


def device_mistake(error: BaseException) -> str | None:
    """The line for an exception that stands for a mistake about processes, tasks or devices; None for others."""
    if isinstance(error, KeyError) and str(error.args[0] if error.args else "").startswith("SLURM_"):
        return (
            f"SLURM's variable {error.args[0]} is not set, while SLURM_NTASKS is: start the command with srun, or "
            "unset SLURM_NTASKS"
        )
    text = one_line(error)
    for each in yaml.safe_load(_MISTAKES.read_text(encoding="utf-8")):
        if found := re.search(each["said"], text):
            return str(each["line"]).format(*found.groups())
    return None


def check_environment() -> None:
    """Require that what schedulers and launchers set as numbers are numbers, before Lightning reads them."""
    for name in _INTEGERS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"\s*\d+\s*", value):
            raise UserError(
                f"the environment's {name} is {quoted(value, 40)}: it must be a number; set it right, or unset it"
            )


def check_processes(trainer: Trainer) -> None:
    """Reject a Trainer that would wait for processes that nobody starts, or do the whole run in each of them."""
    if TorchElasticEnvironment.detect():
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1 and trainer.world_size == 1:
            raise UserError(
                f"torchrun started {started} processes, and each would do the whole run: give its --nproc-per-node as "
                "trainer.devices, with trainer.strategy ddp"
            )
        return
    in_step = "SLURM_STEP_ID" in os.environ or "SLURM_STEPID" in os.environ
    if trainer.world_size > 1 and SLURMEnvironment.detect() and not in_step:
        raise UserError(
            f"the run has {trainer.world_size} devices, and within a SLURM job srun starts their processes: put srun "
            "before the command"
        )
