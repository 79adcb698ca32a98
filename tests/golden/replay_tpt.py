"""Golden episodes of TPT: a whole model, initial context, and what the authors' loop made of each image."""

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from lorattt.clip.model import Clip
from lorattt.episodes.optim import OptimiserSpec
from lorattt.methods.tpt import TPTEngine, TunedPrompts
from lorattt.prompts.class_prompts import ClassPrompts

TOLERANCES = {
    "features_abs": 1e-5,
    "loss_rel": 1e-3,
    "grad_rel": 1e-3,
    "logits_abs": 1e-3,
    "batched_vs_single_abs": 1e-3,
}


def knows(config: dict[str, Any]) -> bool:
    """Whether a file of this configuration is of this kind."""
    return "class_token_position" in config


def replay(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One file's row, but for its name."""
    clip, context = _clip(config, tensors), tensors["ctx_init"].float()
    prompts = ClassPrompts(clip, config["classes"], config["class_token_position"], len(context))
    engine = TPTEngine(
        prompts,
        context,
        selection=config["selection_p"],
        optimiser=OptimiserSpec(lr=config["lr"], weight_decay=config["weight_decay"]),
        steps=config["steps"],
    )
    text = prompts.features(context)
    worst = dict.fromkeys((*TOLERANCES, "params_abs"), 0.0)

    def note(key: str, value: Tensor) -> None:
        # Not max(): a NaN must not look small.
        worst[key] = worst[key] if value.item() <= worst[key] else value.item()

    note("features_abs", (text - tensors["text_features_init"]).abs().max())
    images = tensors["images"].float()
    batched, gradients = _run(engine, images, text, clip)
    selected_equal = True
    for e in range(len(images)):
        single, single_gradients = _run(engine, images[e : e + 1], text, clip)
        note("batched_vs_single_abs", (batched.after[e] - single.after[0]).abs().max())
        loss, gradient = tensors[f"ep{e}.loss"], tensors[f"ep{e}.grad_ctx"]
        for outcome, ours, row in ((batched, gradients, e), (single, single_gradients, 0)):
            selected_equal &= torch.equal(outcome.selected[row], tensors[f"ep{e}.selected"].long())
            note("loss_rel", (outcome.losses[0, row] - loss).abs() / loss.abs())
            note("grad_rel", (ours[row] - gradient).norm() / gradient.norm())
            note("params_abs", (outcome.context[row] - tensors[f"ep{e}.ctx"]).abs().max())
            note("logits_abs", (outcome.before[row] - tensors[f"ep{e}.zero_shot_logits"][0]).abs().max())
            note("logits_abs", (outcome.after[row] - tensors[f"ep{e}.adapted_logits"][0]).abs().max())
    ok = selected_equal and all(worst[key] <= bound for key, bound in TOLERANCES.items())
    return {"method": "tpt", "episodes": len(images), "selected_equal": selected_equal, **worst, "ok": ok}


def _clip(config: dict[str, Any], tensors: dict[str, Tensor]) -> Clip:
    model = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg={
            "image_size": config["image_size"],
            "patch_size": config["patch_size"],
            "width": config["vision_width"],
            "layers": config["vision_layers"],
            "head_width": config["vision_width"] // config["vision_heads"],
        },
        text_cfg={
            "context_length": config["context_length"],
            "vocab_size": len(tensors["clip.token_embedding.weight"]),
            "width": config["text_width"],
            "heads": config["text_heads"],
            "layers": config["text_layers"],
        },
        quick_gelu=config.get("quick_gelu", True),
    )
    prefix = "clip."
    state = {name.removeprefix(prefix): x.float() for name, x in tensors.items() if name.startswith(prefix)}
    model.load_state_dict(state)
    tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=config["context_length"])
    # The images are normalised already.
    unchanged = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Clip(model.requires_grad_(False).eval(), tokenizer, "golden", unchanged)


def _run(engine: TPTEngine, images: Tensor, text: Tensor, clip: Clip) -> tuple[TunedPrompts, Tensor]:
    """The outcome of the episodes as one batch, and the gradients of the first step."""
    first: list[Tensor] = []

    def observer(step: int, losses: Tensor, gradients: Any) -> None:
        first.append(gradients["context"].clone())

    with torch.no_grad():
        features = F.normalize(clip.vision.features(images.flatten(0, 1)), dim=-1).unflatten(0, images.shape[:2])
    outcome = engine.run(features, text, clip.logit_scale, observer=observer)
    return outcome, first[0]
