"""What a model says about the labels of a picture: the evidence of a label review. Pure functions of an output.

All decoder layers are asked: an answer that only the last of them gives says less.
"""

import torch
from jaxtyping import Float
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.engines.detecting import detect
from opendetr.explanation.matching import MEANS
from opendetr.explanation.suspects import NEAR, WORTH_ASKING, LabelEvidence
from opendetr.inference.detector import Detector, require_numbers
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput, Target

BESIDE = 0.25  # weight of a pair of smaller IoU than `NEAR`
TOUCHES = 0.1  # smallest IoU with an object of an answer of its class that is about it, and a better place


def label_evidence(output: DetrOutput, target: Target, scoring: Scoring, crowds: Target) -> list[LabelEvidence]:
    """What a picture's output (B = 1) says about each object of its target, and about places without one.

    Queries and objects are paired one to one, so that the sum of score times IoU, less for a small IoU, is largest. A
    query speaks about an object where their IoU is at least 0.5, or at least 0.1 as far as its score for the object's
    class goes; scores below 0.1 say nothing. What is found in a region with many objects, `crowds`, lacks no label.
    """
    scores = scoring.probabilities(output.logits[:, 0].detach().float().cpu()).mean(0)  # [Q, C]
    boxes = output.boxes_cxcywh[-1, 0].detach().float().cpu()
    ious = box_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(target.boxes_cxcywh.float())[None])  # [Q, T]
    best, labels = scores.max(-1)
    agreed = scores[:, target.labels]  # [Q, T] the score of the object's own class
    speaks = torch.where(ious >= NEAR, best[:, None], torch.where(ious >= TOUCHES, agreed, 0.0))
    # What lies beside an object may be a neighbour without a label: first comes whatever lies on the object itself.
    weights = torch.where(ious >= NEAR, 1.0, BESIDE) * ious
    pairs = _pairs(torch.where(speaks >= MEANS, speaks * weights, 0.0))
    nearly = (agreed * ious).amax(0)
    found = []
    for number, (given, box) in enumerate(zip(target.labels.tolist(), target.boxes_cxcywh.tolist())):
        query = pairs.get(number)
        if query is None:
            found.append(LabelEvidence(number, None, given, 0.0, float(nearly[number]), 0.0, tuple(box), given))
        else:
            label = int(labels[query]) if float(ious[query, number]) >= NEAR else given
            found.append(LabelEvidence(
                number, query, label, float(scores[query, label]), float(scores[query, given]),
                float(ious[query, number]), tuple(boxes[query].tolist()), given,
            ))  # fmt: skip
    paired = set(pairs.values())
    nearest = ious.amax(1) if ious.shape[1] else torch.zeros(len(boxes))
    for query in best.argsort(descending=True, stable=True).tolist():
        if query not in paired and float(best[query]) >= WORTH_ASKING and not _lies_in(boxes[query], crowds):
            found.append(LabelEvidence(
                None, query, int(labels[query]), float(best[query]), 0.0, float(nearest[query]),
                tuple(boxes[query].tolist()),
            ))  # fmt: skip
    return found


def _lies_in(box_cxcywh: Float[Tensor, "4"], crowds: Target) -> bool:
    """Whether half of a box lies in a region with many objects, which have no box each."""
    box, regions = cxcywh_to_xyxy(box_cxcywh), cxcywh_to_xyxy(crowds.boxes_cxcywh.float())
    shared = (torch.minimum(box[2:], regions[:, 2:]) - torch.maximum(box[:2], regions[:, :2])).clamp(min=0).prod(-1)
    return bool((shared >= 0.5 * box_cxcywh[2] * box_cxcywh[3]).any())


def _pairs(values: Float[Tensor, "Q T"]) -> dict[int, int]:
    """Object -> query, one to one, with the largest sum; pairs of value 0 are none."""
    queries, objects = linear_sum_assignment(values.numpy(), maximize=True)
    return {int(number): int(query) for query, number in zip(queries, objects) if values[query, number] > 0}


def output_of(detector: Detector, image: Image.Image) -> DetrOutput:
    """What the detector's engine answers to one RGB picture (B = 1); L is 1 where it gives the last layer only.

    Raises:
        UserError: a score or a box is not finite.
    """
    seen: list[DetrOutput] = []
    picture = [detector.prepared(0, image)]
    for _, found in detect(detector.engine, detector.description, picture, 1, observe=lambda _, out: seen.append(out)):
        require_numbers(detector.engine, found.scores, found.boxes_xyxy)
    return seen[0]
