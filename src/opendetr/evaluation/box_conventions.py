"""In which of a few other ways the boxes of a split may be written, judged by what a model finds there."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from opendetr.evaluation.coco import FoundArrays, TruthArrays
from opendetr.evaluation.confusion import pairwise_iou

Boxes = Float[np.ndarray, "M 4"]
MOST_PICTURES = 100
AS_LABELLED = "as they are labelled"
CONVENTIONS: dict[str, Callable[[Boxes], Boxes]] = {  # what is found, in terms of the labelled boxes (x, y, w, h)
    AS_LABELLED: lambda boxes: boxes,
    "half as wide and high": lambda boxes: _scaled(boxes, 0.5),
    "twice as wide and high": lambda boxes: _scaled(boxes, 2.0),
    "at half of their coordinates": lambda boxes: boxes * 0.5,
    "at twice their coordinates": lambda boxes: boxes * 2.0,
    "with x and y exchanged": lambda boxes: boxes[:, [1, 0, 3, 2]],
    "with their corner where the centre should be": lambda boxes: _moved(boxes, 0.5),
    "with their centre where the corner should be": lambda boxes: _moved(boxes, -0.5),
}


def convention_fits(truth: TruthArrays, found: FoundArrays) -> dict[str, float]:
    """For every convention, the median over the objects of the best IoU with a detection, of whatever class.

    Of every picture the best detections count, twice as many as it has objects; crowds are no objects. Looks at
    `MOST_PICTURES` with objects at most, from all over the split. Zeros where there is no object.
    """
    best: dict[str, list[Float[np.ndarray, " m"]]] = {name: [] for name in CONVENTIONS}
    order = np.lexsort((-found.scores, found.pictures))
    ends = np.searchsorted(found.pictures[order], np.arange(len(truth.image_ids) + 1))
    shown = np.unique(truth.pictures[~truth.crowds])
    for picture in shown[:: len(shown) // MOST_PICTURES + 1].tolist():
        objects = truth.boxes_xywh[(truth.pictures == picture) & ~truth.crowds]
        detections = order[ends[picture] : ends[picture + 1]][: 2 * len(objects)]
        for name, convert in CONVENTIONS.items():
            ious = pairwise_iou(convert(objects), found.boxes_xywh[detections])
            best[name].append(ious.max(1) if len(detections) else np.zeros(len(objects)))
    return {name: float(np.median(np.concatenate(values))) if values else 0.0 for name, values in best.items()}


def _scaled(boxes: Boxes, factor: float) -> Boxes:
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    return np.concatenate([centres - factor * boxes[:, 2:] / 2, factor * boxes[:, 2:]], axis=1)


def _moved(boxes: Boxes, sides: float) -> Boxes:
    return np.concatenate([boxes[:, :2] + sides * boxes[:, 2:], boxes[:, 2:]], axis=1)
