"""Self-TPT (Zhu et al., 2024, arXiv 2408.05775), stages 2 and 3: a prompt adapts to class names, then images are plain.

Stage 1, which is :mod:`lorattt.methods.self_tpt_training`, learned a context ctx and a head h from source images. Here,
with g the text tower, f the image tower and N the class names to choose from:

    stage 2, once for a list of names, from a fresh copy of ctx, with g and h frozen:
        repeat ``steps`` times:  ctx <- ctx - stage2_lr * d CPT(h(g(views of the N names with ctx))) / d ctx
    stage 3:
        W = unit(g("end" view of the N names with ctx)),  p(y | x) = softmax(scale * unit(f(x)) . W)
        -v:  the mean of p over the ``selection`` views of lowest entropy, in place of the plain view alone

CPT is the contrastive loss of stage 1 (:class:`lorattt.methods.class_contrast.ContrastiveTask`): no image has a part in
it. Stage 2 works on the distinct names in an order of its own, so the order of the list changes nothing.

``docs/self_tpt.md`` has what the paper leaves open, and our choices.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lorattt.clip.load import ClipSpec
from lorattt.clip.model import Clip
from lorattt.clip.text import word_ids
from lorattt.episodes.engine import fall_back
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least, finite
from lorattt.methods.base import Method
from lorattt.methods.class_contrast import ContrastiveTask, read_source_prompt
from lorattt.methods.mean_of_views import mean_of_views
from lorattt.methods.shared_views import Needs, SharedViews
from lorattt.prompts.class_views import ClassifyBy, ClassView, ClassViews
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.crops import ViewSpec
from lorattt.views.selection import select_confident, selection_size

# What the loss is multiplied by while its gradient is taken, so that a tower in float16 does not lose small numbers.
_HALF_SCALE = 2.0**10


@dataclass(frozen=True)
class Stage2Report:
    """The result of stage 2."""

    classes: int  # distinct names that were contrasted
    steps: int
    loss_before: float  # the contrastive loss in nats, before the first step
    loss_after: float  # the same after the last one
    seconds: float  # encoding the texts of stage 1 and of stage 2 included
    finite: bool  # whether its result is used; if not, that of stage 1 is


class SelfTPT(Method):
    """Stages 2 and 3 of Self-TPT as a LightningModule: any image tower, no gradient of any image.

    Args:
        clip: Which CLIP to use; its text tower must take a prompt.
        prompt: The file that ``SelfTPTTraining`` wrote, with a projection head; without stage 2 any prompt that all
            classes share.
        views: How the views of an image are made; read with ``ensemble`` alone, else there is the plain view.
        stage2: Adapt the prompt to the class names; false is the control, plain inference with the given prompt.
        steps: Steps of stage 2.
        stage2_lr: Rate of its SGD, which has neither momentum nor weight decay.
        class_views: Which prompts of a class are contrasted; null for those of the file.
        temperature: What similarities are divided by in the contrast; null for the file's.
        text_chunk: Sequences encoded at a time in stage 2, for large class lists: of each, the input alone is kept
            for the backward pass. Null for what the memory suggests. The result is the same.
        classify_by: ``end``: the prompt with the name behind the context. ``mean``: the mean over ``class_views``.
        ensemble: Self-TPT-v: the mean class distribution of the confident views.
        selection: Fraction of views that take part in it.
        **kwargs: See :class:`Method`.

    Attributes:
        text: ``(K, D)``, the class texts of the given prompt as any other method has them.
        source: ``(K, D)`` unit class features of stage 1.
        adapted: ``(K, D)`` unit class features of stage 2.
        stage2_report: What stage 2 did for the present class list; None without stage 2.
    """

    name: ClassVar[str] = "self_tpt"
    context: Tensor
    source: Tensor
    adapted: Tensor
    _distinct: Tensor

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        prompt: PromptSpec = PromptSpec(),
        views: ViewSpec = ViewSpec(),
        stage2: bool = True,
        steps: int = 10,
        stage2_lr: float = 0.002,
        class_views: list[ClassView] | None = None,
        temperature: float | None = None,
        text_chunk: int | None = None,
        classify_by: ClassifyBy = "end",
        ensemble: bool = False,
        selection: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.stage2, self.steps, self.stage2_lr, self.text_chunk = stage2, steps, stage2_lr, text_chunk
        self.classify_by, self.ensemble, self.selection = classify_by, ensemble, selection
        self.found = read_source_prompt(prompt, class_views, temperature, contrasts=stage2)
        views = views if ensemble else replace(views, number=1)
        super().__init__(clip=clip, prompt=prompt, templates="single", views=views, **kwargs)
        context, head = self.found.for_model(self.clip, prompt, self.seed)
        self.head = head.requires_grad_(False).eval() if head is not None else None
        self.stage2_report: Stage2Report | None = None
        self._given: list[str] | None = None
        self._distinct_of: list[str] | None = None
        self.register_buffer("context", context, persistent=False)
        for name in ("source", "adapted", "_distinct"):
            self.register_buffer(name, torch.empty(0), persistent=False)

    def check_options(self) -> None:
        """Validate the numbers, and that some view classifies."""
        at_least(0, model__steps=self.steps)
        finite(model__stage2_lr=self.stage2_lr)
        at_least(1, ", or null", model__text_chunk=self.text_chunk)
        if self.classify_by not in ("end", "mean"):
            raise UserError(f"model.classify_by {quoted(self.classify_by)}: must be end or mean")
        if self.ensemble:
            selection_size(self.views.number, self.selection)
        if self.found.separate and self.classify_by == "end" and "end" not in self.found.views:
            raise UserError(
                f"class_views {list(self.found.views)}: the end view classifies, and with separate contexts nothing "
                "would be learned for it: add it, or set model.classify_by to mean"
            )
        super().check_options()

    @property
    def needs(self) -> Needs:
        """View 0 and no other, unless it is Self-TPT-v."""
        return Needs(all_views=self.ensemble)

    def check_texts(self) -> None:
        """Validate and tokenise the class names, once per list, before anything is encoded."""
        given, found = list(self.class_names or ()), self.found
        if given == self._given:
            return
        names, places = distinct_names(self.clip, given)
        if self.stage2 and len(names) == 1:
            raise UserError(
                "the class list has 1 distinct name: stage 2 of Self-TPT tells names apart and needs at least two; "
                "give more names, or set model.stage2 to false"
            )
        tokens = self.context.shape[-2]
        self._views = ClassViews(self.clip, names, tokens, views=found.views, template=found.template)
        self._given, self._names, self._places = given, names, places

    def _encode_classes(self) -> None:
        """Encode the class names and adapt the prompt to them on the model's device, once per set of names."""
        self.check_texts()
        self.metrics.reset()
        if self._names != self._distinct_of:
            # Tensors of inference mode, which the Trainer may be in, can have no graph.
            device = self.clip.text_tower.device.type
            with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
                self._distinct = torch.stack(self._adapt())
            self._distinct_of = self._names
        self.source, self.adapted = self._distinct[:, self._places.to(self._distinct.device)]

    def _adapt(self) -> tuple[Tensor, Tensor]:
        """Texts ``(n, D)`` of the distinct names, of stage 1 and of stage 2, without a graph."""
        started, context, views = time.perf_counter(), self.context, self._views
        source = self._texts(context)
        self.stage2_report = None
        if not self.stage2 or self.head is None:
            return source, source
        task = ContrastiveTask(views, self.head, self.found.temperature)
        scale = _HALF_SCALE if self.clip.text_tower.dtype == torch.float16 else 1.0
        steps, lr, chunk = self.steps, self.stage2_lr, self.text_chunk
        moved, losses = adapt_to_names(task, context, steps=steps, lr=lr, chunk=chunk, scale=scale)
        adapted = self._texts(moved)
        usable = all(bool(x.isfinite().all()) for x in (losses, moved, adapted))
        first, last, seconds = float(losses[0]), float(losses[-1]), time.perf_counter() - started
        self.stage2_report = Stage2Report(views.count, steps, first, last, seconds, usable)
        if not usable:
            rank_zero_warn(
                "stage 2 of Self-TPT was not finite: the prompt of stage 1 classifies all images; lower model.stage2_lr"
            )
        if self._trainer is not None:  # none in the Python call, which prints nothing
            self.print(
                f"stage 2: {steps} steps on {views.count} class names in {seconds:.2f} s, "
                f"contrastive loss {first:.4f} before, {last:.4f} after"
            )
        return source, adapted if usable else source

    @torch.no_grad()
    def _texts(self, context: Tensor) -> Tensor:
        """``(n, D)`` unit class features with that context, from the views that classify."""
        return self._views.classifier(context, self.classify_by, chunk=self.text_chunk)[0]

    @torch.no_grad()
    def kept(self, views: SharedViews) -> Tensor | None:
        """``(E, n)`` int64, the views of Self-TPT-v's mean, most confident first; None without ``ensemble``."""
        if not self.ensemble:
            return None
        logits = self.clip.logit_scale * views.features @ self.adapted.T
        return select_confident(logits, selection_size(views.number, self.selection))

    @torch.no_grad()
    def classify(self, views: SharedViews) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(E, K)`` with the texts of stage 1 and of stage 2, and fallbacks ``(E,)``."""
        failed = self.stage2_report is not None and not self.stage2_report.finite
        if not self.ensemble:
            scaled = self.clip.logit_scale * views.plain_features
            before = scaled @ self.source.T
            after = scaled @ self.adapted.T if self.stage2 else before
            return before, after, torch.full((len(before),), failed, device=before.device)
        scaled = self.clip.logit_scale * views.features
        before = scaled[:, 0] @ self.source.T
        before, after, fallback = fall_back(before, mean_of_views(scaled @ self.adapted.T, self.selection))
        return before, after, fallback | failed


def adapt_to_names(
    task: ContrastiveTask, context: Tensor, *, steps: int, lr: float, chunk: int | None = None, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Stage 2: plain SGD on the contrastive loss of a class list, all classes in every step.

    The context is ``(M, d)``, or ``(U, M, d)`` for one in each of U learned views; it is left as it is. ``scale`` is
    what the loss is multiplied by while its gradient is taken, see ``_HALF_SCALE``; ``chunk`` as for
    :meth:`ClassViews.features`. Returns the context after the last step, without a graph, and ``(steps + 1,)`` losses:
    before each step, after the last.
    """
    point, losses = context.detach().clone(), list[Tensor]()
    for _ in range(steps):
        point.requires_grad_()
        loss = task.loss(point, chunk=chunk)
        (gradient,) = torch.autograd.grad(scale * loss, point)
        losses.append(loss.detach())
        point = point.detach() - lr / scale * gradient
    with torch.no_grad():
        losses.append(task.loss(point, chunk=chunk))
    return point, torch.stack(losses)


def distinct_names(clip: Clip, class_names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The names that the text tower can tell apart, underscores as spaces, in an order that does not depend on theirs.

    ``t_shirt``, ``t shirt`` and ``T  Shirt`` are one name. Also the place of each given one among them, ``(K,)`` int64.
    """
    spoken = [name.replace("_", " ") for name in class_names]
    keys = [tuple(word_ids(clip.tokenizer, name)) for name in spoken]
    order = {key: place for place, key in enumerate(sorted(set(keys)))}
    names = [""] * len(order)
    for key, name in sorted(zip(keys, spoken, strict=True), reverse=True):
        names[order[key]] = name  # of several spellings, the first
    return names, torch.tensor([order[key] for key in keys], dtype=torch.int64)
