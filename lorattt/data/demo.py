"""The embedded demo as a dataset."""

from itertools import count, islice
from typing import Any, Literal

from PIL import Image

from lorattt import demo
from lorattt.data.datamodule import EpisodeData
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least

Part = Literal["all", "base", "new"]
_ALL = tuple(range(len(demo.CLASS_NAMES)))
_PARTS: dict[str, tuple[int, ...]] = {"all": _ALL, "base": demo.SEEN, "new": demo.HELD_OUT}


class DemoImages:
    """Drawn images in one domain, all or those of some classes; the arguments are those of :class:`DemoData`.

    Attributes:
        numbers: The images' numbers in the stream of all images, rising.
        class_names: The classes chosen; an image's label is the place of its class among them.
    """

    def __init__(
        self, domain: str, severity: int, images: int, split: demo.Split, classes: Part = "all", seed: int = 0
    ) -> None:
        at_least(1, data__images=images)
        if classes not in _PARTS:
            raise UserError(f"data.classes {quoted(classes)}: use {', '.join(_PARTS)}")
        self._domain, self._severity, self._split, self._seed = domain, severity, split, seed
        self.read(0)  # rejects an unknown domain, severity or split now
        chosen = _PARTS[classes]
        if split == "train" and classes == "new":
            raise UserError(
                f"split {quoted(split)} has no images of classes that do not occur in it: use split val or test"
            )
        self.name = f"demo-{domain}" if classes == "all" else f"demo-{domain}-{classes}"
        self.class_names = [demo.CLASS_NAMES[label] for label in chosen]
        self._place = {label: place for place, label in enumerate(chosen)}
        numbers = (index for index in count() if demo.label_of(index, split=split) in self._place)
        self.numbers = list(islice(numbers, images))

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self, index: int) -> str:
        """Domain, severity, split (with the seed, if it is not 0) and number."""
        stream = f"{self._split}-{self._seed}" if self._seed else self._split
        return f"{self._domain}-{self._severity}/{stream}/{index:06d}"

    def label(self, index: int) -> int:
        """Number of the composition of colour and shape, among those chosen."""
        return self._place[demo.label_of(index, split=self._split)]

    def read(self, index: int) -> Image.Image:
        """The drawn image."""
        image, _ = demo.draw(index, domain=self._domain, severity=self._severity, split=self._split, seed=self._seed)
        return image


class DemoData(EpisodeData):
    """Drawn images of coloured shapes, without any file.

    Args:
        domain: ``source``, or a shift: noise, blur, pixelate, contrast, dark, hue, outline, clutter.
        severity: Strength of the shift, 1 to 5.
        images: How many images, of the classes chosen.
        split: Which stream of images; settings are chosen on ``val`` and reported on ``test``.
        classes: ``all``, ``base`` for the compositions that occur in pretraining, or ``new`` for the held-out ones;
            the images of a part are labelled from 0 and keep their numbers.
        batch_size: Images adapted at once (E). Predictions do not depend on it.
        workers: Processes that draw images and make views.
        kwargs: ``limit``, see :class:`ImageData`.
    """

    def __init__(
        self,
        *,
        domain: str = "noise",
        severity: int = 3,
        images: int = 1000,
        split: Literal["val", "test"] = "test",
        classes: Part = "all",
        batch_size: int = 32,
        workers: int = 1,
        **kwargs: Any,
    ) -> None:
        source = DemoImages(domain, severity, images, split, classes)
        super().__init__(source, batch_size=batch_size, workers=workers, prefetch=2, on_bad_image="error", **kwargs)
