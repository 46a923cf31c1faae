"""What every detection of a picture is: an object found, or a false alarm of some kind. Pure functions of an output."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.detections import Threshold, reaches
from opendetr.explanation.matching import NEAR, ObjectMatch
from opendetr.explanation.verdicts import Verdict
from opendetr.labels import LabelMap
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput, Target
from opendetr.wording import one_line

TOUCHES = 0.1  # smallest IoU with an object of a detection that is not background


class FalseAlarm(StrEnum):
    """The kinds of false alarms (Bolya et al. 2020, TIDE, section 2.1)."""

    DOUBLE = "a double"
    WRONG_CLASS = "another class"
    BADLY_PLACED = "badly placed"
    WRONG_AND_BADLY_PLACED = "another class, badly placed"
    BACKGROUND = "background"


@dataclass(frozen=True)
class ExplainedDetection:
    """One detection of a picture."""

    query: int
    label: int  # class index
    name: str
    score: float
    box_cxcywh: tuple[float, float, float, float]  # 0..1 of the picture
    finds: int | None  # the number of the object, from 0
    alarm: FalseAlarm | None  # None where it finds an object
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """What it is, in words."""
        return self.verdict.sentence


def explain_detections(
    output: DetrOutput,
    target: Target,
    matches: Sequence[ObjectMatch],
    scoring: Scoring,
    label_map: LabelMap,
    threshold: Threshold,
    crowds: Target | None = None,
) -> list[ExplainedDetection]:
    """The detections of one picture (B = 1) with at least the threshold's score, best first; what each of them is.

    `matches` are those of `explain_matching` at the same threshold: a detection is right where an object is found by
    its query with its class. Of the others, those of IoU 0.5 with an object have its class (a double) or another one;
    from IoU 0.1 on they are badly placed; below is background. Of those, what lies at least half in a region of
    `crowds` with its class is left out, as COCO's AP does.
    """
    answers = scoring.answers(output.logits[-1].detach().float().cpu())
    boxes = output.boxes_cxcywh[-1, 0].detach().float().cpu()
    ious = box_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes_cxcywh.float())[None])  # [Q, T]
    found = {
        (match.found_by, label): number
        for number, (match, label) in enumerate(zip(matches, target.labels.tolist()))
        if match.found_by is not None
    }
    detections = []
    best_first = answers.scores[0].argsort(descending=True, stable=True).tolist()
    reached = reaches(answers.scores[0], answers.labels[0], threshold)
    for place in best_first:
        score, label = float(answers.scores[0, place]), int(answers.labels[0, place])
        query = int(answers.queries[0, place])
        if not reached[place] or label_map.category_ids[label] is None:
            continue
        finds, alarm = found.get((query, label)), None
        if finds is None and crowds is not None and _is_in_crowd(boxes[query], label, crowds):
            continue
        if finds is None:
            alarm, verdict = _alarm(ious[query], target.labels == label, matches, query)
        else:
            iou = float(ious[query, finds])
            verdict = Verdict.of("finds", name=matches[finds].name, number=finds + 1, iou=iou)
        box = tuple(boxes[query].tolist())
        name = one_line(label_map.names[label])
        detections.append(ExplainedDetection(query, label, name, score, box, finds, alarm, verdict))
    return detections


def _is_in_crowd(box_cxcywh: Tensor, label: int, crowds: Target) -> bool:
    """Whether half of a box lies in one of the regions of its class."""
    box, regions = cxcywh_to_xyxy(box_cxcywh), cxcywh_to_xyxy(crowds.boxes_cxcywh[crowds.labels == label].float())
    shared = (torch.minimum(box[2:], regions[:, 2:]) - torch.maximum(box[:2], regions[:, :2])).clamp(min=0).prod(-1)
    return bool((shared >= NEAR * box_cxcywh[2:].prod()).any())


def _alarm(
    ious: Tensor, has_its_class: Tensor, matches: Sequence[ObjectMatch], query: int
) -> tuple[FalseAlarm, Verdict]:
    """The kind of a false alarm and its facts; `ious` and `has_its_class` [T] are those of the objects."""
    same, other = (torch.where(chosen, ious, -1.0) for chosen in (has_its_class, ~has_its_class))
    (same_iou, same_object), (other_iou, other_object) = _best(same), _best(other)

    def overlaps(number: int, iou: float) -> dict[str, int | float | str]:
        return {"name": matches[number].name, "number": number + 1, "iou": iou}

    if same_iou >= NEAR:
        finder = matches[same_object].found_by
        case, who = ("double_finds_another", {"query": query}) if finder is None else ("double", {"finder": finder})
        return FalseAlarm.DOUBLE, Verdict.of(case, **overlaps(same_object, same_iou), **who)
    if other_iou >= NEAR:
        return FalseAlarm.WRONG_CLASS, Verdict.of("another_class", **overlaps(other_object, other_iou))
    least = f"{NEAR:g}"
    if same_iou >= TOUCHES:
        placed = overlaps(same_object, same_iou)
        return FalseAlarm.BADLY_PLACED, Verdict.of("badly_placed", **placed, least=least)
    if other_iou >= TOUCHES:
        placed = overlaps(other_object, other_iou)
        return FalseAlarm.WRONG_AND_BADLY_PLACED, Verdict.of("another_class_badly_placed", **placed, least=least)
    return FalseAlarm.BACKGROUND, Verdict.of("background", least=f"{TOUCHES:g}")


def _best(ious: Tensor) -> tuple[float, int]:
    """The largest IoU and the number of its object; -1 where there is none."""
    return (float(ious.max()), int(ious.argmax())) if len(ious) else (-1.0, -1)


def letter_of(number: int) -> str:
    """The letter of a false alarm: A to Z, then A2 to Z2."""
    times, place = divmod(number, len(string.ascii_uppercase))
    return string.ascii_uppercase[place] + (str(times + 1) if times else "")
