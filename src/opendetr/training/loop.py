"""The training loop. `Trainer.step` is the paper's training step; `Trainer.fit` is the life of a run."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import TextColumn
from torch import Tensor

from opendetr.checkpoints.native import Checkpoint, save_checkpoint
from opendetr.data.datasets import DatasetIndex
from opendetr.data.loader import DetectionDataset, epoch_order, training_loader
from opendetr.devices import autocast
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.runner import OutOfTimeError, detect_split, metrics_of
from opendetr.files import write_text
from opendetr.loss.criterion import LossWeights, Normalisers, set_loss, statistics
from opendetr.loss.matcher import CostWeights, match
from opendetr.progress import console, progress_bar, track
from opendetr.structures import Batch, DetrOutput, Targets
from opendetr.training.optim import build_optimizer, set_learning_rates
from opendetr.training.plan import Plan

MicroBatches = list[tuple[Batch, Targets]]


@dataclass
class RunState:
    """Where a run is; what resuming restores beside weights, optimiser and random numbers."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the unfinished epoch
    best_ap: float = -1.0
    skipped: int = 0  # steps left out because their gradient was not finite
    history: list[dict[str, Any]] = field(default_factory=list)  # the lines of metrics.jsonl


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
    ) -> None:
        """Put everything in place.

        Args:
            checkpoint: model, config, labels and preprocessing; the model is trained in place.
            dataset: the pictures to learn from, augmented.
            val_index: the split that chooses `best`; None where there is none or it shares pictures with training.
            plan: epochs or minutes.
            accelerator: devices and processes.
            output: the run folder.
        """
        self.checkpoint, self.dataset, self.val_index, self.plan, self.output = (
            checkpoint,
            dataset,
            val_index,
            plan,
            output,
        )
        self.config, self.scoring, self.accelerator = checkpoint.config, checkpoint.model.scoring, accelerator
        loss = self.config.loss
        self.costs = CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost)
        self.weights = LossWeights(loss.class_weight, loss.l1_weight, loss.giou_weight)
        self.model, self.optimizer = accelerator.prepare(
            checkpoint.model, build_optimizer(checkpoint.model, self.config.train)
        )
        self.state = RunState()
        self.batches: Iterator[tuple[Batch, Targets]] = iter(())

    def step(self, micro_batches: MicroBatches) -> dict[str, Tensor]:
        """One update of the weights, from the summed gradients of its micro-batches on all processes."""
        normalisers = self.normalisers([targets for _, targets in micro_batches])
        parts = []
        for position, (batch, targets) in enumerate(micro_batches):
            with self.gradients_shared_after(position == len(micro_batches) - 1):
                with autocast(self.accelerator.device, self.config.train.precision):
                    output = DetrOutput(*self.model(batch.images, batch.padding_mask))
                if not self.config.loss.auxiliary:
                    output = DetrOutput(output.logits[-1:], output.boxes_cxcywh[-1:])
                matches = match(output, targets, self.scoring, self.costs)
                losses = set_loss(output, targets, matches, self.scoring, normalisers)
                total = self.weights.total(losses)
                self.accelerator.backward(total * self.accelerator.num_processes)  # processes average, we need the sum
            parts.append(
                {"loss": total.detach()}
                | {f"loss_{name}": values[-1].detach() for name, values in losses.items()}
                | statistics(output, targets, matches, self.scoring)
            )
        self.update_weights([batch for batch, _ in micro_batches])
        return self.combined(parts)

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

    def combined(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Losses are shares of one sum over micro-batches and processes, the statistics are means."""
        processes = self.accelerator.num_processes
        return {
            name: torch.stack([part[name] for part in parts]).sum() * processes
            if name.startswith("loss")
            else torch.stack([part[name] for part in parts]).mean()
            for name in parts[0]
        }

    @cached_property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; what is left of micro-batches after the last full update makes one more."""
        return -(-len(self.epoch_batches(0)) // self.config.train.accumulate)

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """This process's micro-batches of an epoch, as keys of the data set."""
        train, accelerator = self.config.train, self.accelerator
        return epoch_order(
            len(self.dataset), epoch, train.seed, train.batch_size, accelerator.process_index, accelerator.num_processes
        )

    def fit(self) -> None:
        """Train until the plan says stop; always makes one step and leaves a usable model."""
        train = self.config.train
        ahead = itertools.chain.from_iterable(
            self.epoch_batches(epoch)[self.state.step * train.accumulate if epoch == self.state.epoch else 0 :]
            for epoch in itertools.count(self.state.epoch)
        )
        random_state = torch.get_rng_state()
        self.batches = training_loader(self.dataset, ahead, train.workers)
        torch.set_rng_state(random_state)  # making a loader draws a number: a resumed run must not notice
        with self.plan.listening():
            finished = self.finished()
            while not finished:
                self.train_epoch()
                finished = self.finished()
                self.conclude_epoch(last=finished)

    def finished(self) -> bool:
        """Whether the epochs are done or the plan stops the run."""
        done = self.plan.total_seconds is None and self.state.epoch >= self.config.train.epochs
        return done or self.must_stop()

    def must_stop(self) -> bool:
        """Whether the plan stops the run here and now: all processes stop where one of them must."""
        return self.any_process(self.plan.must_stop())

    def any_process(self, here: bool) -> bool:
        """Whether it holds in any process; clocks and signals differ between them, the number of steps must not."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def train_epoch(self) -> None:
        """The steps of an epoch that are still to do, as far as the plan allows."""
        self.model.train()
        train, state = self.config.train, self.state
        total, batches_per_epoch, pictures = self.steps_per_epoch, len(self.epoch_batches(state.epoch)), 0
        sums: dict[str, Tensor] = {}
        begun, steps = time.time(), 0
        with progress_bar(TextColumn("{task.fields[parts]}")) as bar:
            task = bar.add_task(f"epoch {state.epoch + 1}", total=total, completed=state.step, rate="", parts="")
            while state.step < total:
                step_begun = time.time()
                left = batches_per_epoch - state.step * train.accumulate
                micro_batches = [
                    (batch.to(self.accelerator.device), targets.to(self.accelerator.device))
                    for batch, targets in itertools.islice(self.batches, min(train.accumulate, left))
                ]
                progress = self.plan.progress(state.epoch * total + state.step)
                set_learning_rates(self.optimizer, progress, train.lr_drop)
                parts = self.step(micro_batches)
                sums = {name: sums.get(name, 0) + value for name, value in parts.items()}
                state.step, steps = state.step + 1, steps + 1
                pictures += sum(len(batch.images) for batch, _ in micro_batches) * self.accelerator.num_processes
                self.plan.record_step(time.time() - step_begun)
                if not bar.disable:
                    rate = f"{pictures / (time.time() - begun):.1f} pictures/s"
                    bar.update(task, completed=state.step, rate=rate, parts=_in_words(parts))
                if self.must_stop():
                    break
        self.log_epoch({name: float(value) / steps for name, value in sums.items()}, pictures, time.time() - begun)

    def log_epoch(self, means: dict[str, float], pictures: int, seconds: float) -> None:
        """Begin the epoch's line of metrics.jsonl."""
        state, total = self.state, self.steps_per_epoch
        self.plan.evaluation_seconds = self.plan.evaluation_seconds or self.guess_evaluation_seconds(pictures, seconds)
        line = {
            "epoch": round(state.epoch + state.step / total, 4),
            "step": state.epoch * total + state.step,
            "seconds": round(self.plan.elapsed(), 2),
            "lr": self.optimizer.param_groups[0]["lr"],
            "pictures_per_second": round(pictures / seconds, 3),
            "skipped_steps": state.skipped,
            **{name: round(value, 6) if value == value else None for name, value in means.items()},
        }
        state.history.append(line)
        if state.step == total:
            state.epoch, state.step = state.epoch + 1, 0

    def guess_evaluation_seconds(self, pictures: int, seconds: float) -> float:
        """Before the first evaluation: a forward pass at full size costs about 0.7 of a training step."""
        return 0.0 if self.val_index is None else 0.7 * seconds / pictures * len(self.val_index)

    def conclude_epoch(self, last: bool) -> None:
        """Evaluate where it is due and affordable, print, and save."""
        metrics = self.evaluate() if self.evaluation_is_due(last) else None
        line = self.state.history[-1]
        if metrics is not None:
            line.update({f"val_{name}": value for name, value in metrics.summary.items()})
        improved = metrics is not None and metrics.summary["AP"] >= self.state.best_ap
        if improved and metrics is not None:
            self.state.best_ap = metrics.summary["AP"]
        if self.accelerator.is_main_process:
            console.print(_line_in_words(line))
            begun = time.time()
            self.save(metrics, improved)
            self.plan.saving_seconds = max(0.5, 1.5 * (time.time() - begun))

    def evaluation_is_due(self, last: bool) -> bool:
        """After whole epochs as the budget allows, and at the end; never when the user is waiting for us to stop."""
        plan = self.plan
        if self.val_index is None or self.any_process(plan.interrupted()):
            return False
        if not last:
            return self.state.step == 0 and not self.any_process(not plan.may_evaluate())
        too_late = self.any_process(plan.remaining() < plan.evaluation_seconds + plan.saving_seconds)
        if too_late:
            console.print("No time is left to evaluate on val; opendetr val measures the model that is written now.")
        return not too_late

    def evaluate(self) -> CocoMetrics | None:
        """COCO metrics on val; every process looks at its share of the pictures. None where time ran out."""
        assert self.val_index is not None
        begun, rank, world = time.time(), self.accelerator.process_index, self.accelerator.num_processes
        model = self.accelerator.unwrap_model(self.model).eval()
        share = range(rank, len(self.val_index), world)
        bounded = self.plan.total_seconds is not None and world == 1  # the others would wait for one that gave up
        deadline = begun + self.plan.remaining() + 10 if bounded else None
        found = detect_split(
            model, self.scoring, self.checkpoint.label_map, self.val_index, self.checkpoint.preprocessing,
            device=self.accelerator.device, precision=self.config.train.precision,
            batch_size=max(4, self.config.train.batch_size), deadline=deadline, positions=share,
        )  # fmt: skip
        try:
            detections = list(track(found, "evaluating", len(share)))
        except OutOfTimeError:
            console.print("The evaluation on val was stopped: the minutes are over.")
            return None
        if world > 1:
            detections = _gathered(detections)
        metrics = metrics_of(self.val_index, detections)
        self.plan.record_evaluation(time.time() - begun)
        return metrics

    def save(self, metrics: CocoMetrics | None, improved: bool) -> None:
        """Write metrics.jsonl, `last` with what resuming needs, and `best` where val improved."""
        self.output.mkdir(parents=True, exist_ok=True)
        write_text(self.output / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.state.history))
        model = self.accelerator.unwrap_model(self.model)
        origin = {**self.checkpoint.metrics, "training": self.state.history[-1]}
        if metrics is not None:
            origin["val"] = metrics.to_json()
        now = Checkpoint(
            model, self.config, self.checkpoint.label_map, self.checkpoint.preprocessing, origin, self.output / "last"
        )
        save_checkpoint(self.output / "last", now, self.training_state())
        if improved:
            save_checkpoint(self.output / "best", now)

    def training_state(self) -> dict[str, Any]:
        """What `restore` needs, in types that can be read back safely."""
        return {
            "state": vars(self.state),
            "spent": self.plan.elapsed(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def restore(self, training_state: dict[str, Any]) -> None:
        """Continue where `training_state` was taken; the weights are already those of `last`."""
        self.state = RunState(**training_state["state"])
        initial = [group["initial_lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(training_state["optimizer"])
        for group, lr in zip(self.optimizer.param_groups, initial):
            group["initial_lr"] = lr  # --set train.lr may have changed it since
        torch.set_rng_state(training_state["random"])
        if training_state["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(training_state["cuda_random"])


def _gathered(detections: list[Any]) -> list[Any]:
    from accelerate.utils import gather_object

    return list(gather_object(detections))


def _in_words(parts: dict[str, Tensor]) -> str:
    shown = {"loss": "loss", "loss_class": "class", "loss_l1": "L1", "loss_giou": "GIoU", "matched_iou": "IoU"}
    return "  ".join(f"{word} {float(parts[name]):.2f}" for name, word in shown.items())


def _line_in_words(line: dict[str, Any]) -> str:
    words = (
        f"epoch {line['epoch']:g}  step {line['step']}  {line['seconds'] / 60:.1f} min  loss {_number(line['loss'])}  "
        f"matched IoU {_number(line['matched_iou'])}  matched accuracy {_number(line['matched_accuracy'])} %"
    )
    return words + (f"  val AP {line['val_AP']:.3f}  AP50 {line['val_AP50']:.3f}" if "val_AP" in line else "")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"
