"""C-TPT (Yoon et al., ICLR 2024, arXiv 2403.14119): TPT that keeps the class texts apart, for calibration.

Tuning the prompt on entropy alone makes predictions overconfident, the more so the closer the class texts lie. The
loss of TPT gets a second term, the mean distance of the texts from their centroid (section 4), at each step:

    loss = H(mean_i p_i) - weight * mean_k |text_k - mean_j text_j|

The authors' scripts use a weight of 50 for the fine-grained sets and of 20 for ImageNet and its variants, with
AugMix for both. Both terms make one joint step, the default of their code.
"""

from typing import Any, ClassVar

from lorattt.methods.tpt import TPT
from lorattt.views.crops import ViewSpec


class CTPT(TPT):
    """C-TPT as a LightningModule; defaults are those of the authors' script for fine-grained sets.

    Args:
        views: How the views of an image are made.
        dispersion: Weight of the texts' dispersion.
        **kwargs: See :class:`TPT`.
    """

    name: ClassVar[str] = "ctpt"

    def __init__(self, *, views: ViewSpec = ViewSpec(augmix=True), dispersion: float = 50.0, **kwargs: Any) -> None:
        self.dispersion = dispersion
        super().__init__(views=views, **kwargs)
