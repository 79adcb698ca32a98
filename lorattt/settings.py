"""Which keys of a configuration affect the results of a run, and which only how it is run."""

from collections.abc import Mapping, Sequence
from typing import Any

# Of the Trainer's keys, only these count.
_TRAINER = {"precision", "plugins", "fast_dev_run", "limit_test_batches", "limit_val_batches", "limit_predict_batches"}
_BELOW = {"data": {"batch_size", "workers", "prefetch", "on_bad_image"}, "run": {"root", "folder", "resume"}}
_TOP = {"ckpt_path", "profile", "verbose", "weights_only", "return_predictions"}
# How many views are encoded at a time bounds memory alone, and views are the same wherever they are made.
_ANYWHERE = {"chunk", "place"}


def affects_results(key: Sequence[str]) -> bool:
    """Whether a key of ``test``, ``validate`` or ``predict`` may affect predictions or their files.

    ``key`` are its parts, outermost first, with or without ``init_args``.
    """
    top, last = key[0], key[-1]
    if top == "trainer":
        return len(key) > 1 and key[1] in _TRAINER
    return top not in _TOP and last not in _BELOW.get(top, ()) and last not in _ANYWHERE


def dotted(config: Mapping[Any, Any], above: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted keys; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= dotted(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found
