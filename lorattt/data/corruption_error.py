"""Error on corrupted images, relative to a baseline's: mCE and relative mCE of ImageNet-C."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from lorattt.errors import UserError, quoted

ALEXNET_ERRORS: Final[dict[str, float]] = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's top-1 error on ImageNet-C, mean over the five severities, as published with the dataset."""

ALEXNET_CLEAN_ERROR: Final = 0.43478
"""AlexNet's top-1 error on ImageNet's validation images, of torchvision's weights (43.5 % in the paper)."""

BASELINE_DATASETS: Final = ("imagenet", "imagenet-val")
"""What a dataset of all the images that AlexNet's errors are of is called in results."""

SEVERITIES: Final = (1, 2, 3, 4, 5)


class CorruptionError(NamedTuple):
    """Errors relative to a baseline: 1 is as bad as the baseline, 0 is without error.

    Attributes:
        ce: Corruption error of each corruption.
        mce: Their mean.
        relative_ce: Rise of the error over clean images, relative to the baseline's rise; empty where the clean
            error is unknown.
        relative_mce: Their mean, or None.
        missing: Corruptions of the baseline without errors: where there are any, the means are not those of papers.
    """

    ce: dict[str, float]
    mce: float
    relative_ce: dict[str, float]
    relative_mce: float | None
    missing: tuple[str, ...]


def corruption_error(
    errors: Mapping[str, Sequence[float]],
    *,
    clean: float | None = None,
    baseline: Mapping[str, float] = ALEXNET_ERRORS,
    baseline_clean: float = ALEXNET_CLEAN_ERROR,
) -> CorruptionError:
    """Mean corruption error (mCE) and relative mCE as defined by Hendrycks and Dietterich (ICLR 2019).

    Args:
        errors: Of each corruption, the model's top-1 errors at severities 1 to 5, in [0, 1].
        clean: The model's error on clean images; without it there is no relative mCE.
        baseline: Of each corruption, the baseline's error as the mean over severities; a ratio of means is one of sums.
        baseline_clean: The baseline's error on clean images.

    Returns:
        Ratios by corruption, and their means over the corruptions given.

    Raises:
        UserError: If nothing is given, a corruption is not in the baseline, or errors are not five numbers in [0, 1].
    """
    if not errors:
        raise UserError("corruption error: no corruption has errors: give at least one")
    if clean is not None and not 0 <= clean <= 1:
        raise UserError(f"corruption error: clean error {clean} is not in [0, 1]: give a share, not percent")
    means: dict[str, float] = {}
    for name, of_severity in errors.items():
        if name not in baseline:
            raise UserError(
                f"corruption error: the baseline has no error for {quoted(name)}; it has {', '.join(baseline)}"
            )
        if len(of_severity) != len(SEVERITIES):
            raise UserError(
                f"corruption error: {name} has {len(of_severity)} errors: give one for each severity, 1 to 5"
            )
        if not all(0 <= error <= 1 for error in of_severity):
            raise UserError(f"corruption error: {name} has errors outside [0, 1]: give shares, not percent")
        if clean is not None and baseline[name] <= baseline_clean:
            raise UserError(f"corruption error: the baseline's error for {name} is not above its clean error")
        means[name] = math.fsum(of_severity) / len(SEVERITIES)
    ce = {name: mean / baseline[name] for name, mean in means.items()}
    relative: dict[str, float] = {}
    if clean is not None:
        relative = {name: (mean - clean) / (baseline[name] - baseline_clean) for name, mean in means.items()}
    return CorruptionError(
        ce=ce,
        mce=math.fsum(ce.values()) / len(ce),
        relative_ce=relative,
        relative_mce=math.fsum(relative.values()) / len(relative) if relative else None,
        missing=tuple(name for name in baseline if name not in errors),
    )
