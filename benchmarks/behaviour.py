"""What every method claims, measured on the embedded demo against its own control, over several seeds.

    python -m benchmarks.behaviour [--seeds 1 2 3] [--images 512] [--split test] [--effects NAME ...] [--out FOLDER]
        [--json FILE] [-- KEYS OF FIT]

The product measures itself: a run is a configuration file with other images and another prompt, an effect compares two
columns of runs on the same images. A seed decides which scenes are drawn (to fit on and to classify), their views, and
the order and crops of a fit, so scenes of all seeds are independent and are pooled. What ``--out`` holds already is
taken as it is: after a change of the model, name another folder.

An interval is over scenes, for the prompts of these seeds. ``shown`` means that it lies wholly on the side that the
method claims. The controls of Self-TPT's parts are measured only where ``--effects`` names them.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from benchmarks.behaviour_prompts import RISES, prompt_values
from benchmarks.behaviour_tables import COSINE, ECE, TOP1, Answers, compare, markdown, overview
from benchmarks.fits import fit_once
from lorattt.callbacks.run_folder import RESULTS_FILE
from lorattt.cli import main as lorattt
from lorattt.report.predictions import read_predictions

CONFIGS = Path(__file__).parent.parent / "lightning_configs"

_VIEWS = ("front", "middle", "end", "hand")
FITS = {"coop": "demo/coop", "sapt": "demo/sapt", "self_tpt": "demo/self_tpt_fit"}
FITS |= {name: f"experiments/self_tpt_{name}" for name in ("without_gm", "ce_ensemble", "cpt_only")}
FITS |= {f"without_{view}": f"experiments/self_tpt_without_{view}" for view in _VIEWS}
"""Configurations that learn a prompt, by the prompt's name."""


@dataclass(frozen=True)
class Run:
    """A run of ``lorattt test``."""

    config: str  # below lightning_configs
    prompt: str | None = None  # of FITS; else the configuration's own
    keys: tuple[str, ...] = ()  # what else differs from the file


RUNS = {
    "words": Run("demo/zero_shot"),
    "several": Run("demo/several"),
    "mem": Run("demo/lora_ttt", keys=("--model.loss.reconstruction", "0")),
    "reconstruction": Run("demo/lora_ttt", keys=("--model.loss.mem", "0")),
    "coop": Run("demo/zero_shot", "coop"),
    "tlla": Run("demo/tlla", "sapt"),
    "sapt_views": Run("demo/several", "sapt", ("--model.methods", "[mean_of_views]", "--model.options", "{}")),
    "self_tpt": Run("demo/self_tpt", "self_tpt"),
    "self_tpt_v": Run("experiments/self_tpt_v", "self_tpt"),
    "ce_ensemble": Run("demo/self_tpt", "ce_ensemble", ("--model.stage2", "false", "--model.classify_by", "mean")),
    **{name: Run("demo/self_tpt", name) for name in ("without_gm", "cpt_only", *(f"without_{v}" for v in _VIEWS))},
}

IMAGES = {
    "shifted": {"domain": "shifted"},
    "base, source": {"domain": "source", "classes": "base"},
    "new, shifted": {"domain": "shifted", "classes": "new"},
    "synonyms, source": {"domain": "source", "names": "synonyms"},
    "synonyms, shifted": {"domain": "shifted", "names": "synonyms"},
}
"""Keys of the data, by what the tables call the images."""
_NEW = ("new, shifted", "synonyms, source", "synonyms, shifted")


class Column(NamedTuple):
    """Answers of a run."""

    run: str
    method: str
    when: str = "after"


