"""The Python call: images and class names in, ranked classes out; no Trainer, no files."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeAlias

import torch

from lorattt.callbacks.predictions import top_classes
from lorattt.clip.load import ClipSpec
from lorattt.data.given import GivenImages, ImageLike
from lorattt.data.loader import EpisodeLoader
from lorattt.data.loose import unlabelled_class_names
from lorattt.data.source import EpisodeDataset
from lorattt.errors import UserError, first_line, quoted
from lorattt.inputs import at_least
from lorattt.methods.base import Method
from lorattt.methods.batch import EpisodeBatch, MicroBatcher, Predictions, no_memory
from lorattt.methods.registry import METHODS, build_method, convert
from lorattt.methods.several import Several
from lorattt.torch_state import known_state
from lorattt.views.device import DeviceViews

Ranking: TypeAlias = tuple[tuple[str, float], ...]

_DEFAULT_MODEL = "ViT-B-16-quickgelu:openai"
_SEEDS = 2**32


@dataclass(frozen=True)
class Classification:
    """The result for one image: the most probable classes, as (name, probability), or none if they are not finite."""

    path: str | None  # as given; None for an image that is no file
    before: Ranking = ()  # of the same model and text without adaptation
    after: Ranking = ()  # of the method
    fallback: bool = False  # whether adaptation was not finite, so that after is before
    error: str | None = None  # why the image could not be read, if so; rankings are empty then


def classify(
    images: Iterable[ImageLike] | str | os.PathLike[str],
    class_names: Iterable[str] | str | os.PathLike[str],
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

    What other code has set in torch (default dtype and device, autocast, gradient modes, TF32) changes nothing here,
    and is as it was afterwards.

    Args:
        images: Paths, PIL images, tensors and arrays, mixed as you like; a tensor is ``(3, H, W)``, an array
            ``(H, W, 3)``, see :class:`lorattt.data.given.GivenImages`. Or one text: whatever ``data.images`` takes,
            such as ``"photos/*.jpg"``. An image's place in the list is its index: with the seed, it decides
            everything random.
        class_names: The names to choose from, as texts; or ``imagenet``, or a ``.txt`` or ``.json`` file.
        method: A name in :data:`~lorattt.methods.registry.METHODS` or that of its class; or a method, which brings
            its own model, seed and options and is kept loaded between calls. It is left with these class names, in
            evaluation mode.
        model: Which CLIP: a :class:`ClipSpec`, ``"name:pretrained"`` or ``"name"``, whose tag is then ``openai``;
            OpenAI's ViT-B/16 where None.
        top_k: How many classes are given for an image, at most all there are.
        batch_size: Images adapted at once, fewer where the device's memory is too small. Results do not depend on it.
        device: Where to run; None for the first GPU if there is one, or where the given method is.
        seed: Seed of everything random.
        on_bad_image: Give an unreadable image an ``error``, or raise one.
        workers: Processes that read images, and make their views where the device does not; 0 for this one.
        options: The method's other arguments, such as ``steps=2`` or ``lora={"multiplier": 2.0}``.

    Returns:
        One result per image, in order.

    Raises:
        UserError: If an argument cannot be used, a path does not exist, memory does not suffice for one image, or an
            image is unreadable and ``on_bad_image`` is ``error``.
    """
    top_k, batch_size = _whole("top_k", top_k, 1), _whole("batch_size", batch_size, 1)
    seed, workers = _whole("seed", seed, 0, _SEEDS - 1), _whole("workers", workers, 0)
    if not isinstance(on_bad_image, str) or on_bad_image not in ("error", "skip"):
        raise UserError(f"on_bad_image {quoted(on_bad_image)}: must be error or skip")
    names = _names(class_names)
    place = _device(device, method)
    with known_state(place):
        source = GivenImages(images)
        try:
            built = _method(method, model, seed, options).to(place).eval()
            _check_usable(built)
            built.use_classes(names)
            results: list[Classification | None] = [None] * len(source)
            size = min(batch_size, max(1, len(source)))
            for index, result in _results(source, built, names, min(top_k, len(names)), size, workers):
                if result.error and on_bad_image == "error":
                    raise UserError(f"cannot read image {source.path(index)} ({result.error}): fix or remove it")
                results[index] = result
        except RuntimeError as error:
            if reason := _reason(error):
                raise UserError(reason) from error
            raise
    return [result for result in results if result is not None]


