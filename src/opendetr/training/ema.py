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
            model: the original, of the same weights ever after.
            horizon: how far the average reaches back, as a fraction of the run.
        """
        self.model, self.horizon = copy.deepcopy(model).requires_grad_(False).eval(), horizon

    @torch.no_grad()
    def update(self, model: DETR, steps_done: int, progress: float) -> None:
        """Follow the original after a step.

        Args:
            model: the original.
            steps_done: of the whole run, this one included.
            progress: how far the run is, 0..1.
        """
        total_steps = steps_done / max(progress, 1e-6)
        reach = 1 + min(steps_done / 10, self.horizon * total_steps)  # at first it must forget the random weights
        ours, theirs = self.model.state_dict().values(), model.state_dict().values()
        moving = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in moving], [b for _, b in moving], 1 / reach)