COLUMNS = {
    "zero-shot": Column("words", "zero_shot"),
    "mean of views": Column("several", "mean_of_views"),
    "MTA": Column("several", "mta"),
    "ZERO": Column("several", "zero"),
    "TPT": Column("several", "tpt"),
    "C-TPT": Column("several", "ctpt"),
    "LoRA-TTT": Column("several", "lora_ttt"),
    "MEM alone": Column("mem", "lora_ttt"),
    "reconstruction alone": Column("reconstruction", "lora_ttt"),
    "CoOp": Column("coop", "zero_shot"),
    "SAPT": Column("tlla", "tlla", "before"),
    "SAPT, mean of views": Column("sapt_views", "mean_of_views"),
    "TLLA": Column("tlla", "tlla"),
    "CPT": Column("without_gm", "self_tpt", "before"),
    "CPT, stage 2": Column("without_gm", "self_tpt"),
    "Self-TPT": Column("self_tpt", "self_tpt"),
    "Self-TPT without stage 2": Column("self_tpt", "self_tpt", "before"),
    "Self-TPT-v": Column("self_tpt_v", "self_tpt"),
    "CE only, four prompts": Column("ce_ensemble", "self_tpt"),
    "CPT only": Column("cpt_only", "self_tpt"),
    **{f"Self-TPT without {view}": Column(f"without_{view}", "self_tpt") for view in _VIEWS},
}
"""By what the tables call them."""


class Effect(NamedTuple):
    """Two of :data:`COLUMNS`, compared on each kind of images by each of the measures."""

    method: str
    control: str
    images: tuple[str, ...] = ("shifted",)
    measures: tuple[str, ...] = (TOP1,)


EFFECTS = {
    "lora_ttt": Effect("LoRA-TTT", "zero-shot"),
    "lora_ttt_views": Effect("LoRA-TTT", "mean of views"),
    "mem": Effect("MEM alone", "zero-shot"),
    "reconstruction": Effect("reconstruction alone", "zero-shot"),
    "both_mem": Effect("LoRA-TTT", "MEM alone"),
    "both_reconstruction": Effect("LoRA-TTT", "reconstruction alone"),
    "tpt": Effect("TPT", "zero-shot"),
    "ctpt": Effect("C-TPT", "TPT", measures=(ECE, TOP1)),
    "mta": Effect("MTA", "mean of views"),
    "zero": Effect("ZERO", "mean of views"),
    "coop": Effect("CoOp", "zero-shot", ("base, source", "shifted")),
    "sapt_flatness": Effect("SAPT", "CoOp", ("base, source",), RISES),
    "sapt_shifted": Effect("SAPT", "CoOp"),
    "stss": Effect("TLLA", "SAPT, mean of views"),
    "tlla": Effect("TLLA", "CoOp"),
    "cpt": Effect("CPT", "CoOp", _NEW),
    "stage2": Effect("CPT, stage 2", "CPT", _NEW),
    "gm": Effect("Self-TPT", "CPT, stage 2", _NEW),
    "self_tpt": Effect("Self-TPT", "CoOp", _NEW),
    "gm_cosine": Effect("Self-TPT", "CPT", ("base, source",), (COSINE,)),
}
CONTROLS = {
    "without_stage2": Effect("Self-TPT", "Self-TPT without stage 2", _NEW),
    "self_tpt_v": Effect("Self-TPT-v", "Self-TPT", _NEW),
    "ce_ensemble": Effect("Self-TPT", "CE only, four prompts", _NEW),
    "cpt_only": Effect("Self-TPT", "CPT only", _NEW),
    **{f"without_{view}": Effect("Self-TPT", f"Self-TPT without {view}", _NEW) for view in _VIEWS},
}
"""Further effects, measured where they are named."""


