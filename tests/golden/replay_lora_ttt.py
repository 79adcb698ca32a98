"""Golden episodes of LoRA-TTT: losses, gradients, selections and adapted logits of the authors' program."""

from typing import Any

import torch
from open_clip.transformer import LayerNorm, QuickGELU, VisionTransformer
from torch import Tensor, nn

from lorattt.adapters.lora import LoRASpec, LoRATuner
from lorattt.clip.attention import Projection
from lorattt.clip.vision import VisionTower
from lorattt.episodes.optim import OptimiserSpec
from lorattt.methods.lora_ttt_engine import LoRATTTEngine, LossSpec, Outcome

TOLERANCES = {"loss_rel": 1e-4, "grad_rel": 1e-4, "logits_abs": 1e-3, "batched_vs_single_abs": 1e-4}
_PROJECTIONS: dict[str, Projection] = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}


def knows(config: dict[str, Any]) -> bool:
    """Whether a file of this configuration is of this kind."""
    return config.get("loss") in ("mem", "mae", "both")


def replay(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One file's row, but for its name."""
    episodes = tensors["images"].shape[0]
    engine = _engine(config, tensors)
    batched, gradients = _run(engine, config, tensors, list(range(episodes)))
    worst = {
        "loss_rel": 0.0,
        "grad_rel": 0.0,
        "params_abs": 0.0,
        "logits_abs": 0.0,
        "batched_vs_single_abs": 0.0,
    }
    selected_equal = True

    def note(key: str, value: float) -> None:
        # Not max(): a NaN must not look small.
        worst[key] = value if not value <= worst[key] else worst[key]

    for e in range(episodes):
        single, single_gradients = _run(engine, config, tensors, [e])
        note("batched_vs_single_abs", (batched.after[e] - single.after[0]).abs().max().item())
        for outcome, gradient, row in ((batched, gradients, e), (single, single_gradients, 0)):
            selected_equal &= _same_selection(outcome.selected[row], tensors, e)
            expected = tensors[f"ep{e}.losses"]
            note("loss_rel", ((outcome.losses[:, row] - expected).abs() / expected.abs()).max().item())
            note("logits_abs", (outcome.after[row] - tensors[f"ep{e}.adapted_logits"][0]).abs().max().item())
            theirs_all = _adapters(tensors, f"ep{e}.grad.")
            # While B is zero, the gradient of A is: rounding noise there is measured against the whole gradient.
            floor = 1e-3 * sum(theirs.norm().item() ** 2 for theirs in theirs_all.values()) ** 0.5
            for name, theirs in theirs_all.items():
                difference = (gradient[name][row] - theirs).norm().item()
                note("grad_rel", difference / max(theirs.norm().item(), floor))
            for name, theirs in _adapters(tensors, f"ep{e}.lora.").items():
                note("params_abs", (outcome.parameters[name][row] - theirs).abs().max().item())
    ok = selected_equal and all(worst[key] <= bound for key, bound in TOLERANCES.items())
    method = f"lora_ttt_{config['loss'].replace('both', 'mem_mae')}"
    row = {"method": method, "episodes": episodes, "selected_equal": selected_equal}
    return {**row, **worst, "ok": ok}


def _engine(config: dict[str, Any], tensors: dict[str, Tensor]) -> LoRATTTEngine:
    visual = VisionTransformer(
        image_size=config["img"],
        patch_size=config["p"],
        width=config["w"],
        layers=config["L"],
        heads=config["h"],
        mlp_ratio=4.0,
        output_dim=config["d"],
        act_layer=QuickGELU if config.get("quick_gelu", True) else nn.GELU,
        norm_layer=lambda width: LayerNorm(width, eps=config.get("ln_eps", 1e-5)),
    )
    prefix = "clip.visual."
    visual.load_state_dict({k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)})
    tower = VisionTower(visual.requires_grad_(False).eval(), "golden")
    initial = _adapters(tensors, "lora_init.")
    spec = LoRASpec(
        rank=config["r"],
        multiplier=config["alpha"] / config["r"],
        blocks=tuple(config["layers"]),
        projections=tuple(sorted({name.split(".")[1] for name in initial})),  # type: ignore[arg-type]
        dropout=0.0,
    )
    tuner = LoRATuner(tower, spec, seed=0)
    tuner.initial = initial
    return LoRATTTEngine(
        tower,
        tuner,
        loss=LossSpec(
            # Alone, the authors' program minimises a loss without its weight.
            mem={"mem": 1.0, "mae": 0.0, "both": config["mem_weight"]}[config["loss"]],
            reconstruction={"mem": 0.0, "mae": 1.0, "both": config["mae_weight"]}[config["loss"]],
            mask_ratio=config["mask_ratio"],
            selection=config["selection_p"],
        ),
        optimiser=OptimiserSpec(lr=config["lr"], weight_decay=config["weight_decay"]),
        steps=config["steps"],
        reset_every_step=config.get("reset", False),
    )


def _run(
    engine: LoRATTTEngine, config: dict[str, Any], tensors: dict[str, Tensor], rows: list[int]
) -> tuple[Outcome, dict[str, Tensor]]:
    """The outcome of the named episodes as one batch, and the gradients of the first step."""
    first: dict[str, Tensor] = {}

    def masks(step: int, selected: Tensor) -> Tensor:
        kept = [_kept(tensors, e, step, views, engine.kept) for e, views in zip(rows, selected, strict=True)]
        return torch.stack(kept)

    def observer(step: int, losses: Tensor, gradients: Any) -> None:
        if step == 0:
            first.update({name: gradient.clone() for name, gradient in gradients.items()})

    outcome = engine.run(
        tensors["images"][rows].float(),
        tensors["text"].float().T,
        tensors["clip.logit_scale"].float().exp().squeeze(),
        torch.tensor(rows),
        masks=masks,
        observer=observer,
    )
    return outcome, first


def _kept(tensors: dict[str, Tensor], e: int, step: int, selected: Tensor, count: int) -> Tensor:
    """``(n, count)`` patches kept of each selected view at that step.

    The file orders its permutations as its own loop ordered the views: at the first step as in
    ``selected``, later by entropy, and by number where all views are kept without being sorted.
    """
    shuffles = tensors[f"ep{e}.shuffles"][step].long().T  # (n, patches)
    theirs = _selected(tensors, e)
    unsorted = len(theirs) == tensors["images"].shape[1] and torch.equal(theirs, theirs.sort().values)
    if step == 0 or unsorted:
        places = {int(view): place for place, view in enumerate(theirs)}
        shuffles = shuffles[[places.get(int(view), 0) for view in selected]]
    return shuffles[:, :count]


def _selected(tensors: dict[str, Tensor], e: int) -> Tensor:
    every = torch.arange(tensors["images"].shape[1])
    return tensors.get(f"ep{e}.selected", every).long()


def _same_selection(ours: Tensor, tensors: dict[str, Tensor], e: int) -> bool:
    theirs = _selected(tensors, e)
    if len(theirs) == tensors["images"].shape[1]:  # all views: their order says nothing
        return torch.equal(ours.sort().values, theirs.sort().values)
    return torch.equal(ours, theirs)


def _adapters(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The file's adapters under our names."""
    found = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            block, projection, matrix = name.removeprefix(prefix).split(".")
            found[f"{block}.{_PROJECTIONS[projection]}.{matrix}"] = value.float()
    return found
