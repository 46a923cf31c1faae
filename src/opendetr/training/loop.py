"""The training loop. `Trainer.step` is the paper's training step; `Trainer.fit` is the life of a run."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.progress import TextColumn
from torch import Tensor

from opendetr.checkpoints.adapt import train_mode
from opendetr.checkpoints.native import Checkpoint
from opendetr.config import RunConfig
from opendetr.data.cache import build_cache
from opendetr.data.datasets import DatasetIndex
from opendetr.data.loader import DetectionDataset, epoch_order, training_loader
from opendetr.data.transforms import training_transform
from opendetr.devices import autocast
from opendetr.loss.auxiliary import denoising_losses, proposal_losses
from opendetr.loss.criterion import LossWeights, Normalisers, set_loss, statistics
from opendetr.loss.matcher import CostWeights, match
from opendetr.model.denoising import make_denoising
from opendetr.progress import console, progress_bar
from opendetr.structures import Batch, Denoising, DetrOutput, Targets
from opendetr.threads import Threads
from opendetr.training.ema import AveragedModel
from opendetr.training.flips import TRIALS, FlipTrial, open_flips, settle_flips, try_flips
from opendetr.training.means import EpochMeans, combine, in_words, line_in_words
from opendetr.training.optim import build_optimizer, set_learning_rates
from opendetr.training.plan import Forecast, Plan
from opendetr.training.processes import any_process, mean_of_processes
from opendetr.training.resume import RunFolder, RunState, random_state, restore_random_state
from opendetr.training.sizing import Sizing
from opendetr.training.speed import fits_in_memory
from opendetr.training.validation import Validation

MicroBatches = list[tuple[Batch, Targets]]

LOGGED_EVERY = 20  # steps of an epoch


class Trainer:
    """One run: a model learning a split, evaluated on another, written to a folder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        dataset: DetectionDataset,
        val_index: DatasetIndex | None,
        plan: Plan,
        accelerator: Accelerator,
        output: Path,
        sizing: Sizing,
        threads: Threads | None = None,
    ) -> None:
        """Put everything in place.

        Args:
            checkpoint: model, config, labels and preprocessing; the model is trained in place.
            dataset: the pictures to learn from, augmented.
            val_index: the split that chooses `best`; None where there is none or it shares pictures with training.
            plan: epochs or minutes.
            accelerator: devices and processes.
            output: the run folder.
            sizing: what the size of pictures was chosen by.
            threads: whose number may change.
        """
        self.checkpoint = checkpoint
        self.dataset = dataset
        self.val_index = val_index
        self.plan = plan
        self.accelerator = accelerator
        self.sizing, self.threads = sizing, threads
        self.config = checkpoint.config
        self.scoring = checkpoint.model.scoring
        loss = self.config.loss
        self.costs = CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost)
        self.weights = LossWeights(loss.class_weight, loss.l1_weight, loss.giou_weight)
        self.num_classes = checkpoint.model.num_classes
        horizon = self.config.train.ema
        self.averaged = AveragedModel(checkpoint.model, horizon) if horizon else None
        optimizer = build_optimizer(checkpoint.model, self.config.train)
        self.model, self.optimizer = accelerator.prepare(checkpoint.model, optimizer)
        self.state = RunState()
        self.means = EpochMeans()  # over the epoch's steps since the session began
        self.latest = EpochMeans()  # over those since the log's last line of a step
        self.folder = RunFolder(output)
        self.validation = None if val_index is None else Validation(val_index, plan, accelerator, self.folder)
        self.forecast = Forecast(plan)

    def step(self, micro_batches: MicroBatches) -> dict[str, float]:
        """One update of the weights, from the summed gradients of its micro-batches on all processes."""
        normalisers = self.normalisers([targets for _, targets in micro_batches])
        parts = []
        for position, (batch, targets) in enumerate(micro_batches):
            with self.gradients_shared_after(position == len(micro_batches) - 1):
                denoising = self.denoising(targets)
                with autocast(self.accelerator.device, self.config.train.precision):
                    output: DetrOutput = self.model(batch.images, batch.padding_mask, denoising)
                if not self.config.loss.auxiliary:
                    output = output.last_layer()
                matches = match(output, targets, self.scoring, self.costs)
                losses = set_loss(output, targets, matches, self.scoring, normalisers)
                total = self.weights.total(losses) + self.helping_loss(output, denoising, targets, normalisers)
                self.accelerator.backward(total * self.accelerator.num_processes)  # processes average, we need the sum
            parts.append(
                {"loss": total.detach()}
                | {f"loss_{name}": values[-1].detach() for name, values in losses.items()}
                | {"pairs": torch.tensor(float(len(matches.layers) // len(output.logits)))}
                | statistics(output, targets, matches, self.scoring)
            )
        self.update_weights([batch for batch, _ in micro_batches])
        return combine(parts, self.accelerator.num_processes)

    def denoising(self, targets: Targets) -> Denoising | None:
        """Noised true boxes for the model to recover, where the recipe wants them."""
        num_queries = self.config.loss.denoising_queries
        return make_denoising(targets, self.num_classes, num_queries) if num_queries else None

    def helping_loss(
        self, output: DetrOutput, denoising: Denoising | None, targets: Targets, normalisers: Normalisers
    ) -> Tensor:
        """The losses of proposals and denoising queries, as far as there are any."""
        total, repeats = output.logits.new_zeros(()), self.config.loss.proposal_repeats
        if output.proposals is not None and repeats:
            losses = proposal_losses(output.proposals, targets, repeats, self.scoring, self.costs, normalisers)
            total = total + self.weights.total(losses)
        if output.denoising is not None and denoising is not None:
            losses = denoising_losses(output.denoising, denoising, targets, self.scoring, normalisers)
            total = total + self.weights.total(losses)
        return total

    def normalisers(self, targets: list[Targets]) -> Normalisers:
        """The number of boxes and the sum of class weights over micro-batches and processes."""
        num_queries = self.config.model.num_queries
        counted = [torch.stack(Normalisers.of_batch(t, num_queries, self.scoring)) for t in targets]
        summed = self.accelerator.reduce(torch.stack(counted).sum(0), "sum")
        return Normalisers(*summed)

    def update_weights(self, batches: list[Batch]) -> None:
        """Clip and step; a gradient that is not finite is left out and reported with its pictures."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm or float("inf"))
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            self.state.skipped += 1
            pictures = [int(image_id) for batch in batches for image_id in batch.image_ids]
            console.print(f"Skipped a step whose gradient was not finite; its pictures have the ids {pictures}")
        self.optimizer.zero_grad()

    def gradients_shared_after(self, last: bool) -> Any:
        """Processes exchange gradients once per update, after its last micro-batch."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; what is left of micro-batches after the last full update makes one more."""
        return -(-len(self.epoch_batches(0)) // self.config.train.accumulate)

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """This process's micro-batches of an epoch, as keys of the data set."""
        train, accelerator = self.config.train, self.accelerator
        return epoch_order(
            len(self.dataset), epoch, train.seed, train.batch_size, accelerator.process_index,
            accelerator.num_processes, self.shapes,
        )  # fmt: skip

    @cached_property
    def shapes(self) -> list[tuple[int, int]] | None:
        """The shape of every picture, where there are few different ones."""
        preprocessing = self.checkpoint.preprocessing
        if preprocessing.multiple_of == 1:
            return None
        return [preprocessing.shape(record.height, record.width) for record in self.dataset.index.records]

    def fit(self) -> None:
        """Train until the plan says stop; always makes one step and leaves a usable model."""
        with self.plan.listening():
            self.plan.begin()
            self.show_pictures(small=self.progress() < self.config.train.small_first)
            if self.plan.goal is not None:
                self.plan.goal.growth = self.growth()
            while not self.finished():
                self.train_epoch()
                evaluate = self.evaluation_is_due()
                if evaluate or self.finished() or self.plan.may_save():
                    self.save()
                if evaluate:
                    self.measure()
            if self.validation is not None and self.validation.is_due_at_the_end(self.steps_done):
                self.measure()

    def batches_from(self, first_epoch: int, first_step: int) -> Iterator[tuple[Batch, Targets]]:
        """The batches of all epochs from here on, read ahead of their use."""
        done = first_step * self.config.train.accumulate
        keys = (
            batch
            for epoch in itertools.count(first_epoch)
            for batch in self.epoch_batches(epoch)[done if epoch == first_epoch else 0 :]
        )
        before = random_state()
        batches = training_loader(self.dataset, keys, self.config.train.workers, self.accelerator.device)
        restore_random_state(before)  # making a loader draws a number: a resumed run must not notice
        return batches

    def finished(self) -> bool:
        """Whether the epochs are done, val has stopped getting better, or the plan stops the run."""
        done = self.plan.total_seconds is None and self.state.epoch >= self.config.train.epochs
        return done or self.is_out_of_patience() or self.must_stop()

    def is_out_of_patience(self) -> bool:
        """Whether the last so many evaluations gave no better AP.

        While learning rates are still to fall, AP rises in the end however long it stood: only the last half counts.
        """
        train, plan = self.config.train, self.plan
        if not train.patience:
            return False
        since = 0.5 if train.schedule == "cosine" or train.lr_drop < 1 else 0.0
        waited = self.folder.waited(lambda line: plan.progress_at(line["step"], line["seconds"]) >= since)
        return any_process(self.accelerator, waited >= train.patience)  # the first one has the log

    def must_stop(self) -> bool:
        """Whether the plan stops the run here and now: all processes stop where one of them must."""
        return any_process(self.accelerator, self.plan.must_stop())

    def train_epoch(self) -> None:
        """The steps of an epoch that are still to do, as far as the plan allows and val need not be looked at."""
        train_mode(self.model)
        train, state = self.config.train, self.state
        batches_per_epoch = len(self.epoch_batches(state.epoch))
        self.latest = EpochMeans()  # what passed since the last step was no training
        if state.step == 0 or self.means.steps == 0:
            self.means = EpochMeans()
        with progress_bar(TextColumn("{task.fields[parts]}")) as bar:
            total = self.steps_per_epoch
            task = bar.add_task(f"epoch {state.epoch + 1}", total=total, completed=state.step, rate="", parts="")
            while state.step < total:
                progress = self.progress()
                self.adapt(progress)
                begun = time.time()
                left = batches_per_epoch - state.step * train.accumulate
                micro_batches = self.next_batches(min(train.accumulate, left))
                set_learning_rates(self.optimizer, progress, train)
                parts = self.step(micro_batches)
                state.step += 1
                self.record_step(micro_batches, parts, time.time() - begun)
                if not bar.disable:
                    bar.update(task, completed=state.step, rate=self.time_left(), parts=in_words(parts))
                elif self.means.is_time_to_speak():
                    console.print(f"epoch {state.epoch + 1}  step {state.step}/{total}  {self.time_left()}")
                if self.must_stop() or self.must_measure():
                    break
        if state.step == total or self.must_stop():
            self.log_epoch()

    def adapt(self, progress: float) -> None:
        """What changes within a run: the flips, the size of pictures, small ones or full ones."""
        if self.try_flips(progress):
            self.state.progress = progress
        if self.plan.total_seconds is not None and self.sizing.is_due(progress):
            seconds = (self.plan.total_seconds - self.plan.began) * self.accelerator.num_processes
            found = mean_of_processes(self.accelerator, self.sizing.found)
            chosen = self.sizing.chosen_again(self.config, seconds, found)
            self.resize(*broadcast_object_list([*chosen]))  # looks and clocks differ: the first process decides
        if self.small != (progress < self.config.train.small_first):
            self.show_pictures(small=not self.small)

    def next_batches(self, count: int) -> MicroBatches:
        """So many micro-batches, on the device."""
        device = self.accelerator.device
        return [(batch.to(device), targets.to(device)) for batch, targets in itertools.islice(self.batches, count)]

    def record_step(self, micro_batches: MicroBatches, parts: dict[str, float], seconds: float) -> None:
        """What follows from a step for the average of the weights, the plan, the log, and what else watches."""
        pictures = sum(len(batch.images) for batch, _ in micro_batches) * self.accelerator.num_processes
        pixels = sum(batch.images[:, 0].numel() for batch, _ in micro_batches)
        self.means.add(parts, pictures)
        self.latest.add(parts, pictures)
        self.plan.record_step(seconds)
        if self.threads is not None:
            self.threads.observe(seconds, pixels)
        self.sizing.observe(pixels, seconds)
        if self.averaged is not None:
            self.averaged.update(self.steps_done, self.progress())
        if self.plan.evaluating == 0 and self.val_index is not None:  # until one is measured, a forward pass
            self.plan.evaluation_seconds = 0.7 * self.plan.step_seconds / pictures * len(self.val_index)
        if self.state.step % LOGGED_EVERY == 0:
            self.log({"kind": "step", **self.where(), "lr": self.lr, **self.latest.line()})
            self.forecast.say_after(self.steps_done, self.latest.pictures_per_second)
            self.latest = EpochMeans()

    @cached_property
    def upright(self) -> DetectionDataset:
        """The pictures as evaluation sees them."""
        transform = self.checkpoint.preprocessing.transform()
        return DetectionDataset(self.dataset.index, transform, cache=build_cache(self.config.data))

    def try_flips(self, progress: float) -> bool:
        """Flip pictures from now on where the recipe leaves it open and the model understands them flipped as well.

        Returns:
            Whether nothing was left undone: a trial that is interrupted has to be made after resuming.
        """
        due = [mark for mark in TRIALS if self.state.progress < mark <= progress]
        if not due or not open_flips(self.config.data):
            return True
        found = try_flips(
            self.unwrapped().model.eval(), self.upright, self.costs, self.weights, self.accelerator.device,
            self.config.train.precision, self.may_stop_alone,
        )  # fmt: skip
        train_mode(self.model)
        if found is None:
            return False
        mean = self.accelerator.reduce(torch.tensor(found, device=self.accelerator.device), "mean")
        self.config, reasons = settle_flips(self.config, FlipTrial(*mean.tolist()), is_last=due[-1] == TRIALS[-1])
        for reason in reasons:
            console.print(f"chosen: {reason}")
        self.checkpoint = replace(self.checkpoint, config=self.config)
        if self.accelerator.is_main_process:
            self.folder.write_config(self.config)
        self.show_pictures(small=self.small)
        return True

    def may_stop_alone(self) -> bool:
        """Whether a single process must stop; several would wait for each other."""
        return self.accelerator.num_processes == 1 and self.plan.must_stop()

    def resize(self, config: RunConfig, reason: str) -> None:
        """From the next step on, pictures as large as the config says; models that are saved are for that size."""
        sizing, is_larger = self.sizing, config.data.image_size > self.config.data.image_size
        model, batch = self.checkpoint.model, config.train.batch_size
        if is_larger and not fits_in_memory(sizing.objects, sizing.speed, model, config, batch):
            return
        if reason:
            console.print(f"chosen: {reason}")
        if config == self.config:
            return
        self.config, data = config, config.data
        before = self.checkpoint.preprocessing
        preprocessing = replace(before, image_size=data.image_size, max_size=data.max_size)
        self.checkpoint = replace(self.checkpoint, config=config, preprocessing=preprocessing)
        if is_larger and self.dataset.cache is not None:  # than the pictures it keeps
            self.dataset.cache = None
            self.dataset.cache = build_cache(data, self.dataset.index.records, config.train.workers)
        for name in ("shapes", "upright"):
            self.__dict__.pop(name, None)
        if self.accelerator.is_main_process:
            self.folder.write_config(config)
        self.show_pictures(small=self.small)

    def growth(self) -> float:
        """How much longer a step over full pictures takes than one over those shown now."""
        shape = self.checkpoint.preprocessing.shape
        record = self.dataset.index.records[0]
        full, now = math.prod(shape(record.height, record.width)), self.dataset[0][0][0].numel()
        return full / now

    def show_pictures(self, *, small: bool) -> None:
        """From the next step on: with the config's augmentation, at two thirds of the size where `small`."""
        self.small = small
        share = 2 / 3 if small else 1.0
        self.dataset.transform = training_transform(self.config.data, self.checkpoint.preprocessing, share)
        self.batches: Iterator[tuple[Batch, Targets]] = iter(
            ()
        )  # what was read ahead is dropped, before its room is wanted again
        self.batches = self.batches_from(self.state.epoch, self.state.step)

    def progress(self) -> float:
        """How far the run is, 0..1; all processes agree on it, for it decides what they do together."""
        return mean_of_processes(self.accelerator, self.plan.progress(self.steps_done))

    @property
    def steps_done(self) -> int:
        """Steps of the whole run."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    def time_left(self) -> str:
        """Throughput, the time until the run is over, and what val said last."""
        seconds = self.plan.remaining_of_run(self.steps_done)
        ap50 = None if self.validation is None else self.validation.ap50
        known = "" if ap50 is None else f", AP50 {ap50:.2f} on val"
        return f"{self.means.pictures_per_second:.1f} pictures/s, {timedelta(seconds=round(seconds))} left{known}"

    def where(self) -> dict[str, Any]:
        """Where the run is, for a line of its log."""
        epoch = round(self.state.epoch + self.state.step / self.steps_per_epoch, 4)
        return {"epoch": epoch, "step": self.steps_done, "seconds": round(self.plan.elapsed(), 2)}

    @property
    def lr(self) -> float:
        """The learning rate of the transformer and the heads."""
        return float(self.optimizer.param_groups[0]["lr"])

    def log(self, line: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl."""
        if self.accelerator.is_main_process:
            self.folder.log(line)

    def log_epoch(self) -> None:
        """Write the epoch's line of metrics.jsonl, and move on where the epoch is whole."""
        state = self.state
        line = {"kind": "epoch", **self.where(), "lr": self.lr, "skipped_steps": state.skipped, **self.means.line()}
        if state.step == self.steps_per_epoch:
            state.epoch, state.step = state.epoch + 1, 0
        self.log(line)
        if self.accelerator.is_main_process:
            console.print(line_in_words(self.folder.history[-1]))

    def save(self) -> None:
        """Write `last`, before anything that can fail."""
        if self.accelerator.is_main_process:
            begun = time.time()
            self.folder.save_last(self.unwrapped(), self.training_state())
            self.plan.record_saving(time.time() - begun)

    def evaluation_is_due(self) -> bool:
        """Between epochs, or whenever the plan wants to know, as the budget allows."""
        between = self.state.step == 0 and self.plan.goal is None
        if self.validation is None or not (between or self.must_measure()) or self.finished():
            return False
        return self.validation.is_affordable()

    def must_measure(self) -> bool:
        """Whether the plan cannot go on without a look at val."""
        if self.plan.goal is None or self.validation is None:
            return False
        return self.validation.is_affordable()

    def measure(self) -> None:
        """Measure the weights that are kept on val; what comes of it."""
        assert self.validation is not None
        begun = time.time()
        ap50 = self.validation.measure(self.unwrapped(), self.where())
        self.means.pause(time.time() - begun)
        if ap50 is not None and self.plan.goal is not None:
            self.plan.goal.record(ap50)
        if self.is_out_of_patience():
            console.print(
                f"{self.config.train.patience} evaluations gave no better AP on val: the run ends (--patience)."
            )

    def unwrapped(self) -> Checkpoint:
        """The model as it is kept: averaged where the recipe says so, without what Accelerate put around it."""
        model = self.accelerator.unwrap_model(self.model) if self.averaged is None else self.averaged.model
        return replace(self.checkpoint, model=model)

    def training_state(self) -> dict[str, Any]:
        """What `restore` needs, in types that can be read back safely."""
        return {
            "state": vars(self.state),
            "steps_per_epoch": self.steps_per_epoch,
            "spent": self.plan.elapsed(),
            "began": self.plan.began,
            "total_seconds": self.plan.total_seconds,
            "sizing": {"is_open": self.sizing.is_open, "done": self.sizing.done},
            "optimizer": self.optimizer.state_dict(),
            "weights": None if self.averaged is None else self.accelerator.unwrap_model(self.model).state_dict(),
            **random_state(),
        }

    def restore(self, training_state: dict[str, Any], run: Path) -> None:
        """Continue where `training_state` was taken; the weights are already those of the run's `last`."""
        self.state = RunState(**training_state["state"])
        before = training_state["steps_per_epoch"]
        self.folder.read_history(run, self.state.epoch + self.state.step / before)
        if self.validation is not None:
            self.validation.restore()
        for name, value in training_state.get("sizing", {}).items():
            setattr(self.sizing, name, value)
        if self.state.step and before != self.steps_per_epoch:
            console.print(
                f"An epoch has {self.steps_per_epoch} steps now, it had {before}: the unfinished one is begun anew."
            )
            self.state.step = 0
        if training_state["weights"] is not None:  # `last` holds the average of these
            self.accelerator.unwrap_model(self.model).load_state_dict(training_state["weights"])
        initial = [group["initial_lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(training_state["optimizer"])
        for group, lr in zip(self.optimizer.param_groups, initial):
            group["initial_lr"] = lr  # --set train.lr may have changed it since
        if self.accelerator.num_processes == 1:  # the state is the first process's; others draw differently
            restore_random_state(training_state)
