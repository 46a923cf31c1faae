"""Half precision where it is faster, by a short measurement, since no rule holds for all machines."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from opendetr.devices import autocast, memory_format
from opendetr.model.detr import DETR

SURELY_SLOWER = 0.3  # gain of the backbone in a short measurement, below which a longer one is left out


def fit_precision(model: DETR, device: torch.device, precision: str, *, training: bool = False) -> tuple[str, str]:
    """Choose between float32 and bfloat16, for the transformer and for the backbone.

    Depthwise convolutions can be many times slower in bfloat16 on a CPU that multiplies matrices four times as fast in
    it, and a CPU without instructions for it is a hundred times slower in everything. `model.backbone` then runs in
    float32 under autocast.

    Args:
        model: on the device.
        device: where it will run.
        precision: `auto`; or `fp32`; or `bf16`, where only the precision of the backbone is chosen.
        training: whether it will be trained: the gain of a backward pass is another.

    Returns:
        `fp32` or `bf16`, and the reason in words.
    """
    model.backbone.in_full_precision = False
    if precision == "fp32" or (precision == "auto" and device.type == "mps"):
        return "fp32", "precision fp32"
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "precision bf16") if supported or precision == "bf16" else ("fp32", "precision fp32")
    products = gain_of_products(device)
    if precision == "auto" and products < 1.2:
        return "fp32", f"precision fp32: matrix products in bf16 run at {products:.2f} times the speed of fp32 here"
    maps = _gain_of_backbone(model, device, training)
    model.backbone.in_full_precision = maps < 1
    said = f"precision bf16: matrix products run at {products:.2f} times the speed of fp32 here"
    if model.backbone.in_full_precision:
        said += f"; the backbone, at {maps:.2f} times, stays in fp32"
    return "bf16", said


def gain_of_products(device: torch.device) -> float:
    """How many times faster matrix products are in bfloat16 than in float32 on this device, measured."""
    left, right = torch.randn(1024, 256, device=device), torch.randn(256, 256, device=device)
    return _gain(device, lambda: left @ right)


def _gain_of_backbone(model: DETR, device: torch.device, training: bool) -> float:
    was_training = model.backbone.training
    learns = training and any(parameter.requires_grad for parameter in model.backbone.parameters())
    model.backbone.eval()  # batch norm must not learn from this

    def look(images: Tensor) -> Tensor:
        return model.backbone(images, None)[-1].map

    def learn(images: Tensor) -> Tensor:
        maps = model.backbone(images, None)
        total = sum((level.map.float().sum() for level in maps), images.new_zeros(()))
        total.backward()
        return total.detach()

    with torch.no_grad():
        gain = _gain(device, partial(look, _zeros(1, 96, 96, device)))
        if gain > SURELY_SLOWER and not learns:  # small maps hide what large ones gain
            gain = _gain(device, partial(look, _zeros(1, 320, 416, device)))
    if gain > SURELY_SLOWER and learns:
        statistics = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
        model.backbone.train()  # frozen batch norms fold in training only
        gain = _gain(device, partial(learn, _zeros(4, 224, 288, device)))
        for name, buffer in model.backbone.named_buffers():
            buffer.copy_(statistics[name])
        model.backbone.zero_grad(set_to_none=True)
    model.backbone.train(was_training)
    return gain


def _zeros(batch: int, height: int, width: int, device: torch.device) -> Tensor:
    return torch.zeros(batch, 3, height, width, device=device).to(memory_format=memory_format(device))


def _gain(device: torch.device, work: Callable[[], Tensor]) -> float:
    """How many times faster the work is in bfloat16: best of three each, in turn, after one to warm up."""
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(4):
        for precision, taken in seconds.items():
            with autocast(device, precision):
                begun = time.perf_counter()
                float(work().sum())  # waits for the device
                taken.append(time.perf_counter() - begun)
    return min(seconds["fp32"][1:]) / min(seconds["bf16"][1:])
