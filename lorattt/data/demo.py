"""The embedded demo as a dataset."""

from typing import Literal

from PIL import Image

from lorattt import demo
from lorattt.data.datamodule import EpisodeData
from lorattt.errors import UserError


class DemoImages:
    """Drawn images, numbered from 0, in one domain.

    Args:
        domain: ``source`` or one of the shifts, see :data:`lorattt.demo.DOMAINS`.
        severity: Strength of the shift, 1 to 5.
        images: How many.
        split: Which stream of images.

    Raises:
        UserError: If the domain or the severity does not exist.
    """

    def __init__(self, domain: str, severity: int, images: int, split: demo.Split) -> None:
        if images < 1:
            raise UserError(f"data.images {images}: must be at least 1")
        self._domain, self._severity, self._images, self._split = domain, severity, images, split
        self.name = f"demo-{domain}"
        self.class_names = list(demo.CLASS_NAMES)
        self._last: tuple[int, tuple[Image.Image, int]] | None = None
        self._draw(0)  # refuses an unknown domain or severity now

    def _draw(self, index: int) -> tuple[Image.Image, int]:
        # An episode asks for the label and for the image: the last drawing is kept for the second question.
        if self._last is None or self._last[0] != index:
            drawing = demo.draw(index, domain=self._domain, severity=self._severity, split=self._split)
            self._last = (index, drawing)
        return self._last[1]

    def __len__(self) -> int:
        """Number of images."""
        return self._images

    def path(self, index: int) -> str:
        """Domain, severity, split and number."""
        return f"{self._domain}-{self._severity}/{self._split}/{index:06d}"

    def label(self, index: int) -> int:
        """Number of the composition of colour and shape."""
        return self._draw(index)[1]

    def read(self, index: int) -> Image.Image:
        """The drawn image."""
        return self._draw(index)[0]


class DemoData(EpisodeData):
    """Drawn images of coloured shapes, without any file.

    Args:
        domain: ``source``, or a shift: noise, blur, pixelate, contrast, dark, hue, outline, clutter.
        severity: Strength of the shift, 1 to 5.
        images: How many images.
        split: Which stream of images; settings are chosen on ``val`` and reported on ``test``.
        batch_size: Images adapted at once (E). Predictions do not depend on it.
        workers: Processes that draw images and make views.
        limit: Use only so many images, evenly spread; all where null.
    """

    def __init__(
        self,
        *,
        domain: str = "noise",
        severity: int = 3,
        images: int = 1000,
        split: Literal["val", "test"] = "test",
        batch_size: int = 32,
        workers: int = 1,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            DemoImages(domain, severity, images, split),
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            on_bad_image="error",
        )
