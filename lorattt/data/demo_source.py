"""Drawn images to fit a prompt on: few of each class, none of which the tiny CLIP was trained on."""

from functools import partial
from typing import Any

from lorattt.data.demo import DemoImages, Names, Part
from lorattt.data.training import CACHE_BYTES, CachedImages, SourceData
from lorattt.inputs import at_least


class DemoSourceData(SourceData):
    """Few drawn images of each class to fit on, and images of split ``val`` to validate on, all kept in memory.

    Args:
        shots: Training images of each class; those of a smaller number and the same seed are among them.
        classes: ``base`` for the compositions that occur in pretraining, ``new`` for the held-out ones, or ``all``.
        domain: ``source``, or a shift: noise, blur, pixelate, contrast, dark, hue, outline, clutter; or ``shifted`` for
            all eight in turn.
        severity: Strength of the shift, 1 to 5.
        names: What the classes are called: ``common``, or ``synonyms`` that the tiny CLIP was not pretrained with.
        val_shots: Validation images of each class; 0 for no validation.
        draw_seed: Which training images.
        workers: Processes that make views.
        kwargs: ``batch_size`` and ``limit``, see :class:`SourceData`.
    """

    def __init__(
        self,
        *,
        shots: int = 16,
        classes: Part = "base",
        domain: str = "source",
        severity: int = 3,
        names: Names = "common",
        val_shots: int = 4,
        draw_seed: int = 1,
        workers: int = 0,
        **kwargs: Any,
    ) -> None:
        at_least(1, data__shots=shots)
        at_least(0, ", which is no validation", data__val_shots=val_shots)
        drawn = partial(DemoImages, domain, severity, classes=classes, names=names)
        # Consecutive images of a part hold each of its classes once.
        count = len(drawn(1, "shots", seed=draw_seed).class_names)
        # Cached here, in the main process, from which workers inherit.
        train = CachedImages(drawn(shots * count, "shots", seed=draw_seed), CACHE_BYTES)
        validation = None
        if val_shots:
            validation = CachedImages(drawn(val_shots * count, "val"), CACHE_BYTES)
        super().__init__(train, validation, workers=workers, prefetch=2, on_bad_image="error", cache=False, **kwargs)
        self.name = f"{train.name}-{shots}-shot"

    def setup(self, stage: str) -> None:
        """Draw all images, about 2 ms each, before there are workers."""
        super().setup(stage)
        for index in self.indices if stage == "fit" else []:
            self.source.read(index)
        if self.validation is not None:
            for index in self.validation_indices:
                self.validation.read(index)
