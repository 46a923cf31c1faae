"""When numbers stop being finite: what is looked at before weights are written, and what is said."""

from pathlib import Path

import torch
from torch import nn

from opendetr.checkpoints.finite import not_finite
from opendetr.config import RunConfig
from opendetr.data.loader import DetectionDataset
from opendetr.training.resume import random_state, restore_random_state

MOST_SKIPPED = 3  # steps in a row without a finite gradient, before the run ends
MOST_CAPTURES = 3  # steps that are kept in a run folder: each holds all weights


@torch.no_grad()
def what_is_not_finite(model: nn.Module, dataset: DetectionDataset, device: torch.device) -> str:
    """What of a model is not finite, in words: its weights, or its answers to the first picture; empty if all is."""
    if wrong := not_finite(model.state_dict()):
        return f"the weights of {wrong[0]} are not finite"
    modes, random = [(module, module.training) for module in model.modules()], random_state()
    image = dataset[0][0].to(device)
    output = model.eval()(image[None], None)
    restore_random_state(random)
    for module, training in modes:
        module.training = training
    finite = torch.isfinite(output.logits[-1]).all() and torch.isfinite(output.boxes_cxcywh[-1]).all()
    return "" if finite else "the model answers with numbers that are not finite"


def diverged(config: RunConfig, run: Path, what: str) -> str:
    """A sentence that ends a run: what happened, likely causes, and what is left of it."""
    left = [name for name in ("best", "last") if (run / name).is_dir()]
    kept = f"what was written before is kept ({' and '.join(left)} in {run})" if left else "no weights were written"
    causes = f"most likely the learning rate is too high (train.lr = {config.train.lr:g}; try a tenth)"
    if config.train.precision != "fp32":
        causes += f', or {config.train.precision} is too coarse here (train.precision = "fp32")'
    return f"{run}: the training diverged: {what}; {causes}; {kept}"
