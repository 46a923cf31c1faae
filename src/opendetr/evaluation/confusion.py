"""Which classes are taken for which, and what is missed or found where nothing is."""

import numpy as np
import torch
from jaxtyping import Float, Int

from opendetr.boxes import box_iou
from opendetr.evaluation.coco import FoundArrays, TruthArrays

RIGHT = 0.5  # the IoU from which on a detection finds an object, as in AP50


def confusion_matrix(truth: TruthArrays, found: FoundArrays, threshold: float) -> Int[np.ndarray, "classes classes"]:
    """Objects by true class (rows) and class of the detection that found them (columns), C + 1 of each.

    In every picture, from the best score on, a detection takes the free object that it overlaps most, whatever the
    class, if the IoU is .5 or more. The last column counts objects that were missed, the last row detections that found
    none ("background" both ways). Detections that lie on a crowd by half of their area or more count for nothing where
    they find no object, as in COCO.

    Args:
        truth: the true objects.
        found: the detections.
        threshold: only detections with at least this score.
    """
    classes = len(truth.names)
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    kept = np.flatnonzero(found.scores >= threshold)
    kept = kept[np.lexsort((-found.scores[kept], found.pictures[kept]))]
    objects = np.argsort(truth.pictures, kind="stable")
    every = np.arange(len(truth.image_ids) + 1)
    of_found = np.searchsorted(found.pictures[kept], every)
    of_truth = np.searchsorted(truth.pictures[objects], every)
    for picture in every[:-1]:
        detections = kept[of_found[picture] : of_found[picture + 1]]
        here = objects[of_truth[picture] : of_truth[picture + 1]]
        things, crowds = here[~truth.crowds[here]], here[truth.crowds[here]]
        boxes = found.boxes_xywh[detections]
        matched = match_greedily(pairwise_iou(boxes, truth.boxes_xywh[things]))
        on_crowd = _share_inside(boxes, truth.boxes_xywh[crowds]) >= RIGHT
        rows = np.append(truth.labels[things], classes)[matched]  # -1 is the last: background
        columns = found.labels[detections]
        counts = (matched >= 0) | ~on_crowd
        np.add.at(matrix, (rows[counts], columns[counts]), 1)
        missed = np.setdiff1d(np.arange(len(things)), matched)
        np.add.at(matrix, (truth.labels[things[missed]], classes), 1)
    return matrix


def match_greedily(ious: Float[np.ndarray, "K T"]) -> Int[np.ndarray, " K"]:
    """The object that each detection takes, the first detections first; -1 for none."""
    free, matched = ious.copy(), np.full(len(ious), -1)
    for number in range(len(ious) if free.size else 0):
        best = int(free[number].argmax())
        if free[number, best] >= RIGHT:
            matched[number] = best
            free[:, best] = -1
    return matched


def pairwise_iou(
    first_xywh: Float[np.ndarray, "T 4"], second_xywh: Float[np.ndarray, "K 4"]
) -> Float[np.ndarray, "T K"]:
    """The IoU of every box (x, y, width, height) of the first with every one of the second."""
    first, second = (torch.from_numpy(_corners(boxes)) for boxes in (first_xywh, second_xywh))
    return box_iou(first[:, None], second[None]).numpy()


def _share_inside(boxes_xywh: np.ndarray, regions_xywh: np.ndarray) -> np.ndarray:
    """The largest share of every box that lies in one of the regions."""
    if not len(regions_xywh):
        return np.zeros(len(boxes_xywh))
    boxes, regions = _corners(boxes_xywh)[:, None], _corners(regions_xywh)[None]
    sides = np.minimum(boxes[..., 2:], regions[..., 2:]) - np.maximum(boxes[..., :2], regions[..., :2])
    areas = np.maximum(boxes_xywh[:, 2:].prod(1), 1e-9)
    shares: np.ndarray = (sides.clip(0).prod(-1) / areas[:, None]).max(1)
    return shares


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
