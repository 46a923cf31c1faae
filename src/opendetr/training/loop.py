"""The life of a run: its epochs, what changes within them, what is logged, evaluated and saved. `step` is its step.

Longer than other files, since it is one class: all of it reads and changes the state of one run.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from opendetr.checkpoints.adapt import train_mode
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.weights import damage_is_said
from opendetr.config import RunConfig
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import DetectionDataset
from opendetr.errors import DivergedError
from opendetr.loss.criterion import build_criterion
from opendetr.progress import console, live_bar, warn
from opendetr.threads import Threads
from opendetr.training.captures import CAPTURES, save_capture
from opendetr.training.diverging import MOST_CAPTURES, MOST_SKIPPED, diverged, what_is_not_finite
from opendetr.training.ema import AveragedModel
from opendetr.training.flips import (
    TRIALS,
    FlipTrial,
    due_trial,
    open_flips,
    seconds_for_trial,
    settle_flips,
    still_open,
    try_flips,
)
from opendetr.training.manifest import describe_session
from opendetr.training.means import EpochMeans, line_in_words
from opendetr.training.optim import build_optimizer, restore_optimizer, set_learning_rates
from opendetr.training.pictures import TrainingPictures
from opendetr.training.plan import Forecast, Plan
from opendetr.training.processes import (
    any_process,
    mean_of_processes,
    of_all_processes,
    of_first,
    of_first_process,
    said_by_first,
    stoppable_work_of_first,
)
from opendetr.training.resume import PACE, RunState, random_state, restore_random_state
from opendetr.training.run_folder import RunFolder, kept_epochs
from opendetr.training.run_report import RunReport
from opendetr.training.run_tracker import RunTracker
from opendetr.training.sizing import Sizing
from opendetr.training.speed import fits_in_memory
from opendetr.training.step import MicroBatches, TrainingStep
from opendetr.training.validation import Evaluation, Validation
from opendetr.training.watch import Watch
from opendetr.wording import counted

LOGGED_EVERY = 20  # steps of an epoch


class Trainer:
    """One run: a model learns a split, is evaluated on another, and is written to a folder.

    Args:
        checkpoint: model, config, labels and preprocessing; the model is trained in place.
        dataset: the pictures to learn from, augmented.
        val_index: the split that chooses `best`; None where there is none, or it shares pictures with training.
        plan: when the run ends, and how far it is, which learning rates follow.
        accelerator: the device, and the processes that train together.
        output: the run folder; only the main process writes to it.
        sizing: the speed that the picture size was chosen by; it may change the size during the run.
        threads: measures the number of threads again when steps become slower; None keeps the number.
    """

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
        self.checkpoint, self.config = checkpoint, checkpoint.config
        self.val_index, self.plan, self.accelerator = val_index, plan, accelerator
        self.sizing, self.threads = sizing, threads
        model, train = checkpoint.model, self.config.train
        self.averaged = AveragedModel(model, train.ema) if train.ema else None
        self.model, self.optimizer = accelerator.prepare(model, build_optimizer(model, train))
        criterion = build_criterion(self.config.loss, self.config.model.num_queries, model.scoring)
        self.step = TrainingStep(self.model, self.optimizer, criterion, accelerator, self.config, model.num_classes)
        self.pictures = TrainingPictures(dataset, self.config, checkpoint.preprocessing, accelerator)
        self.state = RunState()
        self.means = EpochMeans()  # over the epoch's steps since the session began
        self.latest = EpochMeans()  # over those since the log's last line of a step
        self.folder = RunFolder(output, is_written=accelerator.is_main_process)
        self.validation = None if val_index is None else Validation(val_index, plan, accelerator, self.folder)
        self.forecast = Forecast(plan)
        self.report: RunReport | None = None  # in the process that writes it, and so the next
        self.watch: Watch | None = None

    def fit(self) -> None:
        """Train until the plan stops the run; makes at least one step, and always writes a usable model."""
        with ExitStack() as stack:
            of_first_process(self.accelerator, lambda: stack.enter_context(self.folder.held()))
            stack.enter_context(self.plan.listening())
            device, transform = self.accelerator.device, self.state.transform
            session = describe_session(self.config, self.pictures.digests, transform, device)
            of_first_process(self.accelerator, lambda: self.folder.begin(self.config, session))
            of_first_process(self.accelerator, self.begin_tracking)
            if self.watch is not None:
                self.watch.begin(self.pictures.upright, self.config.data.image_size)
            if self.report is not None:
                self.report.begin(self.pictures.first(self.state.epoch), self.checkpoint.preprocessing)
            self.plan.begin()
            self.pictures.show(self.state, small=self.progress() < self.config.train.small_first)
            if self.plan.goal is not None:
                self.plan.goal.growth = self.pictures.growth()
            if self.was_killed_before_measuring():
                self.measure()
            self.keep()
            while self.steps_done == 0 or not self.finished():  # a run stopped before its first step makes that one
                self.train_epoch()
                evaluate, ends = self.evaluation_is_due(), self.finished()
                if evaluate or ends or self.is_kept() or of_first(self.accelerator, self.plan.may_save()):
                    whole = self.state.step == 0 and self.plan.total_seconds is None  # minutes pay for no second one
                    self.state.evaluation_due = evaluate or (ends and whole)
                    self.save(is_measured=self.validation is not None and (evaluate or ends))
                if evaluate:
                    self.measure()
                if not ends:
                    self.keep()
            if self.validation is not None and self.validation.is_due_at_the_end(self.steps_done):
                self.measure()
            self.folder.forget_previous()
            self.keep()
            if self.validation is None and not any_process(self.accelerator, self.plan.interrupted()):
                of_first_process(self.accelerator, self.look_at_the_end)
            if self.report is not None:
                self.report.write(self.checkpoint.preprocessing)

    def begin_tracking(self) -> None:
        """Send the lines of the log to an experiment tracker too, where one is asked for."""
        name = self.config.train.log_to
        if name != "none" and self.folder.is_written:
            self.folder.tracker = RunTracker(
                name, self.folder.path, self.config, self.state.tracker_id, self.steps_done
            )
            self.state.tracker_id = self.folder.tracker.id

    def finished(self) -> bool:
        """Whether the epochs are done, val has stopped getting better, or the plan stops the run."""
        done = self.plan.total_seconds is None and self.state.epoch >= self.config.train.epochs
        return done or self.is_out_of_patience() or self.must_stop()

    def is_out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations gave no better AP.

        Where learning rates fall later, AP rises at the end even after a long pause: only the last half counts.
        """
        train, plan = self.config.train, self.plan
        if not train.patience:
            return False
        since = 0.5 if train.schedule == "cosine" or train.lr_drop < 1 else 0.0
        waited = self.folder.waited(lambda line: plan.progress_at(line["step"], line["seconds"]) >= since)
        return any_process(self.accelerator, waited >= train.patience)  # the log is in the first one

    def must_stop(self) -> bool:
        """Whether the plan stops the run now: all processes stop where one of them must."""
        return any_process(self.accelerator, self.plan.must_stop())

    def train_epoch(self) -> None:
        """Do the remaining steps of an epoch, until the plan stops the run or needs an evaluation on val."""
        train_mode(self.model)
        train, state = self.config.train, self.state
        batches_per_epoch = len(self.pictures.epoch_batches(state.epoch))
        state.evaluation_due = False
        if state.step == 0 or self.means.steps == 0:
            self.means, self.latest = EpochMeans(), EpochMeans()
        total = self.pictures.steps_per_epoch
        with live_bar() as bar:
            task = bar.add_task(f"epoch {state.epoch + 1}", total=total, completed=state.step, figures=())
            while state.step < total:
                progress = self.progress()
                self.adapt(progress)
                begun = time.time()
                left = batches_per_epoch - state.step * train.accumulate
                micro_batches = self.pictures.next_batches(min(train.accumulate, left))
                set_learning_rates(self.optimizer, progress, train)
                figures = self.step(micro_batches)
                state.step += 1
                self.record_step(micro_batches, figures, time.time() - begun)
                if not bar.disable:
                    bar.update(task, completed=state.step, figures=self.figures(figures))
                elif self.means.is_time_to_speak():
                    shown = "  ".join(self.figures(figures))
                    console.print(f"epoch {state.epoch + 1}  step {state.step}/{total}  {shown}")
                if self.must_stop() or self.must_measure():
                    break
                if state.step < total and self.saving_is_due():
                    self.save()
        if state.step == total or self.must_stop():
            self.log_epoch()

    def adapt(self, progress: float) -> None:
        """Change what is due: which flips are used, the size of pictures, small pictures or full ones."""
        self.try_flips(progress)
        if self.plan.total_seconds is not None and self.sizing.is_due(progress):
            seconds = (self.plan.total_seconds - self.plan.began) * self.accelerator.num_processes
            found = mean_of_processes(self.accelerator, self.sizing.found)
            chosen = self.sizing.chosen_again(self.config, seconds, found)
            self.resize(*broadcast_object_list([*chosen]))  # processes measure differently: the first one decides
        if self.pictures.are_small != (progress < self.config.train.small_first):
            self.pictures.show(self.state, small=not self.pictures.are_small)

    def record_step(self, micro_batches: MicroBatches, figures: dict[str, float], seconds: float) -> None:
        """Record a step in the means, the plan, the averaged weights and the log."""
        pictures = sum(len(batch.images) for batch, _ in micro_batches) * self.accelerator.num_processes
        pixels = sum(batch.images[:, 0].numel() for batch, _ in micro_batches)
        self.means.add(figures, pictures)
        self.latest.add(figures, pictures)
        self.plan.record_step(seconds)
        if self.threads is not None:
            self.threads.observe(seconds, pixels)
        self.sizing.observe(pixels, seconds)
        if self.step.skipped_in_a_row:
            self.keep_skipped(micro_batches)
        elif self.averaged is not None:
            self.averaged.update(self.steps_done, self.progress())
        if self.plan.evaluating == 0 and self.val_index is not None:  # until one was timed, by that of a forward pass
            self.plan.evaluation_seconds = 0.7 * self.plan.step_seconds / pictures * len(self.val_index)
        if self.state.step % LOGGED_EVERY == 0:
            self.log({"kind": "step", **self.where(), "lr": self.lr, **self.latest.line()})
            self.forecast.say_after(self.steps_done, self.latest.pictures_per_second)
            self.latest = EpochMeans()

    def keep_skipped(self, micro_batches: MicroBatches) -> None:
        """Keep a step that was left out, so that it can be repeated, the first of each row; a long row ends the run."""
        in_a_row, config = self.step.skipped_in_a_row, self.config
        of_rank = f"-{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""
        kept = self.folder.path / CAPTURES / f"step-{self.steps_done}{of_rank}.pt"
        if in_a_row == 1 and len(list(kept.parent.glob("*.pt"))) < MOST_CAPTURES * self.accelerator.num_processes:
            model = self.accelerator.unwrap_model(self.model)
            save_capture(kept, model, config, self.steps_done, self.step.start.random, micro_batches)
            warn(f"opendetr replay {kept} repeats this step and names the first module that is not finite.")
        if in_a_row == MOST_SKIPPED:
            said = diverged(config, self.folder.path, f"{in_a_row} steps in a row have no finite gradient")
            raise said_by_first(self.accelerator, DivergedError(said))

    def require_sound(self) -> None:
        """Check before writing that the weights are finite, and what they answer to a picture; DivergedError if not."""
        if problem := what_is_not_finite(self.unwrapped().model, self.pictures.dataset, self.accelerator.device):
            raise DivergedError(diverged(self.config, self.folder.path, problem))

    def try_flips(self, progress: float) -> None:
        """Decide whether pictures are flipped from now on, where the recipe leaves it open and a trial is due.

        What was found is saved at once, so that no resumed run tries it again; an interrupted trial is repeated. Of
        several processes the first one tries.
        """
        state, due = self.state, due_trial(self.config.data, self.state.progress, progress)
        if due is None:
            state.progress = progress
            return
        begun = time.time()
        seconds = seconds_for_trial(due, self.plan.total_seconds, state.flip_seconds)

        def trial(should_stop: Callable[[], bool]) -> FlipTrial | None:
            return try_flips(
                self.unwrapped().model.eval(), self.pictures.upright, self.step.criterion, self.accelerator.device,
                self.config.train.precision, should_stop, seconds=seconds,
            )  # fmt: skip

        found = stoppable_work_of_first(self.accelerator, trial, self.plan.must_stop)
        taken = of_first_process(self.accelerator, lambda: time.time() - begun)
        state.flip_seconds += taken
        self.pause(taken)
        train_mode(self.model)
        if found is not None:
            state.progress = progress
            self.settle_flips(found, is_last=due == TRIALS[-1])

    def settle_flips(self, found: FlipTrial, *, is_last: bool) -> None:
        """Decide by the trial that says most so far, and save that."""
        before = FlipTrial(*self.state.flip_trial) if self.state.flip_trial else found._replace(pictures=0)
        best = max(found, before, key=lambda trial: trial.rank)  # the later of equals
        self.state.flip_trial = list(best)
        config, reasons = settle_flips(self.config, best, is_last=is_last)
        for reason in reasons:
            console.print(f"chosen: {reason}")
        if open_flips(config.data) and best.pictures and not before.pictures:  # said once
            console.print(still_open(best))
        if config != self.config:
            self.change(config)
        if reasons or found.pictures:
            self.save()

    def resize(self, config: RunConfig, reason: str) -> None:
        """Show pictures as large as the config says from the next step on; saved models use that size."""
        fits = partial(fits_in_memory, self.sizing.objects, self.sizing.speed, self.checkpoint.model)
        is_larger = config.data.image_size > self.config.data.image_size
        if is_larger and not of_first_process(self.accelerator, lambda: fits(config, config.train.batch_size)):
            return
        if reason:
            console.print(f"chosen: {reason}")
        if config != self.config:
            self.change(config)

    def change(self, config: RunConfig) -> None:
        """Continue with another config, which differs in its data section only."""
        data = config.data
        preprocessing = replace(self.checkpoint.preprocessing, image_size=data.image_size, max_size=data.max_size)
        self.config = config  # which the folder gets with the next `last`
        self.checkpoint = replace(self.checkpoint, config=config, preprocessing=preprocessing)
        self.pictures.change(config, preprocessing)
        self.pictures.show(self.state, small=self.pictures.are_small)

    def progress(self) -> float:
        """How far the run is, 0..1, the same in all processes, since it decides what they do together."""
        return mean_of_processes(self.accelerator, self.plan.progress(self.steps_done))

    @property
    def steps_done(self) -> int:
        """Steps of the whole run."""
        return self.state.epoch * self.pictures.steps_per_epoch + self.state.step

    def figures(self, parts: dict[str, float]) -> list[str]:
        """For the bar, the most important first: the time until the run is over, loss, AP50 on val, throughput, IoU."""
        seconds = max(0, round(self.plan.remaining_of_run(self.steps_done)))
        ap50 = None if self.validation is None else self.validation.ap50
        return [
            f"{timedelta(seconds=seconds)} left",
            f"loss {parts['loss']:.2f}",
            *([] if ap50 is None else [f"AP50 {ap50:.2f}"]),
            f"{self.means.pictures_per_second:.3g} pictures/s",
            f"matched IoU {parts['matched_iou']:.2f}",
        ]

    def where(self) -> dict[str, Any]:
        """Where the run is, for a line of its log."""
        epoch = round(self.state.epoch + self.state.step / self.pictures.steps_per_epoch, 4)
        return {"epoch": epoch, "step": self.steps_done, "seconds": round(self.plan.elapsed(), 2)}

    @property
    def lr(self) -> float:
        """The learning rate of the transformer and the heads."""
        return float(self.optimizer.param_groups[0]["lr"])

    def log_epoch(self) -> None:
        """Write the epoch's line of metrics.jsonl, and go to the next epoch if this one is finished."""
        state, skipped = self.state, self.step.skipped
        line = {"kind": "epoch", **self.where(), "lr": self.lr, "skipped_steps": skipped, **self.means.line()}
        if state.step == self.pictures.steps_per_epoch:
            state.epoch, state.step = state.epoch + 1, 0
        several = self.checkpoint.label_map.num_classes > 1
        console.print(line_in_words(self.log(line), with_accuracy=several))

    def log(self, line: dict[str, Any]) -> dict[str, Any]:
        """Add a line to metrics.jsonl, and return it as written."""
        return of_first_process(self.accelerator, lambda: self.folder.log(line))

    def is_kept(self) -> bool:
        """Whether an epoch has ended whose model stays in `checkpoints`."""
        return self.state.step == 0 and self.state.epoch in kept_epochs(self.state.epoch, self.config.train.keep)

    def keep(self) -> None:
        """Copy the model that is saved to `checkpoints`, where it is one that stays."""
        if self.is_kept():
            keep = partial(self.folder.keep_last, self.state.epoch, self.config.train.keep)
            of_first_process(self.accelerator, keep)

    def save(self, *, is_measured: bool = False) -> None:
        """Write `last`, before anything that can fail; `is_measured` where an evaluation of it follows."""
        begun = time.time()
        random_states = of_all_processes(self.accelerator, [random_state()])

        def write() -> None:
            self.require_sound()
            self.folder.save_last(self.unwrapped(), self.training_state(random_states), is_measured=is_measured)
            self.plan.record_saving(time.time() - begun)

        of_first_process(self.accelerator, write)
        self.pause(time.time() - begun)

    def saving_is_due(self) -> bool:
        """Whether to save within an epoch."""
        return of_first(self.accelerator, self.plan.may_save_within(60 * self.config.train.save_every))

    def pause(self, seconds: float) -> None:
        """Leave this time out of the throughput."""
        for means in (self.means, self.latest):
            means.pause(seconds)

    def was_killed_before_measuring(self) -> bool:
        """Whether the run that is continued has no evaluation of its `last` that was due."""
        due = any_process(self.accelerator, self.state.evaluation_due)  # all read it from the same file
        return due and self.validation is not None and self.validation.is_due_at_the_end(self.steps_done)

    def evaluation_is_due(self) -> bool:
        """Whether to evaluate on val now: between epochs, or when the plan needs it, if the budget allows."""
        between = self.state.step == 0 and self.plan.goal is None
        due = (between or self.must_measure()) and not self.finished()
        return due and self.validation is not None and self.validation.is_affordable()

    def must_measure(self) -> bool:
        """Whether the plan needs to know the AP50 on val now."""
        return self.plan.goal is not None and self.validation is not None and self.validation.is_affordable()

    def measure(self) -> None:
        """Evaluate the model that is saved on val, and tell the plan."""
        assert self.validation is not None
        begun = time.time()
        where = self.where()
        evaluation = self.validation.measure(self.unwrapped(), where)
        if evaluation is not None:
            of_first_process(self.accelerator, partial(self.record, evaluation, where))
        self.pause(time.time() - begun)
        if evaluation is not None and self.plan.goal is not None:
            self.plan.goal.record(evaluation.metrics.summary["AP50"])
        if self.is_out_of_patience():
            evaluations = f"{self.config.train.patience} evaluations gave no better AP on val"
            console.print(f"{evaluations}: the run ends (--patience).")
            if evaluation is not None:
                of_first_process(self.accelerator, partial(self.look_at_the_end, evaluation))

    def record(self, evaluation: Evaluation, where: dict[str, Any]) -> None:
        """Write an evaluation to the folder, with the symptoms that it shows; its line in the log comes last."""
        begun, symptoms = time.time(), dict[str, str]()
        if self.watch is not None:
            progress, device = self.plan.progress(self.steps_done), self.accelerator.device
            symptoms = self.watch.look(self.unwrapped(), progress, device, evaluation)
        if self.report is not None:
            self.report.record_evaluation(evaluation.metrics, evaluation.detections, where)
        self.folder.record_evaluation(
            self.unwrapped(), evaluation.metrics, evaluation.thresholds, where, symptoms, evaluation.match_stability
        )
        summary = evaluation.metrics.summary
        console.print(f"    on val: AP {summary['AP']:.3f}  AP50 {summary['AP50']:.3f}")
        if self.report is not None:
            self.report.write(self.checkpoint.preprocessing)
        self.plan.extend_evaluation(time.time() - begun)

    def look_at_the_end(self, evaluation: Evaluation | None = None) -> None:
        """Look for symptoms at the end of a run that measures nothing, or that ends before its time."""
        if self.watch is None:
            return
        if symptoms := self.watch.look(self.unwrapped(), 1.0, self.accelerator.device, evaluation):
            self.folder.log({"kind": "symptoms", **self.where(), "symptoms": symptoms})

    def unwrapped(self) -> Checkpoint:
        """The model that is saved: averaged where the recipe says so, without Accelerate's wrapper."""
        model = self.accelerator.unwrap_model(self.model) if self.averaged is None else self.averaged.model
        return replace(self.checkpoint, model=model)

    def training_state(self, random_states: list[dict[str, Any]]) -> dict[str, Any]:
        """What `restore` needs, in types that can be read back safely; `random_states` are those of all processes."""
        sizing = self.sizing
        return {
            "state": vars(self.state) | {"skipped": self.step.skipped},
            "steps_per_epoch": self.pictures.steps_per_epoch,
            "spent": self.plan.elapsed(),
            "began": self.plan.began,
            "total_seconds": self.plan.total_seconds,
            "pictures": self.pictures.digests,
            "evaluating": self.plan.evaluating,
            "pace": {name: getattr(self.plan, name) for name in PACE},
            "sizing": {
                "is_open": sizing.is_open, "done": sizing.done, "expected": sizing.expected, "pixels": sizing.pixels,
                "seconds": sizing.seconds,
            },
            "means": self.means.state(),
            "latest": self.latest.state(),
            "optimizer": self.optimizer.state_dict(),
            "weights": None if self.averaged is None else self.accelerator.unwrap_model(self.model).state_dict(),
            **random_states[0],
            "other_processes": random_states[1:],
        }  # fmt: skip

    def restore(self, training_state: dict[str, Any], run: Path) -> None:
        """Continue from `training_state`; the weights are already those of the run's `last`."""
        state = dict(training_state["state"])
        self.step.skipped = state.pop("skipped", 0)
        self.state = RunState(**state)
        before, now = training_state["steps_per_epoch"], self.pictures.steps_per_epoch
        until_epoch = self.state.epoch + self.state.step / before
        self.folder.read_history(run, until_epoch, training_state.get("log_lines"))
        self.plan.evaluating = training_state.get("evaluating", 0.0)
        if "means" in training_state:
            self.means, self.latest = (EpochMeans.restored(training_state[name]) for name in ("means", "latest"))
        if self.validation is not None:
            self.validation.restore()
        for name, value in training_state.get("sizing", {}).items():
            setattr(self.sizing, name, value)
        if self.state.step and before != now:
            console.print(f"An epoch has {now} steps now, it had {before}: the unfinished epoch starts again.")
            self.state.step = 0
        processes, had = self.accelerator.num_processes, 1 + len(training_state.get("other_processes", ()))
        if self.state.step and processes != had:  # which share the pictures in another way
            now_so_many = counted(processes, "process", "processes")
            console.print(f"{now_so_many} now, {had} before: the unfinished epoch starts again.")
            self.state.step = 0
        path = run / "last" / "training.pt"
        with damage_is_said(path):
            if training_state["weights"] is not None:  # `last` holds the average of these
                self.accelerator.unwrap_model(self.model).load_state_dict(training_state["weights"])
            restore_optimizer(self.optimizer, training_state["optimizer"], str(path))
            states = [training_state, *training_state.get("other_processes", ())]
            if self.accelerator.num_processes == len(states):  # others would draw differently all the same
                restore_random_state(states[self.accelerator.process_index])
