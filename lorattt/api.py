"""The Python call: images and class names in, ranked classes out; no Trainer, no files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from lorattt.callbacks.predictions import top_classes
from lorattt.clip.load import ClipSpec
from lorattt.data.images import MAX_PIXELS, read_image, upright_rgb
from lorattt.data.loose import find_images, loose_class_names
from lorattt.data.source import UNKNOWN_LABEL, EpisodeDataset, collate_episodes
from lorattt.errors import UserError
from lorattt.methods.base import Method
from lorattt.methods.registry import build_method
from lorattt.methods.several import Several

ImageLike: TypeAlias = str | Path | Image.Image | Tensor
Ranking: TypeAlias = tuple[tuple[str, float], ...]

_DEFAULT_MODEL = "ViT-B-16-quickgelu:openai"


@dataclass(frozen=True)
class Classification:
    """What became of one image.

    Attributes:
        path: Its path as given; None for an image that is no file.
        before: The most probable classes of the same model and text without adaptation, as (name, probability).
        after: The most probable classes of the method.
        fallback: Whether adaptation was not finite, so that ``after`` is ``before``.
        error: Why it could not be read, if so; rankings are empty then.
    """

    path: str | None
    before: Ranking = ()
    after: Ranking = ()
    fallback: bool = False
    error: str | None = None


def classify(
    images: Sequence[ImageLike] | str | Path,
    class_names: Sequence[str] | str,
    *,
    method: str | Method = "lora_ttt",
    model: ClipSpec | str | None = None,
    top_k: int = 5,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    seed: int = 0,
    on_bad_image: Literal["error", "skip"] = "skip",
    workers: int = 0,
    **options: Any,
) -> list[Classification]:
    """Classify images, each adapted to on its own; the numbers are those of ``lorattt predict``.

    Args:
        images: Paths, PIL images and tensors, mixed as you like; a tensor is ``(3, H, W)``, uint8 or floating
            point in ``[0, 1]``. Or one text: whatever ``data.images`` takes, such as ``"photos/*.jpg"``. An
            image's place in the list is its index: with the seed, it decides everything random.
        class_names: The names to choose from; or ``imagenet``, or a ``.txt`` or ``.json`` file.
        method: A name in :data:`~lorattt.methods.registry.METHODS`, or a method, which brings its own model, seed and
            options and is kept loaded between calls. It is left with these class names, in evaluation mode.
        model: Which CLIP: a :class:`ClipSpec`, ``"name:pretrained"`` or ``"name"``, whose tag is then ``openai``;
            OpenAI's ViT-B/16 where None.
        top_k: How many classes are given for an image, at most all there are.
        batch_size: Images adapted at once. Results do not depend on it.
        device: Where to run; None for the first GPU if there is one, or where the given method is.
        seed: Seed of everything random.
        on_bad_image: Give an unreadable image an ``error``, or raise one.
        workers: Processes that read images and make views; 0 for this one.
        options: The method's other arguments, such as ``steps=2`` or ``lora={"multiplier": 2.0}``.

    Returns:
        One result per image, in order.

    Raises:
        UserError: If an argument is of no use, a path does not exist, or, if so asked, an image is unreadable.
    """
    for key, value, least in (("top_k", top_k, 1), ("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise UserError(f"{key} {value}: must be at least {least}")
    if on_bad_image not in ("error", "skip"):
        raise UserError(f"on_bad_image {on_bad_image!r}: must be error or skip")
    names = loose_class_names(class_names, "class_names")
    source = _Given(images)
    place = _device(device, method)
    # The caller may be within inference mode; methods take gradients, of tensors made outside of it.
    with torch.inference_mode(False), torch.enable_grad():
        built = _method(method, model, seed, options)
        built = built.to(place).eval() if place else built.eval()
        built.use_classes(names)
        results: list[Classification | None] = [None] * len(source)
        for batch in _batches(source, built, batch_size, workers):
            for index, result in _classified(batch, built, source, names, top_k):
                if result.error and on_bad_image == "error":
                    raise UserError(f"cannot read image {source.path(index)} ({result.error}): mend or remove it")
                results[index] = result
    return [result for result in results if result is not None]


def _batches(source: "_Given", method: Method, size: int, workers: int) -> DataLoader[dict[str, Any]]:
    dataset = EpisodeDataset(source, list(range(len(source))), method.make_views())
    return DataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=collate_episodes)


def _classified(
    batch: Any, method: Method, source: "_Given", names: list[str], top_k: int
) -> Iterator[tuple[int, Classification]]:
    for bad in batch["skipped"]:
        yield bad["index"], Classification(source.file(bad["index"]), error=bad["reason"])
    if not batch["path"]:
        return
    moved: Any = {**batch, **{key: batch[key].to(method.device) for key in ("views", "label", "index")}}
    before, after, fallback = method.classify_views(moved)
    rankings = [
        [tuple((names[label], p) for label, p in row) for row in top_classes(logits.detach(), top_k)]
        for logits in (before, after)
    ]
    for index, first, second, kept in zip(batch["index"].tolist(), *rankings, fallback.tolist(), strict=True):
        yield index, Classification(source.file(index), first, second, kept)


class _Given:
    """The images of a call, as a source: whatever they are, numbered by their place."""

    def __init__(self, images: Sequence[ImageLike] | str | Path) -> None:
        if isinstance(images, Image.Image):
            raise UserError("images is one image: give a list, such as [image]")
        self._images: list[ImageLike] = (
            [*find_images(str(images), "images")] if isinstance(images, str | Path) else list(images)
        )
        self.name, self.class_names = "images", list[str]()
        for index, image in enumerate(self._images):
            if isinstance(image, Tensor):
                _check_tensor(image, self.path(index))
            elif isinstance(image, str | Path):
                path = Path(image).expanduser()
                if not (path.is_symlink() or path.is_file()):
                    raise UserError(f"{self.path(index)}: no such file; one text alone may be a folder or a pattern")
            elif not isinstance(image, Image.Image):
                raise UserError(f"{self.path(index)}: expected a path, a PIL image or a tensor, got {type(image)}")

    def __len__(self) -> int:
        return len(self._images)

    def file(self, index: int) -> str | None:
        """The path as given, for images that are files."""
        image = self._images[index]
        return str(image) if isinstance(image, str | Path) else None

    def path(self, index: int) -> str:
        return self.file(index) or f"images[{index}]"

    def label(self, index: int) -> int:
        return UNKNOWN_LABEL

    def read(self, index: int) -> Image.Image:
        image = self._images[index]
        if isinstance(image, Tensor):
            pixels = (image * 255).round() if image.is_floating_point() else image
            return Image.fromarray(pixels.detach().to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy())
        if isinstance(image, Image.Image):
            return upright_rgb(image, MAX_PIXELS)
        return read_image(Path(image).expanduser())


def _check_tensor(image: Tensor, name: str) -> None:
    if image.dim() != 3 or image.shape[0] != 3 or not image.numel():
        raise UserError(f"{name}: a tensor must be (3, H, W), this one is {tuple(image.shape)}")
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):  # false for NaN as well
            raise UserError(f"{name}: a floating-point tensor must be within [0, 1]: give the image unnormalised")
    elif image.dtype != torch.uint8:
        raise UserError(f"{name}: a tensor must be uint8 or floating point, this one is {image.dtype}")


def _device(device: str | torch.device | None, method: str | Method) -> torch.device | None:
    if device is None:
        return None if isinstance(method, Method) else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"device {str(device)!r} cannot be used ({reason}): name another, such as cpu") from error
    return found


def _method(method: str | Method, model: ClipSpec | str | None, seed: int, options: Mapping[str, Any]) -> Method:
    if isinstance(method, Several):
        raise UserError("method: Several has several answers to an image; give one of its methods")
    if isinstance(method, Method):
        given = [
            *(["model"] if model is not None else []),
            *(["seed"] if seed not in (0, method.seed) else []),
            *options,
        ]
        if given:
            raise UserError(f"{given[0]}: the {type(method).__name__} you give has its own; set it there")
        return method
    if not isinstance(model, ClipSpec):
        name, _, tag = (model or _DEFAULT_MODEL).partition(":")
        model = ClipSpec(name, tag) if tag else ClipSpec(name)
    return build_method(method, options, clip=model, seed=seed)
