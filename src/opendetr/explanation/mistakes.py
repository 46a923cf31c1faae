"""What `opendetr explain --matching` shows of a picture: truth beside detections, a reason for every mistake."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opendetr.boxes import xyxy_to_cxcywh
from opendetr.data.check import require_size
from opendetr.data.index import DatasetIndex, Record
from opendetr.detections import Threshold, threshold_in_words
from opendetr.explanation import figures, readings
from opendetr.explanation.false_alarms import ExplainedDetection, explain_detections, letter_of
from opendetr.explanation.folder import Folder
from opendetr.explanation.look import look
from opendetr.explanation.matching import Candidate, ObjectMatch, explain_matching
from opendetr.images import read_image
from opendetr.inference.detector import Detector
from opendetr.loss.matcher import CostWeights
from opendetr.structures import DetrOutput, Target
from opendetr.wording import counted, one_line, without_hidden


def explain_image_matching(
    folder: Folder, detector: Detector, index: DatasetIndex, record: Record, threshold: Threshold
) -> tuple[list[ObjectMatch], list[ExplainedDetection]]:
    """Which query is matched to which true object of a picture, why objects were missed, and what false alarms are."""
    image = read_image(record.path, white_level=detector.description.preprocessing.white_level)
    require_size(record, image.size, index)
    seen = look(detector, image)
    loss = detector.checkpoint.config.loss
    costs = CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost)
    names = tuple(map(one_line, detector.checkpoint.label_map.names))
    on_cpu = DetrOutput(seen.output.logits.cpu(), seen.output.boxes_cxcywh.cpu())
    target = target_of(record)
    matches = explain_matching(on_cpu, target, seen.scoring, costs, names, threshold)
    label_map, crowds = detector.checkpoint.label_map, _crowds_of(record, index)
    detections = explain_detections(on_cpu, target, matches, seen.scoring, label_map, threshold, crowds)
    name = f"{without_hidden(record.path.stem)}-matching"
    folder.heading(f"{record.path.name} (image {record.image_id})")
    folder.figure(
        name,
        figures.matching_figure(seen, detector.checkpoint.label_map, target.labels.tolist(), matches, detections),
        "Truth, and everything that the model found.",
        readings.MATCHING, _in_numbers(matches, detections, threshold),
    )  # fmt: skip
    folder.subheading("True objects")
    rows = []
    for number, found in enumerate(matches, start=1):
        own = found.taken_by
        cells = ["none", "-", "-"] if own is None else [
            str(own.query), f"'{own.answer}' {own.score:.2f}, IoU {own.iou:.2f}",
            f"{own.class_cost:.2f} + {own.l1_cost:.2f} + {own.giou_cost:.2f} = {own.cost:.2f}",
        ]  # fmt: skip
        others = ", ".join(f"{other.query} ({other.cost:.2f})" for other in found.runners_up)
        rows.append([f"{number} {found.name}", *cells, others, found.sentence])
    header = [
        "object",
        "query matched by training's rule",
        "its answer",
        "class + L1 + GIoU cost",
        "runners-up (cost)",
        "what became of it",
    ]
    folder.table(header, rows)
    false_alarms = [found for found in detections if found.alarm is not None]
    if false_alarms:
        folder.subheading("False alarms")
        rows = [
            [letter_of(number), f"'{found.name}' {found.score:.2f}", str(found.query), found.sentence]
            for number, found in enumerate(false_alarms)
        ]
        folder.table(["letter", "detection", "query", "what it is"], rows)
    arrays = {
        "names": [found.name for found in matches],
        "boxes_cxcywh": [found.box_cxcywh for found in matches],
        "queries": [-1 if found.taken_by is None else found.taken_by.query for found in matches],
        "costs": [_costs(found.taken_by) for found in matches],
        "runners_up": [[other.query for other in found.runners_up] for found in matches],
        "runners_up_costs": [[_costs(other) for other in found.runners_up] for found in matches],
        "reasons": ["" if found.reason is None else found.reason.name for found in matches],
        "sentences": [found.sentence for found in matches],
        "detections_boxes_cxcywh": np.array([found.box_cxcywh for found in detections]).reshape(-1, 4),
        "detections_names": [found.name for found in detections],
        "detections_scores": [found.score for found in detections],
        "detections_queries": [found.query for found in detections],
        "detections_objects": [-1 if found.finds is None else found.finds for found in detections],
        "detections_alarms": ["" if found.alarm is None else found.alarm.name for found in detections],
        "detections_sentences": [found.sentence for found in detections],
    }
    folder.arrays(name, arrays)
    return matches, detections


def _in_numbers(matches: Sequence[ObjectMatch], detections: Sequence[ExplainedDetection], threshold: Threshold) -> str:
    """Objects found and missed, detections right and wrong, as one sentence."""
    missed = sum(found.reason is not None for found in matches)
    alarms = Counter(found.alarm for found in detections if found.alarm is not None)
    kinds = ", ".join(f"{count} {alarm}" for alarm, count in alarms.most_common())
    wrong = f"{counted(alarms.total(), 'false alarm')} ({kinds})" if alarms else "no false alarm"
    return (
        f"{counted(len(matches), 'true object')}, {missed} missed at {threshold_in_words(threshold)}; "
        f"{counted(len(detections), 'detection')}, {wrong}."
    )


def _costs(candidate: Candidate | None) -> list[float]:
    """Class, L1 and GIoU."""
    return [np.nan] * 3 if candidate is None else [candidate.class_cost, candidate.l1_cost, candidate.giou_cost]


def target_of(record: Record) -> Target:
    """The true objects of a picture that training uses."""
    boxes = torch.from_numpy(record.boxes_xyxy).float() / _size_of(record)
    return Target(torch.from_numpy(record.labels), xyxy_to_cxcywh(boxes))


def _crowds_of(record: Record, index: DatasetIndex) -> Target:
    position = next(at for at in range(len(index)) if index.paths[at] == str(record.path))
    return crowds_of(index, position)


def crowds_of(index: DatasetIndex, position: int) -> Target:
    """The regions of a picture that hold many objects without a box each, which are no part of the record."""
    objects = index.objects
    start, end = np.searchsorted(objects.pictures, [position, position + 1])
    chosen = objects.at(start + np.flatnonzero(objects.is_crowd[start:end]))
    boxes = torch.from_numpy(chosen.boxes_xywh).float()
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    return Target(torch.from_numpy(chosen.labels).long(), xyxy_to_cxcywh(boxes / _size_of(index.records[position])))


def _size_of(record: Record) -> Tensor:
    return torch.tensor([record.width, record.height, record.width, record.height], dtype=torch.float32)
