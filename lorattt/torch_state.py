"""The state of torch that predictions are computed in, whatever other code in the process has set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products and convolutions in full float32 everywhere, not TF32 or bf16; afterwards as before.

    PyTorch's own default lets cuDNN round the inputs of convolutions to TF32, three digits, and so those of a ResNet
    and of the patches of a ViT.
    """
    cudnn, newer = torch.backends.cudnn, _precisions()
    kept = [each.fp32_precision for each in newer]
    # Set through newer names, a state may have no value under the older ones: reading it is an error then.
    convolutions, products = True, "highest"
    with suppress(RuntimeError):
        convolutions = cudnn.allow_tf32
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for each in newer:
        each.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
        for each, value in zip(newer, kept, strict=True):
            each.fp32_precision = value


def _precisions() -> list[Any]:
    """The settings under the names that PyTorch 2.9 introduced; none in older versions.

    Both the new and the old names must be set: where they disagree, PyTorch raises an error.
    """
    places = ((torch.backends.cuda, "matmul"), *((torch.backends.cudnn, name) for name in ("conv", "rnn")))
    mkldnn = ((torch.backends.mkldnn, name) for name in ("conv", "rnn", "matmul"))
    found = [getattr(module, name, None) for module, name in (*places, *mkldnn)]
    return [each for each in found if each is not None and hasattr(each, "fp32_precision")]


@contextmanager
def known_state(device: torch.device) -> Iterator[None]:
    """The state of torch in a new process, with gradients and full float32, for a model on this device; then as before.

    New tensors are float32 on the CPU; inference mode, autocast and anomaly detection are off. The CPU's random
    numbers, which loading a model draws from, continue afterwards where they were.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        try:
            torch.get_default_device()  # which Lightning asks for
        except AttributeError:  # of PyTorch 2.6, once it was set and unset
            torch.set_default_device("cpu")
            stack.callback(torch.set_default_device, None)
        if torch.empty(0).device.type != "cpu":  # the mode that sets it costs time at every call
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(full_float32())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autograd.set_detect_anomaly(False))
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
