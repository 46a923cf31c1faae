"""Detections of a split, each with whether it is right, and the interval of AP that follows from them.

COCO's matching is done once, by hotcoco; all that depends on scores and on the choice of pictures is counted here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hotcoco import COCOeval
from jaxtyping import Bool, Float, Int

from opendetr.evaluation.coco import FoundArrays, TruthArrays, image_ranks

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # of AP
RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision
RESAMPLES, CONFIDENCE = 200, 0.95  # of the bootstrap
_BLOCK = 50  # resamples at a time, so that large splits fit in memory


@dataclass(frozen=True)
class JudgedDetections:
    """K detections, the best score first, and the true objects of N pictures and C classes."""

    pictures: Int[np.ndarray, " K"]  # position in the split
    labels: Int[np.ndarray, " K"]  # class index 0..C-1
    scores: Float[np.ndarray, " K"]
    right: Bool[np.ndarray, "10 K"]  # finds an object of its class, at each of `IOU_THRESHOLDS`
    counts: Bool[np.ndarray, "10 K"]  # as right or wrong; not those on crowds, or beyond 100 of a picture and class
    objects: Int[np.ndarray, "N C"]  # true objects without crowds

    def at_iou_50(self, label: int | None = None) -> tuple[Float[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """The scores of the detections that count at an IoU of .5, of one class or of all, and which are right."""
        chosen = self.counts[0] if label is None else self.counts[0] & (self.labels == label)
        return self.scores[chosen], self.right[0, chosen]


def judge(evaluator: COCOeval, truth: TruthArrays, found: FoundArrays) -> JudgedDetections:
    """What the evaluator made of every detection; equal scores stand in COCO's order, by picture, then as given."""
    order = np.lexsort((np.arange(len(found.scores)), image_ranks(truth)[found.pictures], -found.scores))
    right, counts = np.zeros((2, len(IOU_THRESHOLDS), len(order)), dtype=bool)
    for row, threshold in enumerate(IOU_THRESHOLDS):
        status: Mapping[int, str] = evaluator.image_diagnostics(iou_thr=threshold)["dt_status"]
        numbers = np.fromiter(status, dtype=np.int64, count=len(status)) - 1
        counts[row, numbers] = True
        right[row, numbers] = [value == "tp" for value in status.values()]
    objects = np.zeros((len(truth.image_ids), len(truth.names)), dtype=np.int64)
    np.add.at(objects, (truth.pictures[~truth.crowds], truth.labels[~truth.crowds]), 1)
    return JudgedDetections(
        found.pictures[order], found.labels[order], found.scores[order], right[:, order], counts[:, order], objects
    )


def weighted_precision(judged: JudgedDetections, weights: Int[np.ndarray, "B N"]) -> Float[np.ndarray, "B 10 C"]:
    """Average precision at every IoU threshold and class, if every picture were there `weights` times.

    NaN where there is no object. A detection that is wrong lowers the precision until the next right one, and COCO
    takes the highest precision at a recall or beyond it: only the places of right detections matter.
    """
    objects = weights @ judged.objects
    found = np.full((len(weights), len(IOU_THRESHOLDS), objects.shape[1]), np.nan)
    for label in range(objects.shape[1]):
        of_class = np.flatnonzero(judged.labels == label)
        often = weights[:, judged.pictures[of_class]]  # how often each detection is there
        ranks = often.cumsum(1)
        for row in range(len(IOU_THRESHOLDS)):
            places = np.flatnonzero(judged.right[row, of_class])
            hits, before = often[:, places].cumsum(1), ranks[:, places]
            if len(ignored := np.flatnonzero(~judged.counts[row, of_class])):
                summed = np.pad(often[:, ignored].cumsum(1), ((0, 0), (1, 0)))
                before = before - summed[:, np.searchsorted(ignored, places)]
            precision = hits / np.maximum(before, 1)
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = hits / np.maximum(objects[:, label, None], 1)
            reached = np.searchsorted(RECALLS, recall, side="right")  # of the 101 recalls, up to this detection
            found[:, row, label] = (best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS)
        found[objects[:, label] == 0, :, label] = np.nan
    return found


def bootstrap_intervals(
    judged: JudgedDetections, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """The lowest and highest AP and AP50 of 95 % of other splits of as many pictures, drawn from this one.

    A percentile bootstrap over pictures (Efron 1979): pictures are drawn with replacement, and AP is computed of each
    draw. It says how much AP depends on which pictures happen to be in the split, not how it differs between trainings.
    Draws without any object are left out; without objects at all, both are empty.
    """
    pictures = len(judged.objects)
    draws = (
        np.random.default_rng(seed)
        .multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples)
        .astype(np.int32)
    )
    blocks = [weighted_precision(judged, draws[start : start + _BLOCK]) for start in range(0, resamples, _BLOCK)]
    precision = np.concatenate(blocks)
    precision = precision[~np.isnan(precision).all((1, 2))]
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    values = {"AP": precision, "AP50": precision[:, :1]} if len(precision) else {}
    return {name: np.quantile(np.nanmean(of, axis=(1, 2)), tails).tolist() for name, of in values.items()}
