"""CoOp (Zhou et al., IJCV 2022, arXiv 2109.01134): the words of a prompt learned from a few images of each class.

The context vectors in front of, around or behind the class names are trained with the cross-entropy of augmented
images against all class texts (section 3.2); both towers are frozen.

    loss = - log softmax(scale * image . text(context))[label]

The authors' recipe: 16 images a class, SGD with rate 0.002, momentum 0.9 and weight decay 5e-4, batches of 32, one
epoch at rate 1e-5, then a cosine; 50 epochs on ImageNet, up to 200 on smaller sets; the last epoch counts.

Texts are encoded once per step, no longer than needed; images without a graph.
"""

from typing import ClassVar

from lorattt.methods.source import PromptTraining


class CoOp(PromptTraining):
    """CoOp as a LightningModule, for ``fit``; its prompt is for ``prompt.file`` of any method."""

    name: ClassVar[str] = "coop"
