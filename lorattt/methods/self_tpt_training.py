"""Self-TPT, its first stage (Zhu et al., arXiv 2408.05775): a prompt learned together with a task of class names alone.

Each class c is written in four views v: the context p with the name before, within and behind it, and a fixed text.
f, g are CLIP's towers, frozen; h is a projection head, needed for the task alone; all features have unit length.

    L_ce   = - mean_b log softmax(scale * f(x_b) . g(end view))[y_b]                          CoOp's
    L_cpt  = InfoNCE over h(g(class c in view v)); positives: the other views of c            contrastive prompt tuning
    L_gm   = 1 - cos(G, dL_cpt/dp),  G = ema * G + dL_ce/dp, held fixed                       gradient matching
    loss   = L_ce + L_cpt + L_gm,  minimised over p and the head

At test time, labels are missing and L_cpt alone is left (:mod:`lorattt.methods.self_tpt`); L_gm makes what it does to
the prompt resemble what L_ce would do.

The paper gives the four views, what attracts and what repels, one minus the cosine, and that gradients are averaged
with a decay. The form of InfoNCE, the head, which gradient is averaged and which is differentiated, and all numbers are
our choices; ``docs/self_tpt.md`` has the reasons.

A step computes its gradients itself and gives Lightning a scalar with just these, so that the average over devices,
loss scaling, clipping and accumulation are Lightning's. Texts are in the tower's own type also under autocast.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorattt.clip.text import SINGLE
from lorattt.errors import UserError, quoted
from lorattt.inputs import at_least, finite
from lorattt.methods.batch import EpisodeBatch
from lorattt.methods.class_contrast import (
    TEMPERATURE,
    VIEWS,
    ContrastiveTask,
    HeadSpec,
    ProjectionHead,
    check_temperature,
    choose_classes,
    text_width,
)
from lorattt.methods.coop import PromptTraining
from lorattt.methods.gradient_matching import FIX, Derivative, GradientMatching, check_second_derivatives
from lorattt.prompts.class_views import (
    CLASS_VIEWS,
    ClassifyBy,
    ClassView,
    ClassViews,
    check_class_views,
    check_template,
)
from lorattt.prompts.files import Prompt
from lorattt.prompts.prompt import PromptSpec


class SelfTPTTraining(PromptTraining):
    """Self-TPT's first stage as a LightningModule, for ``fit``.

    Its prompt is for ``prompt.file`` of any method; for SelfTPT, the file holds the head as well.

    Args:
        prompt: Where the context begins: words, a file, or random vectors; one for all classes, the name behind it.
        class_views: Which views of a class are contrasted: front, middle, end, hand.
        separate_contexts: Whether each learned view has a context of its own; one for all otherwise.
        template: The text of the view ``hand``, with one ``{}``.
        head: The projection head's shape.
        temperature: What similarities of projections are divided by.
        ce_weight: Weight of the cross-entropy.
        contrast_weight: Weight of the contrast of class names; 0 leaves it out.
        matching_weight: Weight of gradient matching; 0 leaves it out. With both 0 each step is CoOp's, without head.
        classify_by: Images are compared with the ``end`` view, or with the mean over ``class_views``.
        derivative: Second derivatives by a second backward pass, or by finite differences: the same but for rounding.
        ema: Decay of the running sum of cross-entropy gradients; 0 for that of the step alone.
        symmetric_matching: Sum up both gradients and differentiate both, in place of one each.
        classes_per_step: The most classes contrasted in a step: those of its images and others, drawn anew in each
            step; all where null. The cross-entropy is over all classes in any case.
        head_lr: The head's learning rate, which is scaled by warm-up and cosine as the other; ``lr`` where null.
        **kwargs: See :class:`PromptTraining`.

    Attributes:
        context: ``(M, d)`` float32, ``(U, M, d)`` if each of U learned views has its own.
        head: The projection head; null where nothing is contrasted.
    """

    name: ClassVar[str] = "self_tpt_training"

    def __init__(
        self,
        *,
        prompt: PromptSpec = PromptSpec(),
        class_views: list[ClassView] = list(CLASS_VIEWS),  # noqa: B006 - copied below
        separate_contexts: bool = False,
        template: str = SINGLE,
        head: HeadSpec = HeadSpec(),
        temperature: float = TEMPERATURE,
        ce_weight: float = 1.0,
        contrast_weight: float = 1.0,
        matching_weight: float = 1.0,
        classify_by: ClassifyBy = "end",
        derivative: Derivative = "exact",
        ema: float = 0.9,
        symmetric_matching: bool = False,
        classes_per_step: int | None = 256,
        head_lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.class_views, self.separate_contexts, self.template = list(class_views), separate_contexts, template
        self.head_spec, self.head_lr, self.temperature = head, head_lr, temperature
        self.weights = {"ce": ce_weight, "contrast": contrast_weight, "matching": matching_weight}
        self.classify_by, self.derivative = classify_by, derivative
        self.ema, self.symmetric_matching, self.classes_per_step = ema, symmetric_matching, classes_per_step
        super().__init__(prompt=prompt, **kwargs)
        if matching_weight and self.clip.text_tower.dtype not in (torch.float32, torch.float64):
            raise UserError(
                "model.clip.dtype: second derivatives, of gradient matching, need a text tower of fp32: use fp32, with "
                "trainer.precision bf16-mixed for images of half precision, or model.matching_weight 0"
            )
        self.head: ProjectionHead | None = None
        self.matching: GradientMatching | None = None
        self.task: ContrastiveTask | None = None

    def check_options(self) -> None:
        """Validate the weights, the numbers, the views and the prompt's shape."""
        finite("", **{f"model__{name}_weight": weight for name, weight in self.weights.items()})
        if not any(self.weights.values()):
            raise UserError("model.ce_weight, contrast_weight, matching_weight: all are 0, so nothing would be learned")
        finite(", or null for that of lr", model__head_lr=self.head_lr)
        if not 0 <= self.ema < 1:
            raise UserError(f"model.ema {self.ema}: must be at least 0, for no average, and below 1")
        at_least(2, ", or null for all classes", model__classes_per_step=self.classes_per_step)
        for key, known in (("classify_by", ClassifyBy), ("derivative", Derivative)):
            if (value := getattr(self, key)) not in get_args(known):
                raise UserError(f"model.{key} {quoted(value)}: must be {' or '.join(get_args(known))}")
        check_temperature(self.temperature)
        check_class_views(self.class_views, "model.class_views")
        check_template(self.template, "model.template")
        if self.separate_contexts and "end" not in self.class_views:
            raise UserError(
                "model.separate_contexts: without the view end among model.class_views, no context is learned for what "
                "classifies: add end, or let the views share a context"
            )
        if self.spec.class_specific or self.spec.position not in (None, "end"):
            raise UserError(
                "model.prompt: the views put one context for all classes before, around and behind the name: leave "
                "class_specific and position out"
            )
        super().check_options()

    def setup(self, stage: str) -> None:
        """As for any training of a prompt; make the views, the head and the running sums."""
        super().setup(stage)
        initial = self.initial
        if initial.class_specific or initial.position != "end":
            raise UserError(
                f"model.prompt.file {self.spec.file}: it has a context for each class, or for the position "
                f"{initial.position}; the views need one for all classes, with the name behind it"
            )
        names = list(self.class_names or [])
        self.views = ClassViews(self.clip, names, initial.tokens, views=self.class_views, template=self.template)
        if self.separate_contexts:
            self.context = nn.Parameter(initial.context.expand(len(self.views.learned), -1, -1).clone())
        if not self.weights["contrast"] and not self.weights["matching"]:
            return
        width = text_width(self.clip)
        self.head = ProjectionHead(width, self.head_spec, seed=self.seed)
        self.task = ContrastiveTask(self.views, self.head, self.temperature)
        if not self.weights["matching"]:
            return
        only = None
        if self.separate_contexts and self.classify_by == "end":
            # Of separate contexts, the cross-entropy moves one: what both losses move is compared.
            only = torch.tensor([float(view == "end") for view in self.views.learned]).view(-1, 1, 1)
        self.matching = GradientMatching(
            self.context, ema=self.ema, derivative=self.derivative, symmetric=self.symmetric_matching, only=only
        )
        if self.derivative == "exact":  # reject a model without second derivatives
            if self._compiler_ctx is not None:
                raise UserError(f"gradient matching: a compiled model has no second derivatives: {FIX}")
            two = self.prompts.take(torch.arange(2))
            weights = torch.linspace(-1, 1, 2 * width).view(2, width)
            check_second_derivatives(lambda context: (two.features(context) * weights).sum(), self.initial.context)

    def on_train_start(self) -> None:
        """Require ``classes_per_step`` to hold the classes of a step's images."""
        limit, count = self.classes_per_step, self.views.count
        images = getattr(self.trainer.train_dataloader, "batch_size", None)
        if self.task is None or limit is None or images is None:
            return
        needed = min(images * self.trainer.world_size, count)
        if limit < needed:
            raise UserError(
                f"model.classes_per_step {limit}: a step's images can be of {needed} classes, all of which are "
                f"contrasted: give at least {needed}, or null for all {count}"
            )

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """A scalar whose gradient is the step's; it has no other meaning. What is logged are the losses.

        Without an image, in a batch of which none could be read, the cross-entropy is 0 and the class names count.
        """
        label = batch["label"]
        needs_images = self.weights["ce"] or self.weights["matching"]
        features = self.image_features(batch["views"]) if needs_images and len(label) else None
        with torch.autocast(self.device.type, enabled=False):
            gradients, terms = self._gradients(features, label)
            pairs = zip(self.learned(), gradients, strict=True)
            surrogate = torch.stack([(parameter * gradient).sum() for parameter, gradient in pairs]).sum()
        if len(label):
            self.log("train/loss", terms.pop("loss"), prog_bar=True, batch_size=len(label))
            for name, value in terms.items():
                self.log(f"train/{name}", value, batch_size=len(label))
        return surrogate

    def learned(self) -> list[Tensor]:
        """The context, and the head's parameters where there is one."""
        return [self.context, *(() if self.head is None else self.head.parameters())]

    def _gradients(self, features: Tensor | None, label: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Gradients of the weighted loss by each of :meth:`learned`, and the losses; moves the running sums on.

        Without features, where no image could be read or none is needed, the cross-entropy is 0.
        """
        matching, task, context, learned = self.matching, self.task, self.context, self.learned()
        exact = matching is not None and matching.exact
        terms: dict[str, Tensor] = {}
        gradients: dict[str, Sequence[Tensor]] = {}
        known: dict[ClassView, Tensor] = {}
        if self.weights["ce"] or matching is not None:
            terms["ce"], known = self._cross_entropy(context, features, label)
            symmetric = exact and self.symmetric_matching
            # Where there is a contrast, it has a part of the graph: the views that are known.
            gradients["ce"] = torch.autograd.grad(
                terms["ce"], context, create_graph=symmetric, retain_graph=task is not None
            )
        if task is not None:
            classes = self._classes_of_step(label)
            if classes is not None:
                known = {view: each[classes] for view, each in known.items()}
            terms["contrast"] = task.loss(context, classes=classes, known=known)
            gradients["contrast"] = torch.autograd.grad(terms["contrast"], learned, create_graph=exact)
            if matching is not None:
                gradients["matching"], found = matching.step(
                    learned,
                    gradients["ce"][0],
                    gradients["contrast"][0],
                    lambda point: self._cross_entropy(point, features, label)[0],
                    partial(task.loss, classes=classes),
                    mean=partial(self.trainer.strategy.reduce, reduce_op="mean"),
                )
                terms |= found
        terms = {name: value.detach() for name, value in terms.items()}
        terms["loss"] = torch.stack([self.weights[name] * terms[name] for name in gradients]).sum()
        totals = [torch.zeros_like(parameter) for parameter in learned]
        for name, parts in gradients.items():
            if self.weights[name]:
                for total, part in zip(totals, parts, strict=False):  # the cross-entropy has none for the head
                    total.add_(part.detach(), alpha=self.weights[name])
        return totals, terms

    def _cross_entropy(
        self, context: Tensor, features: Tensor | None, label: Tensor
    ) -> tuple[Tensor, dict[ClassView, Tensor]]:
        """CoOp's loss with a context, and the class features of the views behind it."""
        text, known = self.views.classifier(context, self.classify_by)
        return 0 * text.sum() if features is None else F.cross_entropy(self.logits(features, text), label), known

    def _classes_of_step(self, label: Tensor) -> Tensor | None:
        """``(n,)`` int64, the classes that are contrasted; null for all."""
        count = self.views.count
        if self.classes_per_step is None or count <= self.classes_per_step:
            return None
        present = torch.zeros(count, device=label.device)
        present[label] = 1
        present = cast(Tensor, self.trainer.strategy.reduce(present, reduce_op="sum"))
        return choose_classes(present > 0, self.classes_per_step, self.seed, self.trainer.global_step)

    def text_features(self) -> Tensor:
        """``(K, D)`` unit class features with the prompt as it is now: what images are compared with."""
        return self.views.classifier(self.context, self.classify_by)[0]

    def prompt(self) -> Prompt:
        """The prompt of the view ``end`` as it is now; the settings that later stages need, the head, all contexts."""
        notes = {"temperature": repr(self.temperature), "class_views": ",".join(self.class_views)}
        notes |= {"template": self.template, "classify_by": self.classify_by}
        tensors = {} if self.head is None else self.head.tensors()
        if self.separate_contexts:
            pairs = zip(self.views.learned, self.context.detach(), strict=True)
            tensors |= {VIEWS + view: each.clone() for view, each in pairs}
        context = self.views.context_of_end(self.context.detach()).float().cpu().clone()
        return replace(self.initial, context=context, notes=notes, extras=tensors)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The context and the head, which may have a rate of its own."""
        if self.head is None or self.head_lr is None:
            return super().parameter_groups()
        return [{"params": [self.context]}, {"params": list(self.head.parameters()), "lr": self.head_lr}]
