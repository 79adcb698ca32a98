"""Golden episodes of MTA and ZERO: logits of the mode and votes of the authors' programs, from given features."""

from typing import Any

import torch
from torch import Tensor

from lorattt.methods.mta import MTASpec, mta_mode
from lorattt.methods.zero import ZeroSpec, zero_votes

TOLERANCES = {"mta_logits_abs": 1e-3, "batched_vs_single_abs": 1e-3}


def knows(config: dict[str, Any]) -> bool:
    """Whether a file of this configuration is of this kind."""
    return "lambda_y" in config


def replay(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One file's row, but for its name."""
    mta = MTASpec(config["lambda_y"], config["lambda_q"], config["bandwidth_fraction"])
    zero, scale = ZeroSpec(config["gamma"]), torch.tensor(float(config["logit_scale"]))
    episodes = range(sum(name.endswith(".mta_logits") for name in tensors))

    def stacked(name: str) -> Tensor:
        return torch.stack([tensors[f"ep{e}.{name}"].float() for e in episodes])

    def run(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the mode and votes, ``(E, K)`` each."""
        mode = mta_mode(image, text, scale, mta)
        votes, _ = zero_votes(scale * image @ text.transpose(1, 2), zero)
        return scale * (text @ mode.unsqueeze(-1)).squeeze(-1), votes

    image, text = stacked("image_features"), stacked("text_features")
    expected_logits, expected_votes = stacked("mta_logits").squeeze(1), stacked("zero_votes").squeeze(1)
    together = run(image, text)
    singles = [run(image[e : e + 1], text[e : e + 1]) for e in episodes]
    alone = tuple(torch.cat(part) for part in zip(*singles, strict=True))
    row: dict[str, Any] = {
        "method": "mta_zero",
        "episodes": len(episodes),
        "mta_logits_abs": (torch.stack([together[0], alone[0]]) - expected_logits).abs().max().item(),
        "zero_argmax_equal": all(
            torch.equal(votes.argmax(-1), expected_votes.argmax(-1)) for _, votes in (together, alone)
        ),
        "zero_counts_equal": all(torch.equal(votes.float(), expected_votes) for _, votes in (together, alone)),
        "batched_vs_single_abs": (together[0] - alone[0]).abs().max().item(),
    }
    within = all(row[key] <= bound for key, bound in TOLERANCES.items())  # false for NaN
    return {**row, "ok": within and row["zero_argmax_equal"] and row["zero_counts_equal"]}
