"""What the detections of a split say beyond COCO's numbers: intervals, curves, thresholds, confusions, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from opendetr.checkpoints.description import USUAL_THRESHOLD
from opendetr.evaluation.calibration import Calibration, ReliabilityBin, calibrate
from opendetr.evaluation.coco import (
    CocoMetrics,
    FoundArrays,
    TruthArrays,
    class_names,
    evaluator_of,
    metrics_from,
    precision_of,
)
from opendetr.evaluation.confusion import confusion_matrix
from opendetr.evaluation.judged import JudgedDetections, bootstrap_intervals, judge
from opendetr.evaluation.thresholds import BestThreshold, best_threshold, f1_curve
from opendetr.labels import LabelMap
from opendetr.raw_values import RawId

MOST_HARDEST = 24  # pictures that are named
LEAST_OBJECTS = 10  # of a class, for a threshold of its own: with fewer it would be chance


@dataclass(frozen=True)
class ClassCurves:
    """A class, or all of them: precision and F1 of its detections at an IoU of .5."""

    name: str
    objects: int
    precision: list[float]  # at the recalls 0, .01, ... 1; their mean is AP50; empty without objects
    f1: list[float]  # at the thresholds 0, .01, ... 1
    best: BestThreshold | None  # by F1; None where no detection is right


@dataclass(frozen=True)
class Analysis:
    """What the figures of a page and `val --json` show of an evaluation; everything can be written as JSON."""

    intervals: dict[str, list[float]]  # of AP and AP50: the lowest and highest of 95 % of resampled splits
    overall: ClassCurves  # precision: the mean over classes; F1: of all detections together, at one threshold
    classes: list[ClassCurves]  # [C]
    threshold: float  # of `confusion` and `hardest`: that of the best F1 over all classes
    confusion: list[list[int]]  # [C + 1][C + 1]: true class, class found; the last is background
    calibration: Calibration
    hardest: list[RawId]  # the ids of the pictures with the lowest F1 at the threshold, the lowest first

    def to_json(self) -> dict[str, Any]:
        """Everything by the names of the fields, in numbers to six digits."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Analysis":
        """What `to_json` wrote; KeyError or TypeError where it is something else."""
        calibration = dict(values["calibration"])
        calibration["bins"] = [ReliabilityBin(**one) for one in calibration["bins"]]
        read = {
            "overall": _curves_from(values["overall"]), "classes": [_curves_from(one) for one in values["classes"]],
            "calibration": Calibration(**calibration),
        }  # fmt: skip
        return cls(**{**values, **read})


@dataclass(frozen=True)
class AnalysedMetrics(CocoMetrics):
    """COCO metrics with the analysis of the same detections."""

    analysis: Analysis

    def to_json(self) -> dict[str, Any]:
        """The metrics, then `analysis`."""
        return {**super().to_json(), "analysis": self.analysis.to_json()}


def analyse(truth: TruthArrays, found: FoundArrays) -> AnalysedMetrics:
    """COCO metrics of detections and their analysis; no picture is read."""
    evaluator = evaluator_of(truth, found)
    judged = judge(evaluator, truth, found)
    precision = precision_of(evaluator)[0]
    classes = [_curves_of(judged, name, precision[:, label], label) for label, name in enumerate(class_names(truth))]
    defined = precision[:, precision[0] > -1]
    overall = _curves_of(judged, "all classes", defined.mean(1) if defined.size else np.full(len(precision), -1.0))
    threshold = USUAL_THRESHOLD if overall.best is None else overall.best.threshold
    analysis = Analysis(
        bootstrap_intervals(judged), overall, classes, threshold, confusion_matrix(truth, found, threshold).tolist(),
        calibrate(*judged.at_iou_50()), [truth.image_ids[position] for position in hardest_pictures(judged, threshold)],
    )  # fmt: skip
    metrics = metrics_from(evaluator, truth)
    return AnalysedMetrics(metrics.summary, metrics.per_class, analysis)


def fitted_thresholds(analysis: Analysis, measured: LabelMap, of_model: LabelMap) -> tuple[float, ...]:
    """The threshold with the best F1 for every class index of a model; 0.5 where the split cannot tell.

    That is so for a class with fewer than `LEAST_OBJECTS` objects, or without a right detection.

    Args:
        analysis: of the model on a split.
        measured: the classes of the split.
        of_model: the classes of the model.
    """
    ids = [category_id for category_id in measured.category_ids if category_id is not None]
    fitted: dict[RawId | None, float] = {
        category_id: curves.best.threshold
        for category_id, curves in zip(ids, analysis.classes, strict=True)
        if curves.best is not None and curves.objects >= LEAST_OBJECTS
    }
    return tuple(fitted.get(category_id, USUAL_THRESHOLD) for category_id in of_model.category_ids)


def hardest_pictures(judged: JudgedDetections, threshold: float) -> list[int]:
    """Positions of the pictures with mistakes, the lowest F1 first, of equals that with the most mistakes.

    A mistake is an object that no detection finds at an IoU of .5, or a detection with at least the threshold's score
    that finds none.
    """
    pictures = len(judged.objects)
    kept = judged.counts[0] & (judged.scores >= threshold)
    found = np.bincount(judged.pictures[kept], minlength=pictures)
    right = np.bincount(judged.pictures[kept & judged.right[0]], minlength=pictures)
    both = found + judged.objects.sum(1)
    mistakes = both - 2 * right
    order = np.lexsort((-mistakes, 2 * right / np.maximum(both, 1)))
    return [position for position in order.tolist() if mistakes[position]][:MOST_HARDEST]


def _curves_of(
    judged: JudgedDetections, name: str, precision: Float[np.ndarray, "101"], label: int | None = None
) -> ClassCurves:
    objects: Int[np.ndarray, ""] = (judged.objects if label is None else judged.objects[:, label]).sum()
    scores, right = judged.at_iou_50(label)
    return ClassCurves(
        name, int(objects), precision.tolist() if precision[0] > -1 else [],
        f1_curve(scores, right, int(objects)).tolist(), best_threshold(scores, right, int(objects)),
    )  # fmt: skip


def _curves_from(values: Mapping[str, Any]) -> ClassCurves:
    best = values["best"]
    return ClassCurves(**{**values, "best": None if best is None else BestThreshold(**best)})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _rounded(of) for name, of in value.items()}
    return [_rounded(of) for of in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
