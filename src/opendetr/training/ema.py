"""An exponential moving average of the weights: what is evaluated and saved in place of the last step's."""

import copy

import torch

from opendetr.model.detr import DETR


class AveragedModel:
    """A copy of a model whose weights follow the original's slowly (Polyak averaging).

    The average reaches back over `horizon`, a fraction of the run instead of a number of steps: a horizon for 300k
    steps of COCO is too long for 2,000 steps.
    """

    def __init__(self, model: DETR, horizon: float) -> None:
        """Start from the present weights of the original, whose frozen parts must stay frozen."""
        self.model, self.horizon = copy.deepcopy(model).requires_grad_(False).eval(), horizon
        ours, theirs = dict(self.model.named_parameters()), dict(model.named_parameters())
        moving = [name for name, parameter in theirs.items() if parameter.requires_grad]
        self._averages = [ours[name] for name in moving] + _statistics(self.model)
        self._originals = [theirs[name].detach() for name in moving] + _statistics(model)

    @torch.no_grad()
    def update(self, steps_done: int, progress: float) -> None:
        """Follow the original after a step; with it `steps_done` steps and `progress` (0..1) of the run are done."""
        total_steps = steps_done / max(progress, 1e-6)
        reach = 1 + min(steps_done / 10, self.horizon * total_steps)  # early, to forget the random weights
        torch._foreach_lerp_(self._averages, self._originals, 1 / reach)


def _statistics(model: DETR) -> list[torch.Tensor]:
    """The running statistics of batch norm."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]
