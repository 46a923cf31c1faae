"""The set loss: what matched queries should have said, and that the others should have said nothing (section 3.1).

Pure functions: normalisers come in, because only the training loop knows the other processes and accumulation steps.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opendetr.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou
from opendetr.devices import without_autocast
from opendetr.loss.matcher import as_float32
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput, Matches, Targets

Losses = dict[str, Float[Tensor, " L"]]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss; 0 switches a term off."""

    class_: float = 1.0
    l1: float = 5.0
    giou: float = 2.0

    def total(self, losses: Losses) -> Float[Tensor, ""]:
        """The weighted sum over terms and decoder layers: what is minimised."""
        return self.per_layer(losses).sum()

    def per_layer(self, losses: Losses) -> Float[Tensor, " L"]:
        """The weighted sum over terms."""
        return self.class_ * losses["class"] + self.l1 * losses["l1"] + self.giou * losses["giou"]


class Normalisers(NamedTuple):
    """What the terms are divided by, summed over all pictures whose gradients are added up."""

    num_boxes: Float[Tensor, ""]
    class_weight: Float[Tensor, ""]

    @classmethod
    def of_batch(cls, targets: Targets, num_queries: int, scoring: Scoring) -> "Normalisers":
        """Those of one batch. Both are known before the model runs: every layer matches min(T, Q) per picture."""
        matched = targets.counts.clamp(max=num_queries).sum().float()
        predictions = matched.new_full((), num_queries * len(targets.counts))  # a new tensor would wait for the device
        return cls(targets.counts.sum().float(), scoring.normaliser(matched, predictions))

    def times(self, factor: float | Tensor) -> "Normalisers":
        """Those of a loss in which every object counts `factor` times (of scorings that divide by matched queries)."""
        return Normalisers(self.num_boxes * factor, self.class_weight * factor)


def set_loss(
    output: DetrOutput, targets: Targets, matches: Matches, scoring: Scoring, normalisers: Normalisers
) -> Losses:
    """The parts of the loss, one value per decoder layer each.

    `class` is divided by the sum of class weights; `l1` (of cxcywh in 0..1) and `giou` (1 - GIoU) by the number of
    boxes, at least 1. A batch without objects has a class loss only; its box losses are 0 with zero gradients.
    """
    with without_autocast(output.logits.device):
        logits, boxes = as_float32(output)
        classes = target_classes(output, targets, matches, no_object=scoring.num_classes(logits.shape[-1]))
        predicted, true = matched_boxes(boxes, targets, matches)
        predicted_xyxy, true_xyxy = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)
        ious = boxes.new_zeros(boxes.shape[:3])
        ious[matches.layers, matches.images, matches.queries] = box_iou(predicted_xyxy.detach(), true_xyxy)
        l1 = (predicted - true).abs().sum(-1)
        giou = 1 - generalized_box_iou(predicted_xyxy, true_xyxy)
        num_boxes = normalisers.num_boxes.clamp(min=1)
        class_weight = normalisers.class_weight.clamp(min=scoring.smallest_normaliser)
        per_layer = boxes.new_zeros(len(boxes))
        return {
            "class": scoring.loss(logits, classes, ious) / class_weight,
            "l1": per_layer.index_add(0, matches.layers, l1) / num_boxes,
            "giou": per_layer.index_add(0, matches.layers, giou) / num_boxes,
        }


def target_classes(output: DetrOutput, targets: Targets, matches: Matches, no_object: int) -> Tensor:
    """The class every query [L, B, Q] should have answered."""
    classes = torch.full(output.logits.shape[:3], no_object, device=output.logits.device)
    classes[matches.layers, matches.images, matches.queries] = targets.labels[matches.images, matches.targets]
    return classes


def matched_boxes(boxes: Tensor, targets: Targets, matches: Matches) -> tuple[Tensor, Tensor]:
    """Predicted and true box [N, 4] of every pair."""
    predicted = boxes[matches.layers, matches.images, matches.queries]
    return predicted, targets.boxes_cxcywh[matches.images, matches.targets].to(boxes.dtype)


@torch.no_grad()
def statistics(output: DetrOutput, targets: Targets, matches: Matches, scoring: Scoring) -> dict[str, Tensor]:
    """What to watch beside the loss, about the last decoder layer; all scalars.

    `matched_accuracy` (percent): matched queries whose best class, no-object aside, is right. `matched_iou`: their mean
    IoU. `cardinality_error`: how far the number of queries that see something is from the number of objects.
    `class_error` (percent): the official code's figure, which also counts a matched query that says no-object as wrong,
    and so starts at 100.
    """
    logits, boxes = as_float32(output)
    pairs = len(matches.layers) // len(logits)
    matches = Matches(*(index[len(index) - pairs :] for index in matches))  # finding them would wait for the device
    answers = logits[matches.layers, matches.images, matches.queries]
    labels = targets.labels[matches.images, matches.targets]
    predicted, true = matched_boxes(boxes, targets, matches)
    iou = box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true))
    best = scoring.probabilities(answers).argmax(-1)
    seen = scoring.finds_something(logits[-1:]).sum(-1)[0]
    some = max(1, pairs)
    return {
        "matched_accuracy": (best == labels).sum() * 100 / some,
        "matched_iou": iou.sum() / some,
        "cardinality_error": (seen - targets.counts).abs().float().mean(),
        "class_error": 100 - (answers.argmax(-1) == labels).sum() * 100 / some,
    }
