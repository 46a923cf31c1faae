"""The paper's training step (section 3.1; A.4): predict a set, match it, sum the losses, update the weights."""

from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

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
from opendetr.training.processes import sum_of_processes
from opendetr.training.resume import random_state

MicroBatches = list[tuple[Batch, Targets]]


class StepStart(NamedTuple):
    """What a step changes besides weights, before it: for leaving it out, and for repeating it."""

    random: dict[str, Any]  # `random_state`
    statistics: list[tuple[Tensor, Tensor]]  # of batch norms that are trained: the buffer, and its content

    @classmethod
    def of(cls, model: nn.Module) -> "StepStart":
        """The state now."""
        trained = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and module.training)
        buffers = [buffer for module in trained for buffer in module.buffers()]
        return cls(random_state(), [(buffer, buffer.clone()) for buffer in buffers])

    def restore_statistics(self) -> None:
        """Undo what a step did to the batch norms; its random numbers stay drawn."""
        for buffer, content in self.statistics:
            buffer.copy_(content)


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
        self.skipped, self.skipped_in_a_row = 0, 0  # updates left out because their gradient was not finite
        self.start = StepStart.of(model)  # of the last update

    def __call__(self, micro_batches: MicroBatches) -> dict[str, float]:
        """One update, from the summed gradients of its micro-batches on all processes; returns its figures."""
        self.start = StepStart.of(self.model)
        figures = self.add_gradients(micro_batches)
        self.update_weights([batch for batch, _ in micro_batches])
        return figures

    def add_gradients(self, micro_batches: MicroBatches) -> dict[str, float]:
        """Sum the gradients of all micro-batches; returns the figures of the step."""
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
        return combine(figures, partial(sum_of_processes, self.accelerator))

    def normalisers(self, targets: list[Targets], denoising: list[Denoising | None]) -> Normalisers:
        """The divisors of the losses, over all micro-batches and processes."""
        counted = [torch.stack(self.criterion.normalisers(*pair)) for pair in zip(targets, denoising)]
        return Normalisers(*sum_of_processes(self.accelerator, torch.stack(counted).sum(0)))

    def update_weights(self, batches: list[Batch]) -> None:
        """Clip the gradient and step; a gradient that is not finite is left out and reported with its pictures."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_norm or float("inf"))
        if torch.isfinite(norm):
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.start.restore_statistics()
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            pictures = [image_id for batch in batches for image_id in batch.image_ids]
            warn(f"skipped a step whose gradient was not finite; its pictures have the ids {pictures}")
        self.optimizer.zero_grad()
