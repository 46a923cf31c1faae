"""The paper's optimiser and schedule (section A.4)."""

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
    return AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay)


def set_learning_rates(optimizer: torch.optim.Optimizer, progress: float, lr_drop: float) -> None:
    """The step schedule: a tenth of the initial rates once `progress` (0..1) has reached `lr_drop`."""
    factor = 0.1 if progress >= lr_drop else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
