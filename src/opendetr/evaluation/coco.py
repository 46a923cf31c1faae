"""COCO metrics of ready-made detections, through faster-coco-eval; equal to pycocotools on every number."""

import gc
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from opendetr.errors import UserError
from opendetr.files import read_json
from opendetr.labels import whole_number
from opendetr.progress import warn
from opendetr.wording import counted

SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class CocoMetrics:
    """The 12 COCO numbers in 0..1, -1 where undefined (no true objects of that kind), and AP per class."""

    summary: dict[str, float]  # keys as in SUMMARY_NAMES; at most 100 detections per picture and class
    per_class: dict[str, dict[str, float | int]]  # name -> {id, AP, AP50}

    def to_json(self) -> dict[str, Any]:
        """The 12 numbers, then `per_class`."""
        return {**self.summary, "per_class": self.per_class}


def evaluate_detections(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> CocoMetrics:
    """Compare COCO result entries with a COCO annotation file's content.

    Differs from pycocotools in one case: true objects are numbered anew from 1, because it takes an annotation whose id
    is 0 for "not matched" and so counts a found object as missed.
    """
    collects_garbage = gc.isenabled()
    gc.disable()  # it takes a third of the time of large evaluations
    try:
        return _evaluate(truth, results)
    finally:
        if collects_garbage:
            gc.enable()


def _evaluate(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> CocoMetrics:
    annotations = [_complete(annotation, number) for number, annotation in enumerate(truth["annotations"], start=1)]
    categories = sorted(({**c, "id": int(c["id"])} for c in truth["categories"]), key=lambda category: category["id"])
    ground_truth = COCO({**truth, "annotations": annotations, "categories": categories})
    if not results:  # the evaluator cannot load an empty list; a box outside every picture also finds nothing
        nowhere = {"image_id": truth["images"][0]["id"], "category_id": categories[0]["id"], "bbox": [-9, -9, 1, 1]}
        results = [{**nowhere, "score": 0.0}]
    evaluator = COCOeval_faster(ground_truth, ground_truth.loadRes([dict(entry) for entry in results]), iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    precision = evaluator.eval["precision"]  # [IoU threshold, recall, class, area, max detections]
    per_class = {}
    for position, (name, category) in enumerate(zip(_unique_names(categories), categories)):
        values = precision[:, :, position, 0, -1]
        per_class[name] = {"id": category["id"], "AP": _mean(values), "AP50": _mean(values[0])}
    return CocoMetrics(dict(zip(SUMMARY_NAMES, map(float, evaluator.stats[:12]), strict=True)), per_class)


def evaluate_files(detections: Path, annotations: Path) -> CocoMetrics:
    """Compare a COCO results file with a COCO annotation file.

    Raises:
        UserError: a file is missing or not of its format, or a detection names a picture that the annotations lack.
    """
    from opendetr.data.datasets import read_coco_file

    truth = read_coco_file(annotations)
    results = read_json(detections, "a list of COCO results")
    if not isinstance(results, list):
        raise UserError(
            f"{detections} is not a list of COCO results; expected [{{image_id, category_id, bbox, score}}, ...]"
        )
    images = {image["id"] for image in truth["images"]}
    if not images:
        raise UserError(f"{annotations}: the list 'images' is empty; at least one picture is needed")
    for entry in results:
        if not _is_result(entry):
            raise UserError(f"{detections}: every result needs image_id, category_id, bbox and score, got {entry}")
        if entry["image_id"] not in images:
            raise UserError(
                f"{detections}: a result names image {entry['image_id']}, which {annotations} does not list"
            )
    listed = {whole_number(category["id"]) for category in truth["categories"]}
    if unlisted := sum(entry["category_id"] not in listed for entry in results):
        warn(f"{unlisted} of {counted(len(results), 'result')} are of categories that {annotations} does not list.")
    return evaluate_detections(truth, results)


def _is_result(entry: Any) -> bool:
    """Whether a COCO result has all its fields, each of its type."""
    if not isinstance(entry, dict) or not isinstance(box := entry.get("bbox"), list) or len(box) != 4:
        return False
    numbers = (entry.get("image_id"), entry.get("category_id"), entry.get("score"), *box)
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def _complete(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Add the fields that pycocotools needs and files often lack."""
    _, _, width, height = annotation["bbox"]
    category_id = whole_number(annotation["category_id"])  # some files write "1"
    given = {key: value for key, value in annotation.items() if value is not None}
    return {"area": width * height, "iscrowd": 0, **given, "id": number, "category_id": category_id}


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0


def _unique_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    count = Counter(category["name"] for category in categories)
    return [c["name"] if count[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories]
