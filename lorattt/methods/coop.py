"""CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134): the words of a prompt learned from a few images of each class.

The context vectors in front of, around or behind the class names are trained with the cross-entropy of augmented
images against all class texts (section 3.2); both towers are frozen.

    loss = - log softmax(scale * image . text(context))[label]

The authors' recipe: 16 images a class, SGD with rate 0.002, momentum 0.9 and weight decay 5e-4, batches of 32, one
epoch at rate 1e-5, then a cosine; 50 epochs on ImageNet, up to 200 on smaller sets; the last epoch counts.

Texts are encoded once per step, no longer than needed; images without a graph.
"""

from typing import ClassVar

from lorattt.clip.load import ClipSpec
from lorattt.methods.source import PromptTraining
from lorattt.prompts.prompt import PromptSpec
from lorattt.views.training import TrainingCrop


class CoOp(PromptTraining):
    """CoOp as a LightningModule, for ``fit``; its prompt is for ``prompt.file`` of any method.

    Args:
        clip: Which CLIP to use; any image tower.
        class_names: Names in label order; the dataset's where null.
        prompt: Where the context begins: words, a file, or random vectors; one for all classes, or one each.
        crop: How training images are cut.
        lr: Learning rate.
        momentum: SGD's.
        weight_decay: SGD's.
        warmup_epochs: Epochs at ``warmup_lr``, before the cosine begins.
        warmup_lr: Learning rate of these.
        seed: Seed of everything random, with each sample's index. ``seed_everything`` on the command line.
    """

    name: ClassVar[str] = "coop"

    def __init__(
        self,
        *,
        clip: ClipSpec = ClipSpec(),
        class_names: list[str] | None = None,
        prompt: PromptSpec = PromptSpec(),
        crop: TrainingCrop = TrainingCrop(),
        lr: float = 2e-3,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup_epochs: int = 1,
        warmup_lr: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            clip=clip,
            class_names=class_names,
            prompt=prompt,
            crop=crop,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
            warmup_lr=warmup_lr,
            seed=seed,
        )
