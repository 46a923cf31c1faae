"""The paper's optimiser and schedule (section A.4), and a cosine."""

import math

import torch
from torch.optim import AdamW

from opendetr.config import TrainConfig
from opendetr.model.detr import DETR


def build_optimizer(model: DETR, config: TrainConfig) -> AdamW:
    """AdamW over what is not frozen, the backbone with a learning rate of its own."""
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    inside = {id(p) for p in backbone}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    groups = [
        {"params": rest, "lr": config.lr, "initial_lr": config.lr},
        {"params": backbone, "lr": config.backbone_lr, "initial_lr": config.backbone_lr},
    ]
    # One pass over all weights: on a CPU several times as fast as one after the other.
    return AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, progress: float, config: TrainConfig) -> None:
    """The learning rates where `progress` (0..1) of the run is done."""
    factor = learning_rate_factor(progress, config)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """What initial learning rates are multiplied with: a rise, then a tenth from `lr_drop` on, or a cosine to 0.02."""
    rise = min(1.0, (progress + 1e-4) / config.warmup) if config.warmup else 1.0
    if config.schedule == "cosine":
        return rise * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
    return rise * (0.1 if progress >= config.lr_drop else 1.0)
