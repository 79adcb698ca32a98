"""The command line: LightningCLI over the methods and the data, with a guard for users' mistakes."""

import logging
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from lorattt import __version__
from lorattt.callbacks.loggers import check_installed
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.progress import progress
from lorattt.callbacks.results import ResultsWriter
from lorattt.callbacks.resume import RunFinishedError, check_folder
from lorattt.callbacks.run_csv import RunCSV
from lorattt.callbacks.run_folder import ConfigWriter, PromptWriter, RunCheckpoint, RunFolder
from lorattt.callbacks.run_log import RunLog, flat
from lorattt.callbacks.stops import RunStops
from lorattt.callbacks.trace import TraceWriter
from lorattt.cli.checks import check_config_files, check_values
from lorattt.cli.errors import check_environment, check_processes, device_mistake, explain
from lorattt.cli.parser import Parser

# Imported so that their classes can be named without their modules.
from lorattt.data import benchmark, demo, demo_source, few_shot, folder, loose  # noqa: F401
from lorattt.errors import UserError, error_line, one_line, shortened
from lorattt.methods import coop, registry, sapt, self_tpt_training, several  # noqa: F401
from lorattt.methods.base import Method
from lorattt.methods.coop import PromptTraining
from lorattt.stopping import STOPS
from lorattt.torch_state import full_float32

_DESCRIPTION = (
    "Test-time training for CLIP. Also: lorattt sweep, lorattt report, lorattt landscape, lorattt data check, each "
    "with --help."
)
_TRAINER_DEFAULTS = {
    "inference_mode": False,
    "use_distributed_sampler": False,
    "logger": [{"class_path": "lorattt.callbacks.run_csv.RunCSV"}],
    "log_every_n_steps": 10,
    "enable_model_summary": False,
}
_IGNORED_WARNINGS = (
    ".*does not have many workers",
    "The number of training batches .* is smaller than the logging",  # it reads an epoch's length for the run's
    "Total length of `list` across ranks is zero",  # no validation
    "LightningCLI's args parameter",  # of a command without its first word
    "Found .* in eval mode",  # the frozen model, as it should be
)