def _results(
    source: GivenImages, method: Method, names: list[str], top_k: int, size: int, workers: int
) -> Iterator[tuple[int, Classification]]:
    make, parts, device = method.make_views(), MicroBatcher(), method.device
    plan = DeviceViews(make).plan if method.makes_views_on(device) else None
    dataset = EpisodeDataset(source, list(range(len(source))), None if plan else make, plan)

    def predictions(part: EpisodeBatch) -> Predictions:
        return method.predictions({**part, "views": part["views"].to(device)} if "views" in part else part)

    for batch in EpisodeLoader(dataset, batch_size=size, num_workers=workers):
        for bad in batch["skipped"]:
            yield bad["index"], Classification(source.file(bad["index"]), error=bad["reason"])
        if not batch["path"]:
            continue
        moved: Any = {**batch, **{key: batch[key].to(device) for key in ("label", "index")}}
        (found,) = parts.classify(moved, predictions).values()
        before, after = (
            [tuple((names[label], p) for label, p in row) for row in top_classes(found[when], top_k)]
            for when in ("before", "after")
        )
        columns = (batch["index"].tolist(), before, after, found["fallback"].tolist())
        for index, first, second, kept in zip(*columns, strict=True):
            yield index, Classification(source.file(index), first, second, kept)


def _whole(key: str, value: Any, least: int, most: int | None = None) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise UserError(f"{key} {quoted(value)}: must be a whole number")
    number = int(value)
    at_least(least, "", **{key: number})
    if most is not None and number > most:
        raise UserError(f"{key} {quoted(number)}: must be at most {most}")
    return number


def _names(given: Any) -> list[str]:
    """The class names in label order, each a text of Python."""
    if isinstance(given, str | os.PathLike) and isinstance(os.fspath(given), str):
        return unlabelled_class_names(str.__str__(os.fspath(given)), "class_names", "['cat', 'dog']")
    if isinstance(given, Mapping):
        raise UserError("class_names is a mapping: give a list in label order, such as list(names.values())")
    if isinstance(given, set | frozenset):
        raise UserError("class_names is a set, which has no order: give a list, such as sorted(names)")
    listed = isinstance(given, Iterable) and not isinstance(given, bytes | bytearray)
    if not listed or getattr(given, "ndim", 1) != 1:
        raise UserError(f"class_names: expected a list of texts, got {quoted(given)}")
    names = list(given)
    for number, name in enumerate(names, 1):
        if not isinstance(name, str):
            raise UserError(f"class_names: name {number} is {quoted(name)}, not a text: give every class a name")
    return unlabelled_class_names([str.__str__(name) for name in names], "class_names")


def _device(device: Any, method: Any) -> torch.device:
    own = next(method.parameters()).device if isinstance(method, Method) else None
    if device is None:
        found = own or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        try:
            found = torch.device(device)
            torch.empty(0, device=found)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            reason = first_line(error, 150)
            shown = quoted(device if isinstance(device, str) else str(device))
            raise UserError(f"device {shown} cannot be used ({reason}): name another, such as cpu") from error
    if "meta" in (found.type, own and own.type):
        raise UserError("device meta holds no numbers: name another, such as cpu, and make the method on another")
    return found


def _method(method: Any, model: Any, seed: int, options: Mapping[str, Any]) -> Method:
    if isinstance(method, Several):
        raise UserError("method: Several has several answers to an image; give one of its methods")
    if isinstance(method, Method):
        own = {"model": model is not None, "seed": seed not in (0, method.seed), **dict.fromkeys(options, True)}
        for key in own:
            if own[key]:
                raise UserError(f"{key}: the {type(method).__name__} you give has its own; set it there")
        return method
    if not isinstance(method, str):
        given_as = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise UserError(f"method: expected a name or a method such as LoRATTT(...), got {given_as}")
    name = next((name for name, kind in METHODS.items() if kind.__name__ == method), method)
    return build_method(name, options, clip=_clip(model), seed=seed)


def _clip(model: Any) -> ClipSpec:
    if model is None:
        model = _DEFAULT_MODEL
    if isinstance(model, str):
        name, _, tag = str.__str__(model).partition(":")
        return ClipSpec(name, tag) if tag else ClipSpec(name)
    if not isinstance(model, ClipSpec):
        raise UserError(f"model: expected a text such as {_DEFAULT_MODEL!r} or a ClipSpec, got {quoted(model)}")
    convert(ClipSpec, "model", model)
    return model


def _check_usable(method: Method) -> None:
    """Reject a method whose model was made in float64 or in inference mode."""
    if any(parameter.dtype == torch.float64 for parameter in method.parameters()):
        raise UserError("method: its model is in float64: make it with the default dtype float32")
    if method.needs_gradient and any(parameter.is_inference() for parameter in method.parameters()):
        raise UserError("method: it was made within torch.inference_mode, and needs gradients: make it outside")


def _reason(error: RuntimeError) -> str | None:
    """The message for an error that the arguments or the machine caused; None for a defect of the program."""
    first = (str(error).splitlines() or [""])[0]
    if no_memory(error):
        return (
            "memory does not suffice for one image at a time: use a smaller views={'number': ...}, chunk=... where the "
            "method has it, or a model with dtype bf16"
        )
    if first.startswith("DataLoader worker"):
        return f"{first} Often memory, or shared memory, has run out: use fewer workers, or workers=0"
    if torch.are_deterministic_algorithms_enabled() and "determinis" in first:
        return f"torch.use_deterministic_algorithms is set, and the method cannot do with it: {first}"
    return None
