"""COCO metrics of ready-made detections, through hotcoco; equal to pycocotools on every number."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from jaxtyping import Bool, Float, Int

from opendetr.data.formats.coco_json import load_json, read_coco
from opendetr.data.index import DatasetIndex
from opendetr.data.raw import RawSplit
from opendetr.errors import UserError
from opendetr.labels import LabelMap
from opendetr.progress import warn
from opendetr.raw_values import RawId, raw_id, raw_number
from opendetr.wording import counted

SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class CocoMetrics:
    """The 12 COCO numbers in 0..1, -1 where undefined (no true objects of that kind), and AP per class."""

    summary: dict[str, float]  # keys as in SUMMARY_NAMES; at most 100 detections per picture and class
    per_class: dict[str, dict[str, Any]]  # name -> {id, AP, AP50}; the id as the data set has it

    def to_json(self) -> dict[str, Any]:
        """The 12 numbers, then `per_class`."""
        return {**self.summary, "per_class": self.per_class}


@dataclass(frozen=True)
class TruthArrays:
    """N pictures, C classes and their M true objects, in the order of their file."""

    image_ids: Sequence[RawId]  # [N] as the data set has them; they rank detections of equal score, nothing else
    category_ids: Sequence[RawId]  # [C] as the data set has them
    names: Sequence[str]  # [C]
    pictures: Int[np.ndarray, " M"]  # position in `image_ids`
    labels: Int[np.ndarray, " M"]  # class index 0..C-1
    boxes_xywh: Float[np.ndarray, "M 4"]  # pixels
    areas: Float[np.ndarray, " M"]  # square pixels; they say whether an object is small, medium or large
    crowds: Bool[np.ndarray, " M"]  # regions of many objects, in which detections count neither as right nor as wrong


@dataclass(frozen=True)
class FoundArrays:
    """K detections; of those with equal scores in a picture, the first ones come first."""

    pictures: Int[np.ndarray, " K"]  # position in `TruthArrays.image_ids`
    labels: Int[np.ndarray, " K"]  # class index 0..C-1
    boxes_xywh: Float[np.ndarray, "K 4"]  # pixels
    scores: Float[np.ndarray, " K"]


def evaluate_arrays(truth: TruthArrays, found: FoundArrays) -> CocoMetrics:
    """COCO metrics of detections."""
    return metrics_from(evaluator_of(truth, found), truth)


def evaluator_of(truth: TruthArrays, found: FoundArrays) -> COCOeval:
    """An evaluator that has done its work; ids reach it as positions, so it has no limit on them.

    Its pictures, classes and detections are numbered from 1: pictures in the order of their ids, the others as given.
    Differs from pycocotools in one case: it takes an annotation whose id is 0 for "not matched", and so counts a found
    object as missed.
    """
    image_numbers = image_ranks(truth)
    values = (image_numbers[truth.pictures], truth.labels + 1, truth.boxes_xywh, truth.areas, truth.crowds)
    objects = zip(*(column.tolist() for column in values), strict=True)
    ground_truth = COCO(
        {
            "images": [{"id": number} for number in range(1, len(truth.image_ids) + 1)],
            "categories": [{"id": number, "name": str(number)} for number in range(1, len(truth.names) + 1)],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
                for number, (image, category, box, area, crowd) in enumerate(objects, start=1)
            ],
        }
    )
    columns = (image_numbers[found.pictures], found.boxes_xywh, found.scores, found.labels + 1)
    evaluator = COCOeval(ground_truth, ground_truth.load_res(np.column_stack(columns).astype(np.float64)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()  # `summarize`, which fills `stats`, would print them
    return evaluator


def metrics_from(evaluator: COCOeval, truth: TruthArrays) -> CocoMetrics:
    """What an evaluator has measured, under the names and ids of the data set."""
    precision = precision_of(evaluator)
    per_class = {
        name: {"id": category_id, "AP": _mean(precision[:, :, label]), "AP50": _mean(precision[0, :, label])}
        for label, (name, category_id) in enumerate(zip(class_names(truth), truth.category_ids, strict=True))
    }
    return CocoMetrics(dict(zip(SUMMARY_NAMES, map(float, evaluator.stats), strict=True)), per_class)


def precision_of(evaluator: COCOeval) -> Float[np.ndarray, "10 101 C"]:
    """The precision at every IoU threshold, recall (0 to 1) and class, of objects of all sizes; -1 without objects."""
    assert evaluator.eval is not None  # for mypy
    precision: np.ndarray = evaluator.eval["precision"][:, :, :, 0, -1]
    return precision


def truth_of(index: DatasetIndex) -> TruthArrays:
    """The true objects of a split, with those that training leaves out, but without classes that are not asked for."""
    labels, objects = index.label_map, index.objects
    objects = objects.at(objects.labels >= 0)
    return _truth(
        index.image_ids.tolist(), labels, objects.pictures, objects.labels, objects.boxes_xywh, objects.areas,
        objects.is_crowd,
    )  # fmt: skip


def _truth(
    image_ids: Sequence[RawId], label_map: LabelMap, pictures: np.ndarray, labels: np.ndarray, boxes: np.ndarray,
    areas: np.ndarray, crowds: np.ndarray,
) -> TruthArrays:  # fmt: skip
    """Classes without a category have no place among the C classes of the evaluation."""
    used = [label for label, category_id in enumerate(label_map.category_ids) if category_id is not None]
    ids = [category_id for category_id in label_map.category_ids if category_id is not None]
    places = np.full(label_map.num_classes, -1)
    places[used] = np.arange(len(used))
    names = [label_map.names[label] for label in used]
    return TruthArrays(image_ids, ids, names, pictures, places[labels], boxes, areas, crowds)


def evaluate_detections(truth: RawSplit, results: Sequence[Mapping[str, Any]]) -> CocoMetrics:
    """COCO metrics of COCO result entries; as `arrays_of_results`."""
    return evaluate_arrays(*arrays_of_results(truth, results))


def arrays_of_results(truth: RawSplit, results: Sequence[Mapping[str, Any]]) -> tuple[TruthArrays, FoundArrays]:
    """The true objects that a file states, and COCO result entries.

    Results of categories that the truth does not have count for nothing.

    Raises:
        KeyError: a result lacks a field, or names a picture that the truth does not have.
    """
    areas = np.where(truth.areas > 0, truth.areas, truth.boxes_xywh[:, 2:].prod(1))
    arrays = _truth(
        truth.image_ids, truth.label_map, truth.pictures, truth.labels, truth.boxes_xywh, areas, truth.crowds
    )
    label_of = {category_id: label for label, category_id in enumerate(arrays.category_ids)}
    picture_of = {image_id: position for position, image_id in enumerate(truth.image_ids)}
    results = [entry for entry in results if raw_id(entry["category_id"]) in label_of]
    return arrays, FoundArrays(
        np.array([picture_of[raw_id(entry["image_id"])] for entry in results], dtype=np.int64),
        np.array([label_of[raw_id(entry["category_id"])] for entry in results], dtype=np.int64),
        np.array([entry["bbox"] for entry in results], dtype=np.float64).reshape(-1, 4),
        np.array([entry["score"] for entry in results], dtype=np.float64),
    )


def read_results(detections: Path, annotations: Path) -> tuple[TruthArrays, FoundArrays]:
    """The true objects of a COCO annotation file, and the detections of a COCO results file.

    Raises:
        UserError: a file is missing or not of its format, or a detection names a picture that the annotations lack.
    """
    truth = read_coco(annotations, ())
    results = load_json(detections, expected="a list of COCO results")
    if not isinstance(results, list):
        raise UserError(
            f"{detections} is not a list of COCO results; expected [{{image_id, category_id, bbox, score}}, ...]"
        )
    images = set(truth.image_ids)
    for entry in results:
        if not _is_result(entry):
            raise UserError(f"{detections}: every result needs image_id, category_id, bbox and score, got {entry}")
        if raw_id(entry["image_id"]) not in images:
            raise UserError(
                f"{detections}: a result names image {entry['image_id']}, which {annotations} does not list"
            )
    listed = set(truth.label_map.index_of)
    if unlisted := sum(raw_id(entry["category_id"]) not in listed for entry in results):
        warn(f"{unlisted} of {counted(len(results), 'result')} are of categories that {annotations} does not list.")
    return arrays_of_results(truth, results)


def _is_result(entry: Any) -> bool:
    """Whether a COCO result has all its fields, each of its type."""
    if not isinstance(entry, dict) or not isinstance(box := entry.get("bbox"), list) or len(box) != 4:
        return False
    try:
        for key in ("image_id", "category_id"):
            raw_id(entry.get(key))
        for value in (entry.get("score"), *box):
            raw_number(value)
    except ValueError:
        return False
    return True


def _order(identifier: RawId) -> tuple[bool, RawId]:
    """A key to sort ids by, as pycocotools does: numbers, then texts."""
    return isinstance(identifier, str), identifier


def image_ranks(truth: TruthArrays) -> Int[np.ndarray, " N"]:
    """The number 1..N of every picture in the order of ids, by which pycocotools ranks detections of equal score."""
    ids = truth.image_ids
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=lambda position: _order(ids[position]))] = np.arange(1, len(ids) + 1)
    return ranks


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0


def class_names(truth: TruthArrays) -> list[str]:
    """The names of the classes, with their ids where several have one name."""
    count = Counter(truth.names)
    pairs = zip(truth.names, truth.category_ids, strict=True)
    return [name if count[name] == 1 else f"{name} ({category_id})" for name, category_id in pairs]