class LorattCLI(LightningCLI):
    """LightningCLI with the run's folder and the run's seed."""

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed: a number, not Lightning's true or false, which would not be the model's seed."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything random.")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As Lightning's, but the data are made first: what they lack is reported before weights are fetched."""
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        given = {f"trainer.{key}": value for key, value in self.trainer_defaults.items() if key != "callbacks"}
        parser.set_defaults(given)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=self.subclass_mode_data)
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=self.subclass_mode_model)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys of the run's folder; one seed for all."""
        parser.add_lightning_class_args(RunFolder, "run")
        parser.add_argument(
            "--profile", type=bool, default=False, help="Record the first batches: trace.json in the run's folder."
        )
        parser.link_arguments("seed_everything", "model.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and check values and ``ckpt_path``."""
        super().parse_arguments(parser, args)
        command = self.config["subcommand"]
        check_values(self.config[command])
        if path := self.config[command].get("ckpt_path"):
            if command != "fit":
                raise UserError("ckpt_path is for fit: name the weights of CLIP in model.clip.pretrained")
            if not zipfile.is_zipfile(path):
                reason = "not a whole checkpoint" if Path(path).exists() else "no such file"
                raise UserError(f"ckpt_path {path}: {reason}; give checkpoints/last.ckpt of the run to go on with")

    def before_instantiate_classes(self) -> None:
        """Check the loggers and the run's folder before anything is loaded."""
        loggers = self._get(self.config, "trainer")["logger"]
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if isinstance(logger, Namespace):
                check_installed(logger["class_path"])
        if self.subcommand in ("validate", "test", "predict"):
            self.check_run_folder()

    def check_run_folder(self) -> None:
        """Compare the configuration with that of the run that the folder holds, if it holds one."""
        config = self.config[self.subcommand]
        if config["run"]["folder"] is not None and config["run"]["resume"]:
            check_folder(Path(config["run"]["folder"]), self._parser(self.subcommand).dump(config, skip_none=False))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with our observers; a value that it rejects is the user's mistake."""
        trainer = self._get(self.config_init, "trainer")
        traced = [TraceWriter()] if self._get(self.config_init, "profile") else []
        watched = progress(trainer["callbacks"]) if trainer["enable_progress_bar"] is not False else []
        logged = RunLog(flat(self.config.get(str(self.subcommand), self.config).as_dict()))
        # In this order: the bar is finished before the table is printed, whose counts are the writer's.
        observers: list[Callback] = [*watched, PredictionsWriter(), *traced, ResultsWriter(), logged]
        if isinstance(self.model, PromptTraining):
            observers.append(PromptWriter())
            if trainer["enable_checkpointing"] is not False:
                observers.append(RunCheckpoint())
        self.trainer_defaults["callbacks"] = [*observers, RunStops()]
        if trainer["logger"] is None or trainer["logger"] is True:  # Lightning's choice would be a folder of its own
            kwargs = {"logger": [RunCSV()], **kwargs}
        if trainer["default_root_dir"] is None:  # Lightning's choice would be the current folder, which runs share
            run = self._get(self.config, "run")
            kwargs = {"default_root_dir": run["folder"] or run["root"], **kwargs}
        check_environment()
        try:
            made = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            raise UserError(device_mistake(error) or f"trainer: {error}") from error
        check_processes(made)
        return made

    def after_instantiate_classes(self) -> None:
        """Reject a method that the command is not for, before Lightning would in its own terms."""
        name = type(self.model).__name__
        if self.subcommand == "fit" and isinstance(self.model, Method):
            raise UserError(f"{name} has nothing to fit: use test, validate or predict")
        if self.subcommand != "fit" and isinstance(self.model, PromptTraining):
            raise UserError(
                f"{name} learns a prompt: use fit, then {self.subcommand} with --model ZeroShot --model.prompt.file "
                "PROMPT"
            )
        if self.subcommand == "predict":  # its files are in the run's folder; Lightning would keep all logits as well
            self.config_init["predict"]["return_predictions"] = False


def main(args: ArgsType = None, cli: type[LorattCLI] = LorattCLI) -> None:
    """Run the command line, that of the process by default; a user's mistake ends it with one line and exit code 2."""
    given = sys.argv[1:] if args is None else args
    kind, program, rest = cli, "lorattt", args
    if isinstance(given, list) and given[:1] == ["landscape"]:
        from lorattt.cli.landscape import LandscapeCLI  # which imports this module

        kind, program, rest = LandscapeCLI, "lorattt landscape", given[1:]
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # below: which devices there are, and advertising
    with warnings.catch_warnings(), full_float32():
        warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree")
        for text in _IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", message=text)
        warnings.showwarning = _warn
        try:
            if isinstance(given, list):
                check_config_files(given)
            kind(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                trainer_defaults=dict(_TRAINER_DEFAULTS),
                save_config_callback=ConfigWriter,
                save_config_kwargs={"save_to_log_dir": False},
                parser_class=Parser,
                parser_kwargs={"prog": program, "version": __version__, "description": _DESCRIPTION},
                args=rest,
                run=kind is cli,
            )
        except RunFinishedError as finished:
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # of processes that something else started
                print(finished)
        except Exception as error:
            STOPS.check(warning=False)  # a signal to all processes of the run, of which others were faster to end
            message = explain(error)
            if message is None:
                raise
            print(error_line(f"{message}; {STOPS.notice}" if STOPS.notice else message), file=sys.stderr)
            raise SystemExit(2) from error


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """In place of :func:`warnings.showwarning`: one line."""
    print(f"lorattt: warning: {shortened(one_line(message), 2000)}", file=sys.stderr)
