"""What the parser says of a mistake, as one line with the key as the user gave it."""

from pathlib import Path

import pytest

from conftest import Cli
from lorattt.cli.dry import problem
from lorattt.cli.errors import condense

_UNION = """Parser key "{place}":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path '{owner}':
{body}
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='some.key', val='1')
"""


def _report(body: str, owner: str = "lorattt.methods.tpt.TPT", place: str = "model") -> str:
    indented = "\n".join(f"        {line}" for line in body.splitlines())
    return _UNION.format(place=place, owner=owner, body=indented)


_PROMPT = """Parser key "prompt":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lorattt.prompts.prompt.PromptSpec'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lorattt.prompts.prompt.PromptSpec':
        Option 'wrds' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='wrds', val='1')"""
_TEXT = """Parser key "class_names":
  Does not validate against any of the Union subtypes
  Subtypes: [list[str], <class 'NoneType'>]
  Errors:
    - Expected a <class 'str'>. Got value: False
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: [False]"""
_BELOW_TEXT = """Parser key "templates":
  Does not validate against any of the Union subtypes
  Errors:
    - Expected a typing.Literal['single', 'openai-7']
    - Expected a <class 'str'>
  Given value: NestedArg(key='foo', val='3')"""
_LONG = f"""Parser key "steps":
  Expected a <class 'int'>. Got value: {"x" * 5000}"""
_NO_GROUP = """Parser key "views":
Unable to load config '3'
  - Parser key "views": Unable to load config "3\""""
_LOGGER = """Parser key "trainer.logger":
  Does not validate against any of the Union subtypes
  Errors:
    - Problem with given class_path 'lorattt.callbacks.loggers.RunWandb':
        Option 'projct' is not accepted
    - Expected a <class 'bool'>
  Given value: NestedArg(key='projct', val='3')"""


@pytest.mark.parametrize(
    ("report", "typed", "line"),
    [
        # As 4.50 has it of a file, and as later releases have it of the command line.
        (
            _report("Option 'stps' is not accepted"),
            ["--model.stps=3"],
            "model.stps: no such key; did you mean model.steps?",
        ),
        (
            _report("unrecognized arguments: --optimiser.lrr=1"),
            ["--model.optimiser.lrr", "1"],
            "model.optimiser.lrr: no such key; did you mean model.optimiser.lr?",
        ),
        (
            _report("Group 'optimiser' does not accept option 'lrr'"),
            ["-c", "run.yaml"],
            "model.init_args.optimiser.lrr: no such key; did you mean model.init_args.optimiser.lr?",
        ),
        (
            _report("unrecognized arguments: --lora.rank=1"),
            ["--model.lora.rank", "1"],
            "model.lora.rank: no such key of TPT (LoRATTT has it); accepted are prompt, views, selection, "
            "optimiser, steps, rule, flatness, clip, class_names",
        ),
        (
            _report("Option 'mta.foo' is not accepted", "lorattt.methods.mta.MTA"),
            ["--model.mta.foo=1"],
            "model.mta.foo: no such key of MTA; accepted are mta.lambda_y, mta.lambda_q, mta.bandwidth, mta.outer, "
            "mta.inner, mta.threshold",
        ),
        (
            _report("Option 'dataset' is not accepted", "lorattt.data.demo.DemoData", "data"),
            ["--data.dataset=dtd"],
            "data.dataset: no such key of DemoData (BenchmarkData, FewShotData have it); accepted are domain, "
            "severity, images, split, classes, names, prior, draw_seed, batch_size, workers, limit",
        ),
        (
            _report(_PROMPT),
            ["--model.prompt.wrds=a"],
            "model.prompt.wrds: no such key; did you mean model.prompt.words?",
        ),
        (
            _report(_PROMPT),
            ["-c", "run.yaml"],
            "model.init_args.prompt.wrds: no such key; did you mean model.init_args.prompt.words?",
        ),
        (
            _report(_TEXT),
            [],
            "model.init_args.class_names: expected a text, got False: put it in quotes, as YAML reads no, on and "
            "1e3 as no texts",
        ),
        (
            _report(_BELOW_TEXT),
            ["--model.templates.foo", "3"],
            "model.templates.foo: no such key; model.templates has no keys below it",
        ),
        (_report(_LONG), ["--model.steps", "x"], f"model.steps: expected int, got {'x' * 70} ... {'x' * 25}"),
        (
            _report(_NO_GROUP),
            ["--model.views=3"],
            "model.views: expected keys below it (number, scale, ratio, flip, augmix, augmix_severity, place), got 3",
        ),
        (
            _LOGGER,
            ["--trainer.logger.projct=3"],
            "trainer.logger.projct: no such key; did you mean trainer.logger.project?",
        ),
        (
            "unrecognized arguments: --seed 3",
            ["--seed", "3"],
            "seed: no such key; the seed of a run is seed_everything",
        ),
        ("argument --model: expected one argument", ["--model.steps"], "model.steps: give a value behind it"),
        ("argument -c/--config: expected one argument", ["-c"], "config: give a value behind it"),
        (
            _report("the following arguments are required: root", "lorattt.data.folder.ImageFolderData", "data"),
            ["--data", "ImageFolderData"],
            "data.root: ImageFolderData needs it",
        ),
    ],
)
def test_condense(report: str, typed: list[str], line: str) -> None:
    assert condense(report, typed) == line


