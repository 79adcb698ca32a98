"""``lorattt landscape``: a picture of the loss and of the views' entropy around a prompt.

It reads the configurations of fit and test: the prompt is that of the model, where a method that learns one would
begin, and ``--model.prompt.file`` names a learned one. The images are those of the data.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import Tensor

from lorattt.callbacks.run_folder import ConfigWriter, RunFolder, find_run
from lorattt.cli import LorattCLI
from lorattt.cli.checks import check_values
from lorattt.data.datamodule import EpisodeData
from lorattt.data.file_list import UNKNOWN_LABEL
from lorattt.data.source import read_episode, spread
from lorattt.data.training import SourceData
from lorattt.errors import UserError
from lorattt.landscape import Landscape, LandscapeSpec, encode, landscape, summarise
from lorattt.methods.base import Method
from lorattt.methods.coop import PromptTraining
from lorattt.prompts.class_prompts import ClassPrompts
from lorattt.prompts.prompt import PromptSpec, build_prompt
from lorattt.report.landscape import Panel, check_plots, draw_landscape
from lorattt.views.crops import ViewSpec
from lorattt.views.render import TrainingViews, Views

PICTURE, NUMBERS = "landscape.png", "landscape.json"


class LandscapeCLI(LorattCLI):
    """The same configuration files and keys, on one device, with the keys of the picture."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys of the picture."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(LandscapeSpec, "landscape")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; there is no subcommand, and no checkpoint of Lightning's."""
        LightningCLI.parse_arguments(self, parser, args)
        check_values(self.config)
        check_plots()  # before any checkpoint is read

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer for its device alone."""
        return super().instantiate_trainer(**{**kwargs, "devices": 1, "num_nodes": 1, "strategy": "auto"})

    def after_instantiate_classes(self) -> None:
        """Compute the landscape, draw it, and write picture and numbers into the run's folder."""
        model, data = self.model, self.datamodule
        spec: LandscapeSpec = self.config_init["landscape"]
        prompt, views = _subject(model, spec)
        if not isinstance(data, EpisodeData | SourceData):
            raise UserError(f"landscape needs images: {type(data).__name__} has none; use DemoSourceData or DemoData")
        names = list(model.class_names or data.class_names)
        if not names or (data.class_names and len(names) != len(data.class_names)):
            raise UserError(f"model.class_names has {len(names)} names, the data has {len(data.class_names)} classes")
        started = build_prompt(prompt, model.clip, names, model.seed)
        specific = started.class_specific
        prompts = ClassPrompts(model.clip, names, started.position, started.tokens, class_specific=specific)
        folder = self._folder()
        model.clip.to(self.trainer.strategy.root_device)
        device = model.clip.text_tower.device
        # The loss is that of training crops where the model learns, and the data is for it.
        crops = isinstance(model, PromptTraining) and isinstance(data, SourceData)
        pictures, images, labels = _read(model, data, views, spec, crops)
        found = landscape(
            prompts,
            started.context.to(device),
            encode(model.clip, pictures),
            model.clip.logit_scale,
            spec,
            images=None if images is None else encode(model.clip, images),
            labels=None if labels is None else labels.to(device),
            seed=model.seed,
        )
        origin = prompt.file or started.words or "random vectors"
        about = {"prompt": origin, "data": data.name, "images": len(pictures), "seed": model.seed}
        _write(found, spec, crops, about, folder)

    def _folder(self) -> Path:
        """Make the run's folder, with the configuration in it."""
        self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]  # whose name is a part of the folder's
        callbacks = {type(each): each for each in self.trainer.callbacks}  # type: ignore[attr-defined]
        callbacks[RunFolder].setup(self.trainer, self.model, "landscape")
        callbacks[ConfigWriter].save_config(self.trainer, self.model, "landscape")
        return find_run(self.trainer).path


def _write(found: Landscape, spec: LandscapeSpec, crops: bool, about: dict[str, Any], folder: Path) -> None:
    """Picture and numbers into the run's folder; a table on the screen."""
    grids = {
        f"cross-entropy of {'training crops' if crops else 'plain views'}": found.loss,
        f"entropy of the {spec.views_kept} kept views": found.kept,
        f"entropy of the {spec.views - spec.views_kept} dropped views": found.dropped,
    }
    shown = "/".join(Path(about["prompt"]).parts[-2:])  # a run's folder and its file
    known = {title: grid for title, grid in grids.items() if grid is not None}
    draw_landscape(
        [Panel(title, "nats, mean", grid.tolist()) for title, grid in known.items()],
        spec.coordinates,
        folder / PICTURE,
        title=f"Around the prompt {shown}: {about['images']} images of {about['data']}",
        rho=spec.rho,
    )
    summary = {title: summarise(grid, spec) for title, grid in known.items()}
    numbers = {
        **dataclasses.asdict(spec),
        **about,
        "coordinates": spec.coordinates,
        "grids": {title: grid.tolist() for title, grid in known.items()},
        "summary": summary,
    }
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    print(f"{'nats, mean':40} {'at the prompt':>14} {f'worst within {spec.rho:g}':>18} {'increase':>10}")
    for title, row in summary.items():
        print(f"{title:40} {row['at_prompt']:14.4f} {row['worst_within_rho']:18.4f} {row['increase']:+10.4f}")
    print(f"written to {folder / PICTURE} and {NUMBERS}")


def _subject(model: LightningModule, spec: LandscapeSpec) -> tuple[PromptSpec, ViewSpec]:
    """The model's prompt, and how it cuts views."""
    if isinstance(model, PromptTraining):
        return model.spec, dataclasses.replace(model.crop.as_views(), number=spec.views)
    if isinstance(model, Method) and (model.prompt is not None or model.templates == "single"):
        return model.prompt or PromptSpec(), dataclasses.replace(model.views, number=spec.views)
    reason = "model.templates have no vectors to move" if isinstance(model, Method) else "it has no prompt"
    raise UserError(
        f"landscape looks around a prompt, and {type(model).__name__} is of no use ({reason}): give model.prompt, or "
        "a method that learns one"
    )


def _read(
    model: Any, data: EpisodeData | SourceData, views: ViewSpec, spec: LandscapeSpec, crops: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Views ``(N, V, 3, S, S)``; and, where all labels are known, images for the loss ``(N, 3, S, S)`` and labels.

    These images are training crops as of the first epoch, or plain views.
    """
    size, seed = model.clip.image_size, model.seed
    make = Views(views, size, seed, model.clip.plain_view)
    chosen = [data.indices[position] for position in spread(len(data.indices), spec.images)]
    episodes = [read_episode(data.source, index, make) for index in chosen]
    for episode in episodes:
        if "reason" in episode:
            raise UserError(f"cannot read image {episode['path']} ({episode['reason']}): fix or remove it")
    stacked = torch.stack([episode["views"] for episode in episodes])
    labels = [int(episode["label"]) for episode in episodes]
    if UNKNOWN_LABEL in labels:
        return stacked, None, None
    if not crops:
        return stacked, stacked[:, 0], torch.tensor(labels)
    crop = TrainingViews(model.crop, size, seed)
    return stacked, torch.stack([crop(data.source.read(i), i, 0)[0] for i in chosen]), torch.tensor(labels)
