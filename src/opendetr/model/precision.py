"""Half precision where it wins: found by a short look at the machine, because no rule holds for all of them."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from opendetr.devices import autocast
from opendetr.model.detr import DETR


def fit_precision(model: DETR, device: torch.device, precision: str) -> tuple[str, str]:
    """Choose between float32 and bfloat16, for the transformer and for the backbone.

    Depthwise convolutions can be many times slower in bfloat16 on a CPU that multiplies matrices four times as fast in
    it, and a CPU without instructions for it is a hundred times slower in everything. `model.backbone` is told whether
    autocast shall stop at it.

    Args:
        model: on the device.
        device: where it will run.
        precision: `auto`; or `fp32`; or `bf16`, which leaves only the backbone to choose for.

    Returns:
        `fp32` or `bf16`, and the reason in words.
    """
    model.backbone.in_full_precision = False
    if precision == "fp32" or (precision == "auto" and device.type == "mps"):
        return "fp32", "precision fp32"
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "precision bf16") if supported or precision == "bf16" else ("fp32", "precision fp32")
    products = _gain_of_products(device)
    if precision == "auto" and products < 1.2:
        return "fp32", f"precision fp32: matrix products in bf16 run at {products:.2f} times the speed of fp32 here"
    maps = _gain_of_backbone(model, device)
    model.backbone.in_full_precision = maps < 1
    said = f"precision bf16: matrix products run at {products:.2f} times the speed of fp32 here"
    if model.backbone.in_full_precision:
        said += f"; the backbone, at {maps:.2f} times, stays in fp32"
    return "bf16", said


def _gain_of_products(device: torch.device) -> float:
    left, right = torch.randn(1024, 256, device=device), torch.randn(256, 256, device=device)
    return _gain(device, lambda: left @ right)


def _gain_of_backbone(model: DETR, device: torch.device) -> float:
    image = torch.zeros(1, 3, 96, 96, device=device).to(memory_format=torch.channels_last)
    was_training = model.backbone.training
    model.backbone.eval()  # batch norm shall not learn from this
    with torch.no_grad():
        gain = _gain(device, lambda: model.backbone(image, None)[-1].map)
    model.backbone.train(was_training)
    return gain


def _gain(device: torch.device, work: Callable[[], Tensor]) -> float:
    """How many times faster the work is in bfloat16: best of three each, after one to warm up."""
    best = {}
    for precision in ("fp32", "bf16"):
        seconds = []
        with autocast(device, precision):
            for _ in range(4):
                begun = time.perf_counter()
                float(work().sum())  # waits for the device
                seconds.append(time.perf_counter() - begun)
        best[precision] = min(seconds[1:])
    return best["fp32"] / best["bf16"]
