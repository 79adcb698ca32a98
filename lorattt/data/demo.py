"""The embedded demo as a dataset."""

import math
from itertools import count, islice
from typing import Any, Literal, get_args

from PIL import Image

from lorattt import demo
from lorattt.data.datamodule import EpisodeData
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least
from lorattt.rng import Stream, random_order

Part = Literal["all", "base", "new"]
Names = Literal["common", "synonyms"]
Prior = Literal["uniform", "long_tail"]
_ALL = tuple(range(len(demo.CLASS_NAMES)))
_PARTS: dict[str, tuple[int, ...]] = {"all": _ALL, "base": demo.SEEN, "new": demo.HELD_OUT}
_SHIFTED = "shifted"


class DemoImages:
    """Drawn images, all or those of some classes; the arguments are those of :class:`DemoData`.

    Attributes:
        numbers: The images' numbers in the stream of all images, rising.
        class_names: The classes chosen; an image's label is the place of its class among them.
    """

    def __init__(
        self,
        domain: str,
        severity: int,
        images: int,
        split: demo.Split,
        classes: Part = "all",
        seed: int = 0,
        names: Names = "common",
        prior: Prior = "uniform",
    ) -> None:
        at_least(1, data__images=images)
        at_least(0, data__draw_seed=seed)
        for key, value, known in (
            ("domain", domain, (*demo.DOMAINS, _SHIFTED)),
            ("classes", classes, get_args(Part)),
            ("names", names, get_args(Names)),
            ("prior", prior, get_args(Prior)),
        ):
            if value not in known:
                raise UserError(f"data.{key} {quoted(value)}: use {', '.join(known)}")
        self._domain, self._severity, self._split, self._seed = domain, severity, split, seed
        self.read(0)  # rejects an unknown severity or split now
        chosen = _PARTS[classes]
        if split == "train" and classes == "new":
            raise UserError(
                f"split {quoted(split)} has no images of classes that do not occur in it: use split val or test"
            )
        parts = [f"demo-{domain}"]
        parts += [classes] if classes != "all" else []
        parts += ["synonyms"] if names == "synonyms" else []
        parts += ["long-tail"] if prior == "long_tail" else []
        self.name = "-".join(parts)
        called = demo.SYNONYMS if names == "synonyms" else demo.CLASS_NAMES
        self.class_names = [called[label] for label in chosen]
        self._place = {label: place for place, label in enumerate(chosen)}
        if prior == "long_tail":
            self.numbers = self._long_tail(images)
        else:
            numbers = (index for index in count() if demo.label_of(index, split=split) in self._place)
            self.numbers = list(islice(numbers, images))

    def _long_tail(self, images: int) -> list[int]:
        """The numbers of so many images, of which each class has its share, spread evenly over the stream."""
        # A class comes back after as many images as there are classes in the stream.
        period = len(demo.SEEN if self._split == "train" else _ALL)
        first = {demo.label_of(index, split=self._split): index for index in range(period)}
        order = random_order(self._seed, 0, Stream.LONG_TAIL, len(_ALL)).tolist()
        order = [label for label in order if label in self._place and label in first]
        shares = long_tail(images, len(order))
        # The first class comes in each turn of the stream, the others in as many as they have images.
        turns = [
            (first[label], turn * shares[0] // n) for label, n in zip(order, shares, strict=True) for turn in range(n)
        ]
        return sorted(number + turn * period for number, turn in turns)

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self, index: int) -> str:
        """The image's own domain, severity, split (with the seed, if it is not 0) and number."""
        stream = f"{self._split}-{self._seed}" if self._seed else self._split
        return f"{self._domain_of(index)}-{self._severity}/{stream}/{index:06d}"

    def label(self, index: int) -> int:
        """Number of the composition of colour and shape, among those chosen."""
        return self._place[demo.label_of(index, split=self._split)]

    def read(self, index: int) -> Image.Image:
        """The drawn image."""
        domain = self._domain_of(index)
        image, _ = demo.draw(index, domain=domain, severity=self._severity, split=self._split, seed=self._seed)
        return image

    def _domain_of(self, index: int) -> str:
        if self._domain != _SHIFTED:
            return self._domain
        # The last term moves a class, which comes back after 64 images, on to the next domain.
        return demo.DOMAINS[1 + (index + index // 8 + index // 64) % 8]


def long_tail(images: int, classes: int) -> list[int]:
    """How many of ``images`` the class at place r gets: a share proportional to 1 / (r + 1), by largest remainders."""
    # In whole numbers, so that no rounding decides between remainders.
    common = math.lcm(*range(1, classes + 1))
    weights = [common // (place + 1) for place in range(classes)]
    shares = [divmod(images * weight, sum(weights)) for weight in weights]
    left = images - sum(share for share, _ in shares)
    largest = sorted(range(classes), key=lambda place: -shares[place][1])[:left]
    return [share + (place in largest) for place, (share, _) in enumerate(shares)]


class DemoData(EpisodeData):
    """Drawn images of coloured shapes, without any file.

    Args:
        domain: ``source``, or a shift: noise, blur, pixelate, contrast, dark, hue, outline, clutter; or ``shifted`` for
            all eight in turn, so that of 512 consecutive images each class has one in each.
        severity: Strength of the shift, 1 to 5.
        images: How many images, of the classes chosen.
        split: Which stream of images; settings are chosen on ``val`` and reported on ``test``.
        classes: ``all``, ``base`` for the compositions that occur in pretraining, or ``new`` for the held-out ones;
            the images of a part are labelled from 0 and keep their numbers.
        names: What the classes are called: ``common`` ("red circle"), or ``synonyms`` that the tiny CLIP was not
            pretrained with ("crimson ball").
        prior: ``uniform``, or ``long_tail``: the r-th class of a fixed random order has a share proportional to 1 / r
            of the images, evenly over the stream. This matters for methods that keep a state across images.
        draw_seed: Which scenes; those of two seeds are independent.
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
        names: Names = "common",
        prior: Prior = "uniform",
        draw_seed: int = 0,
        batch_size: int = 32,
        workers: int = 1,
        **kwargs: Any,
    ) -> None:
        source = DemoImages(domain, severity, images, split, classes, draw_seed, names, prior)
        super().__init__(source, batch_size=batch_size, workers=workers, prefetch=2, on_bad_image="error", **kwargs)