BASE = ["test", "--model", "MTA", "--data", "DemoData"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--model.lora.rank", "1"], "model.lora.rank: no such key of MTA (LoRATTT has it); accepted are mta, "),
        (["--model.init_args.foo", "1"], "model.foo: no such key of MTA; accepted are mta, "),
        (["--model.clip.modle", "x"], "model.clip.modle: no such key; did you mean model.clip.model?"),
        (["--model.mat.outer", "3"], "model.mat.outer: no such key; did you mean model.mta.outer?"),
        (["--model.views", "3"], "model.views: expected keys below it (number, scale, "),
        (["--model.prompt", "foo"], "model.prompt: expected keys below it (file, words, "),
        (["--model.templates.foo", "3"], "model.templates.foo: no such key; model.templates has no keys below it"),
        (["--model.mta.outer"], "model.mta.outer: give a value behind it"),
        (["--trainer.logger.foo", "3"], "trainer.logger.foo: no such key of RunCSV; it has no keys"),
        (["--run.foo", "3"], "run.foo: no such key; accepted are run.root, run.folder, run.top_k, run.resume"),
        (["--model.seed", "3"], "model.seed: no such key; the seed of a run is seed_everything"),
        (["--model.mta.outer", "[1, 2]"], "model.mta.outer: expected int, got [1, 2]"),
        (["--model.class_names", "{a: b}"], "model.class_names: expected a list"),
    ],
)
def test_what_the_command_says(words: list[str], part: str) -> None:
    said = problem([*BASE, *words])
    assert said is not None
    assert said.startswith(part)
    assert "\n" not in said


def test_a_command_line_without_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert problem([*BASE, "--model.mta.outer", "3"]) is None
    assert problem(["fit", "--model", "CoOp", "--data", "DemoSourceData"]) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: {class_path: MTA, init_args: {seed: 3}}", "model.init_args.seed: no such key; the seed of a run is"),
        (
            "model:\n  class_path: MTA\n  init_args: {views: {number: 8}, views: {number: 9}}",
            "line 3: views is given twice",
        ),
        ("run: {root: a}\nrun: {folder: b}", "line 2: run is given twice"),
        ("model: {class_path: MTA, init_args: {class_names: [no, on]}}", "class_names: expected a text, got False"),
        (
            "model: {class_path: MTA, init_args: {lora: {rank: 1}}}",
            "model.init_args.lora.rank: no such key of MTA (LoRATTT",
        ),
    ],
)
def test_what_is_wrong_with_a_file(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    assert part in str(problem([*BASE, "-c", str(path)]))


def test_a_file_may_repeat_itself_by_reference(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = "model: {class_path: MTA, init_args: {views: &v {number: 8}, mta: {<<: {outer: 3}, inner: 4}}}\n"
    path.write_text(text, encoding="utf-8")
    assert problem([*BASE, "-c", str(path)]) is None


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("openai-8", "did you mean openai-80? use single, openai-7, openai-80, dataset, or texts that contain {}"),
        ("a photo of a", "'a photo of a': use single, openai-7"),
        ("a {} of a {}", "exactly once"),
    ],
)
def test_a_text_that_is_no_template(text: str, hint: str, cli: Cli) -> None:
    run = cli(*BASE, "--model.templates", text)
    (line,) = [line for line in run.err.splitlines() if line.startswith("lorattt: error: ")]
    assert run.code == 2
    assert hint in line