def main() -> None:
    """Run what is not there yet, compare, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=512, help="images of each kind and seed")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--effects", nargs="+", choices=[*EFFECTS, *CONTROLS], metavar="NAME", help="only these")
    parser.add_argument("--out", type=Path, default=Path("runs/behaviour"), help="folder of all runs")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="after --: keys of fit, such as --trainer.max_epochs 5")
    arguments = parser.parse_args()
    keys = arguments.keys[1:] if arguments.keys[:1] == ["--"] else arguments.keys
    study = Study(arguments.out, arguments.seeds, arguments.images, arguments.split, keys)
    effects = {name: {**EFFECTS, **CONTROLS}[name] for name in arguments.effects or EFFECTS}
    report: dict[str, Any] = {name: getattr(arguments, name) for name in ("seeds", "images", "split")}
    report |= {"keys": keys, "effects": study.compared(effects)}
    # Of all methods unless some effects are named: then only of those that these have classified anyway.
    shown = [each for each in effects.values() if arguments.effects is None or "shifted" in each.images]
    columns = {"zero-shot", *(name for each in shown for name in each[:2])}
    answers = {name: study.answers(name, "shifted") for name in COLUMNS if name in columns}
    report["methods"] = overview(answers)
    print(markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


class Study:
    """All runs in a folder, each made when it is first read; ``images`` of each kind and seed, ``keys`` of each fit."""

    def __init__(self, out: Path, seeds: Sequence[int], images: int, split: str, keys: Sequence[str]) -> None:
        self.out, self.seeds, self.images, self.split, self.keys = out, seeds, images, split, keys
        self._done: set[Path] = set()
        self._values: dict[tuple[str, int], dict[str, NDArray[Any]]] = {}

    def compared(self, effects: dict[str, Effect]) -> list[dict[str, Any]]:
        """A row for each effect, kind of images and measure."""
        rows = []
        for name, effect in effects.items():
            for images, measure in product(effect.images, effect.measures):
                pair = [self.values(column, images, measure) for column in effect[:2]]
                about = {"effect": name, "method": effect.method, "control": effect.control, "images": images}
                rows.append({**about, **compare(measure, *pair)})
        return rows

    def values(self, column: str, images: str, measure: str) -> list[Any]:
        """What :func:`compare` reads, of each seed."""
        if measure in (TOP1, ECE):
            return self.answers(column, images)
        found = []
        for seed in self.seeds:
            fit = str(RUNS[COLUMNS[column].run].prompt)
            if (fit, seed) not in self._values:
                self._values[fit, seed] = prompt_values(self.prompt(fit, seed), self.images, seed)
            found.append(self._values[fit, seed][measure])
        return found

    def answers(self, column: str, images: str) -> list[Answers]:
        """The answers of each seed."""
        run, method, when = COLUMNS[column]
        found = []
        for seed in self.seeds:
            folder = self.folder(run, images, seed) / method
            predictions = read_predictions(folder / "predictions.csv")
            nll = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))[f"nll_{when}"]
            domains = [path.partition("-")[0] for path in predictions.path]
            found.append(Answers(predictions.right(when), predictions.confidence[when], nll, domains))
        return found

    def folder(self, run: str, images: str, seed: int) -> Path:
        """The folder of a finished run."""
        folder = self.out / f"seed-{seed}" / images.replace(", ", "-") / run
        if folder in self._done:
            return folder
        given, drawn = RUNS[run], {"classes": "all", "names": "common", **IMAGES[images]}
        drawn |= {"images": str(self.images), "split": self.split, "draw_seed": str(seed)}
        words = ["test", "-c", str(CONFIGS / f"{given.config}.yaml"), "--seed_everything", str(seed)]
        words += [word for key, value in drawn.items() for word in (f"--data.{key}", value)]
        if given.prompt:
            words += ["--model.prompt.file", str(self.prompt(given.prompt, seed))]
        words += [*given.keys, "--trainer.enable_progress_bar", "false", "--run.folder", str(folder)]
        with _reported(folder):
            lorattt(words)
        self._done.add(folder)
        return folder

    def prompt(self, fit: str, seed: int) -> Path:
        """The file of a prompt, learned if it is not there."""
        folder = self.out / f"seed-{seed}" / "fits" / fit
        with _reported(folder):
            return fit_once(CONFIGS / f"{FITS[fit]}.yaml", seed, folder, self.keys)


@contextlib.contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """What is printed goes to stderr, and so does how long it took: stdout is for the tables."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        yield
    if (seconds := time.perf_counter() - started) > 1:
        print(f"{folder}: {seconds:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
