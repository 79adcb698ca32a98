"""Prompts that benchmarks learn with ``lorattt fit``, or take as they were learned before."""

from collections.abc import Sequence
from pathlib import Path

from lorattt.callbacks.run_folder import PROMPT_FILE
from lorattt.cli import main as lorattt


def fit(config: Path, seed: int, folder: Path, keys: Sequence[str]) -> Path:
    """The file of the prompt that ``lorattt fit`` learns; the seed decides which images are drawn as well.

    Args:
        config: A configuration of fit, whose data draw images by ``draw_seed``.
        seed: The run's seed.
        folder: The run's folder.
        keys: More keys of fit; they override the configuration.
    """
    drawn = ["--seed_everything", str(seed), "--data.draw_seed", str(seed), "--trainer.enable_progress_bar", "false"]
    lorattt(["fit", "-c", str(config), *drawn, "--run.folder", str(folder), *keys])
    return folder / PROMPT_FILE


def fit_once(config: Path, seed: int, folder: Path, keys: Sequence[str]) -> Path:
    """The file that ``folder`` holds already, however it was learned; else as :func:`fit`."""
    known = folder / PROMPT_FILE
    return known if known.exists() else fit(config, seed, folder, keys)
