"""The command line: LightningCLI over the methods and the data, with a guard for users' mistakes."""

import sys
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

# Imported so that their classes can be named without their modules.
import lorattt.data.demo
import lorattt.data.demo_pretrain
import lorattt.data.folder
import lorattt.methods.lora_ttt
import lorattt.methods.pretrain
import lorattt.methods.zero_shot  # noqa: F401
from lorattt.callbacks.predictions import PredictionsWriter
from lorattt.callbacks.progress import AccuracyBar
from lorattt.callbacks.results import ResultsWriter
from lorattt.callbacks.run_folder import ConfigWriter, RunFolder
from lorattt.errors import UserError


class _Parser(LightningArgumentParser):
    """Reports a mistake as one line, without the usage of several hundred options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print and exit with code 2."""
        _fail(" ".join(message.split()))


class LorattCLI(LightningCLI):
    """LightningCLI with the run's folder and the run's seed."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys of the run's folder; one seed for all."""
        parser.add_lightning_class_args(RunFolder, "run")
        parser.link_arguments("seed_everything", "model.init_args.seed")


def main(args: ArgsType = None) -> None:
    """Run the command line; a user's mistake ends it with one line and exit code 2."""
    try:
        LorattCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            trainer_defaults={
                "inference_mode": False,
                "use_distributed_sampler": False,
                "logger": False,
                "enable_model_summary": False,
                "callbacks": [PredictionsWriter(), ResultsWriter(), AccuracyBar()],
            },
            save_config_callback=ConfigWriter,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=_Parser,
            args=args,
        )
    except (UserError, MisconfigurationException) as error:
        _fail(" ".join(str(error).split()))


def _fail(message: str) -> NoReturn:
    print(f"lorattt: error: {message}", file=sys.stderr)
    raise SystemExit(2)
