"""The paper's optimiser and schedule (section A.4), and a cosine."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import AdamW

from opendetr.config import TrainConfig
from opendetr.errors import UserError
from opendetr.model.detr import DETR

# The official code keeps the learned positions within its backbone, so they learn at its rate.
OF_BACKBONE = ("backbone.", "position_encoding.row_embed.", "position_encoding.col_embed.")


def build_optimizer(model: DETR, config: TrainConfig) -> AdamW:
    """AdamW over the weights that are not frozen, the backbone with a learning rate of its own.

    Learned positions have the backbone's rate, as in the official code; where that is 0 or the backbone is frozen, they
    learn like the rest, while the official code would leave them at random.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    learns = any(name.startswith("backbone.") for name in trained)
    of_backbone = OF_BACKBONE if learns else ()
    backbone = [parameter for name, parameter in trained.items() if name.startswith(of_backbone)]
    rest = [parameter for name, parameter in trained.items() if not name.startswith(of_backbone)]
    rates = ((rest, config.lr), (backbone, config.backbone_lr))
    groups = [{"params": parameters, "lr": lr, "initial_lr": lr} for parameters, lr in rates if parameters]
    # Fused: one pass over all weights is several times as fast on a CPU as one per weight.
    return AdamW(groups, weight_decay=config.weight_decay, fused=True)


def set_learning_rates(optimizer: torch.optim.Optimizer, progress: float, config: TrainConfig) -> None:
    """Set the learning rates after `progress` (0..1) of the run."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * learning_rate_factor(progress, config)


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """The factor of the initial learning rates: a rise, then a tenth from `lr_drop` on, or a cosine to 0.02."""
    rise = min(1.0, (progress + 1e-4) / config.warmup) if config.warmup else 1.0
    if config.schedule == "cosine":
        return rise * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
    return rise * (0.1 if progress >= config.lr_drop else 1.0)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], source: str) -> None:
    """Give an optimiser the moments of a stored one; rates and weight decay stay its own, which the config decides.

    Raises:
        UserError: a moment is missing, or is none of its parameter: the fused update would write beyond its memory.
    """
    groups, moments = state.get("param_groups"), state.get("state")
    own = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wrong = ""
    if not isinstance(groups, list) or not isinstance(moments, dict):
        wrong = "it is no state of an optimiser"
    elif [len(group.get("params", ())) for group in groups] != [len(group["params"]) for group in own]:
        wrong = "its groups of weights are not those of this run"
    else:
        for number, moment in moments.items():
            if not isinstance(number, int) or not 0 <= number < len(parameters):
                wrong = f"it has moments of a weight {number!r:.30}, and there are {len(parameters)}"
            elif not _is_moment_of(moment, parameters[number]):
                wrong = f"the moments of weight {number} are not of its shape and kind"
    if wrong:
        raise UserError(f"{source}: the optimiser's state is damaged: {wrong}; start a new run without --resume")
    optimizer.load_state_dict({"state": moments, "param_groups": own})


def _is_moment_of(moment: Any, parameter: torch.Tensor) -> bool:
    """Whether AdamW could have made it."""
    if not isinstance(moment, dict) or moment.keys() != {"step", "exp_avg", "exp_avg_sq"}:
        return False
    step, averages = moment["step"], (moment["exp_avg"], moment["exp_avg_sq"])
    counts = isinstance(step, torch.Tensor) and step.numel() == 1 and step.dtype == torch.float32
    return counts and all(
        isinstance(average, torch.Tensor) and average.layout == torch.strided
        and (average.shape, average.dtype) == (parameter.shape, parameter.dtype)
        for average in averages
    )  # fmt: skip
