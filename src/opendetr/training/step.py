"""The paper's training step (section 3.1; A.4): predict a set, match it, sum the losses, update the weights."""

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from opendetr.config import RunConfig
from opendetr.devices import autocast
from opendetr.loss.criterion import Criterion, Normalisers
from opendetr.model.denoising import make_denoising
from opendetr.progress import warn
from opendetr.structures import Batch, Denoising, DetrOutput, Targets
from opendetr.training.means import combine

MicroBatches = list[tuple[Batch, Targets]]


class TrainingStep:
    """Updates the weights of a model from micro-batches, together with all other processes.

    The model and the optimiser are as Accelerate prepared them; the model has C = `num_classes` classes.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, criterion: Criterion, accelerator: Accelerator, config: RunConfig,
        num_classes: int,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.criterion, self.accelerator = model, optimizer, criterion, accelerator
        self.precision, self.clip_norm = config.train.precision, config.train.clip_norm
        self.denoising_queries, self.num_classes = config.loss.denoising_queries, num_classes
        self.skipped = 0  # updates left out because their gradient was not finite

    def __call__(self, micro_batches: MicroBatches) -> dict[str, float]:
        """One update, from the summed gradients of its micro-batches on all processes; returns its figures."""
        denoising = [make_denoising(t, self.num_classes, self.denoising_queries) for _, t in micro_batches]
        normalisers = self.normalisers([targets for _, targets in micro_batches], denoising)
        figures = []
        for number, ((batch, targets), noised) in enumerate(zip(micro_batches, denoising), start=1):
            is_last = number == len(micro_batches)  # processes exchange gradients once per update
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with autocast(self.accelerator.device, self.precision):
                    output: DetrOutput = self.model(batch.images, batch.padding_mask, noised)
                loss = self.criterion(output, targets, noised, normalisers)
                # Accelerate averages the gradients of the processes; this makes it their sum.
                self.accelerator.backward(loss.total * self.accelerator.num_processes)
            figures.append(loss.figures)
        self.update_weights([batch for batch, _ in micro_batches])
        return combine(figures, self.accelerator.num_processes)

    def normalisers(self, targets: list[Targets], denoising: list[Denoising | None]) -> Normalisers:
        """The divisors of the losses, over all micro-batches and processes."""
        counted = [torch.stack(self.criterion.normalisers(*pair)) for pair in zip(targets, denoising)]
        summed: Tensor = self.accelerator.reduce(torch.stack(counted).sum(0), "sum")
        return Normalisers(*summed)

    def update_weights(self, batches: list[Batch]) -> None:
        """Clip the gradient and step; a gradient that is not finite is skipped and reported with its pictures."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm or float("inf"))
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.skipped += 1
            pictures = [image_id for batch in batches for image_id in batch.image_ids]
            warn(f"skipped a step whose gradient was not finite; its pictures have the ids {pictures}")
        self.optimizer.zero_grad()
