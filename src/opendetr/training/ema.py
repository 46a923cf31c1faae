"""An exponential moving average of the weights: what is evaluated and saved in place of the last step's."""

import copy

import torch

from opendetr.model.detr import DETR


class AveragedModel:
    """A copy of a model whose weights follow the original's slowly (Polyak averaging).

    The average reaches back over a fraction of the run, not over a number of steps: what suits 300k steps of COCO would
    never catch up within 2,000.
    """

    def __init__(self, model: DETR, horizon: float) -> None:
        """Start from the model's present weights.

        Args:
            model: the original; what is frozen in it must stay so.
            horizon: how far the average reaches back, as a fraction of the run.
        """
        self.model, self.horizon = copy.deepcopy(model).requires_grad_(False).eval(), horizon
        ours, theirs = dict(self.model.named_parameters()), dict(model.named_parameters())
        moving = [name for name, parameter in theirs.items() if parameter.requires_grad]
        self._averages = [ours[name] for name in moving] + _statistics(self.model)
        self._originals = [theirs[name].detach() for name in moving] + _statistics(model)

    @torch.no_grad()
    def update(self, steps_done: int, progress: float) -> None:
        """Follow the original after a step.

        Args:
            steps_done: of the whole run, this one included.
            progress: how far the run is, 0..1.
        """
        total_steps = steps_done / max(progress, 1e-6)
        reach = 1 + min(steps_done / 10, self.horizon * total_steps)  # at first it must forget the random weights
        torch._foreach_lerp_(self._averages, self._originals, 1 / reach)


def _statistics(model: DETR) -> list[torch.Tensor]:
    """What batch norm learns without gradients."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]
