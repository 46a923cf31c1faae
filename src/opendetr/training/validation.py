"""The split that chooses the best weights: when it is looked at, and what comes of it."""

import time
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.datasets import DatasetIndex
from opendetr.engines.engine import TorchEngine
from opendetr.evaluation.runner import StoppedError, detect_split, metrics_of
from opendetr.progress import console, track
from opendetr.training.plan import Plan
from opendetr.training.processes import any_process, of_all_processes
from opendetr.training.run_folder import RunFolder


class Validation:
    """Measures the weights of a run as far as its plan has time for it."""

    def __init__(self, index: DatasetIndex, plan: Plan, accelerator: Accelerator, folder: RunFolder) -> None:
        """Measure nothing yet.

        Args:
            index: the split.
            plan: says what there is time for, and is told how long it took.
            accelerator: devices and processes.
            folder: where the best weights and the figures are written.
        """
        self.index, self.plan, self.accelerator, self.folder = index, plan, accelerator, folder
        self.step = 0  # of the run, whose weights were last measured
        self.ap50: float | None = None  # of these

    def restore(self) -> None:
        """What was measured last is in the folder's log."""
        if self.folder.measured:
            last = self.folder.measured[-1]
            self.step, self.ap50 = last["step"], last["val_AP50"]

    def is_affordable(self) -> bool:
        """Whether the budget allows it between epochs."""
        return not any_process(self.accelerator, not self.plan.may_evaluate())

    def is_due_at_the_end(self, step: int) -> bool:
        """Where the weights of `step` have not been measured; not when the user is waiting for us to stop."""
        if self.step == step or any_process(self.accelerator, self.plan.interrupted()):
            return False
        too_late = any_process(self.accelerator, self.plan.remaining() < self.plan.evaluation_seconds)
        if too_late:
            console.print("No time is left to evaluate on val; opendetr val measures the model that is written.")
        return not too_late

    def measure(self, checkpoint: Checkpoint, when: Mapping[str, Any]) -> float | None:
        """Measure a model, every process its share of the pictures; the best yet becomes `best`.

        Args:
            checkpoint: the model.
            when: `step` and whatever else tells where in the run it stands.

        Returns:
            AP50; None where there was no time to finish.
        """
        begun, rank, world = time.time(), self.accelerator.process_index, self.accelerator.num_processes
        overtime = min(10.0, 0.03 * (self.plan.total_seconds or 0))

        def should_stop() -> bool:  # only one process may give up by itself: several would wait for each other
            return world == 1 and (self.plan.interrupted() or self.plan.remaining() + overtime < 0)

        train, share = checkpoint.config.train, range(rank, len(self.index), world)
        found = detect_split(
            TorchEngine(checkpoint.model.eval(), self.accelerator.device, train.precision), checkpoint.description,
            self.index, batch_size=max(4, train.batch_size), should_stop=should_stop, positions=share,
        )  # fmt: skip
        try:
            detections = list(track(found, "evaluating", len(share)))
        except StoppedError:
            console.print("The evaluation on val was cut short; opendetr val measures the model that is written.")
            return None
        metrics = metrics_of(self.index, of_all_processes(self.accelerator, detections))
        self.plan.record_evaluation(time.time() - begun)
        self.step, self.ap50 = when["step"], metrics.summary["AP50"]
        if self.accelerator.is_main_process:
            self.folder.record_evaluation(checkpoint, metrics, when)
            console.print(f"    on val: AP {metrics.summary['AP']:.3f}  AP50 {metrics.summary['AP50']:.3f}")
        return self.ap50
