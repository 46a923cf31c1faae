"""The split that chooses the best weights: when it is evaluated, and how the result is used."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from opendetr.boxes import xyxy_to_cxcywh
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.index import DatasetIndex
from opendetr.engines.engine import TorchEngine
from opendetr.errors import DivergedError
from opendetr.evaluation.analysis import AnalysedMetrics, fitted_thresholds
from opendetr.evaluation.runner import StoppedError, analyse_detections, detect_split, say_broken
from opendetr.loss.criterion import build_criterion
from opendetr.progress import show_progress, warn
from opendetr.structures import Detections, DetrOutput, Target, Targets
from opendetr.training.diverging import diverged
from opendetr.training.plan import Plan
from opendetr.training.processes import (
    SharedStop,
    any_process,
    of_all_processes,
    of_first_process,
    said_by_first,
)
from opendetr.training.run_folder import RunFolder
from opendetr.training.stability import Origins, origins_of_matches, share_kept


class Evaluation(NamedTuple):
    """The result of an evaluation of the whole split."""

    metrics: AnalysedMetrics
    thresholds: tuple[float, ...]  # with the best F1, per class of the model
    detections: list[tuple[int, Detections]]  # with their position in the split
    match_stability: float | None  # see `stability`; None at the first evaluation


class Validation:
    """Evaluates the weights of a run as far as its plan has time for it."""

    def __init__(self, index: DatasetIndex, plan: Plan, accelerator: Accelerator, folder: RunFolder) -> None:
        self.index, self.plan, self.accelerator, self.folder = index, plan, accelerator, folder
        self.step = 0  # of the run, at the last evaluation
        self.ap50: float | None = None  # of the last evaluation

    def restore(self) -> None:
        """Read the last evaluation from the folder's log."""
        if self.folder.measured:
            last = self.folder.measured[-1]
            self.step, self.ap50 = last["step"], last["val_AP50"]

    def is_affordable(self) -> bool:
        """Whether the budget allows an evaluation between epochs."""
        return not any_process(self.accelerator, not self.plan.may_evaluate())

    def is_due_at_the_end(self, step: int) -> bool:
        """Whether to evaluate at the end: not if the weights of `step` are measured or the user wants to stop."""
        if self.step == step or any_process(self.accelerator, self.plan.interrupted()):
            return False
        too_late = any_process(self.accelerator, self.plan.remaining() < self.plan.evaluation_seconds)
        if too_late:
            warn("no time is left to evaluate on val; opendetr val measures the model that is written.")
        return not too_late

    def measure(self, checkpoint: Checkpoint, when: Mapping[str, Any]) -> Evaluation | None:
        """Evaluate a model, every process its share of the pictures.

        `when` is the place in the run, with its `step`. Returns None where there was no time to finish.
        """
        begun, rank, world = time.time(), self.accelerator.process_index, self.accelerator.num_processes
        overtime = min(10.0, 0.03 * (self.plan.total_seconds or 0))

        def stops() -> bool:
            return self.plan.interrupted() or self.plan.remaining() + overtime < 0

        broken: list[str] = []
        detections: list[tuple[int, Detections]] = []
        origins: list[tuple[int, list[int]]] = []  # of the queries that objects are matched with
        truth = self.index.under(checkpoint.label_map)
        criterion = build_criterion(
            checkpoint.config.loss, checkpoint.config.model.num_queries, checkpoint.model.scoring
        )

        def record_matches(positions: Sequence[int], output: DetrOutput) -> None:
            targets = Targets.stack([_target(truth, position) for position in positions]).to(output.logits.device)
            origins.extend(zip(positions, origins_of_matches(output, targets, criterion.scoring, criterion.costs)))

        train, share = checkpoint.config.train, range(rank, len(self.index), world)
        batch_size = max(4, train.batch_size)
        stop = SharedStop(self.accelerator, stops, len(self.index), batch_size)
        found = detect_split(
            TorchEngine(checkpoint.model.eval(), self.accelerator.device, train.precision), checkpoint.description,
            self.index, batch_size=batch_size, should_stop=lambda: stop.is_due(len(detections)), positions=share,
            broken=None if checkpoint.config.data.strict else broken.append, observe=record_matches,
        )  # fmt: skip
        try:
            for one in show_progress(found, "evaluating", len(share)):
                detections.append(one)
            is_stopped = stop.is_due_at_the_end()
        except StoppedError:
            is_stopped = True
        if is_stopped:
            warn("the evaluation on val was cut short; opendetr val measures the model that is written.")
            return None
        detections = of_all_processes(self.accelerator, detections)
        origins = of_all_processes(self.accelerator, origins)
        broken = of_all_processes(self.accelerator, broken)  # by all processes: not each has the log
        if self.accelerator.is_main_process and not self.folder.measured:  # each evaluation finds the same
            say_broken(broken)
        if not all(torch.isfinite(found.scores).all() for _, found in detections):
            of_first_process(self.accelerator, self.folder.undo_last)
            split = checkpoint.config.data.val_split
            error = diverged(checkpoint.config, self.folder.path, f"the answers on {split} are not finite")
            raise said_by_first(self.accelerator, DivergedError(error))
        metrics = analyse_detections(self.index, detections)
        thresholds = fitted_thresholds(metrics.analysis, self.index.label_map, checkpoint.label_map)
        stability = self._stability(when["step"], origins)
        self.plan.record_evaluation(time.time() - begun)
        self.step, self.ap50 = when["step"], metrics.summary["AP50"]
        return Evaluation(metrics, thresholds, detections, stability)

    def _stability(self, step: int, origins: Sequence[tuple[int, list[int]]]) -> float | None:
        """The share of objects that kept their query since the evaluation before `step`."""
        now: Origins = [[] for _ in range(len(self.index))]  # empty where a picture could not be used
        for position, of_picture in origins:
            now[position] = of_picture
        before = of_first_process(self.accelerator, lambda: self.folder.exchange_matches(step, now))
        return share_kept(before, now)


def _target(index: DatasetIndex, position: int) -> Target:
    """The objects of a picture as the matcher takes them."""
    record = index.records[position]
    size = torch.tensor([record.width, record.height] * 2)
    return Target(torch.from_numpy(record.labels), xyxy_to_cxcywh(torch.from_numpy(record.boxes_xyxy)) / size)
