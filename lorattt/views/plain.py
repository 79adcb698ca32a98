"""View 0, the plain one: how a model's own preprocessing makes a square of an image. Geometry alone, no pixels."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

ResizeMode: TypeAlias = Literal["shortest", "longest", "squash"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class PlainView:
    """How the plain view is made, in open_clip's terms.

    Args:
        resize_mode: ``shortest``: the shorter side is resized to the view's, and the centre cut out. ``longest``: the
            longer side is resized, and a border fills what is left. ``squash``: both sides are resized.
        interpolation: The filter; Pillow's, antialiased.
        fill_color: Grey value of the border, 0 to 255.
    """

    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    fill_color: int = 0

    def resized(self, height: int, width: int, size: int) -> tuple[int, int]:
        """Height and width of a whole image when it is resized for a view of side ``size``, all in pixels."""
        if self.resize_mode == "squash":
            return size, size
        if self.resize_mode == "longest":
            # Python's rounding, half to even, as open_clip has it; a line of pixels keeps one.
            ratio = max(height / size, width / size)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        # torchvision rounds the longer side down.
        shorter = min(height, width)
        return int(size * height / shorter), int(size * width / shorter)

    def border(self, height: int, width: int, size: int) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom margin around the resized image, in pixels; None if it fills the view."""
        down, across = (max(0, size - side) for side in self.resized(height, width, size))
        return (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2) if down or across else None
