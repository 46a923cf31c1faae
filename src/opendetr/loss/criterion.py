"""The loss: matched queries are compared with their objects, the others with no-object (section 3.1).

`set_loss` is the paper's loss; `Criterion` is all that a recipe minimises. Neither has a state: normalisers are
arguments, because only the training step knows the other processes and micro-batches.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from opendetr.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou
from opendetr.config import LossConfig
from opendetr.devices import without_autocast
from opendetr.loss.matcher import CostWeights, as_float32, match
from opendetr.model.denoising import known_matches
from opendetr.scoring import Scoring
from opendetr.structures import Denoising, DetrOutput, Matches, Targets

Losses = dict[str, Float[Tensor, " L"]]


@dataclass(frozen=True)
class LossWeights(CostWeights):
    """Weights of the terms of the loss, by default those of the cost."""

    def total(self, losses: Losses) -> Float[Tensor, ""]:
        """The weighted sum over terms and decoder layers: what is minimised."""
        return self.per_layer(losses).sum()

    def per_layer(self, losses: Losses) -> Float[Tensor, " L"]:
        """The weighted sum over terms."""
        return self.class_ * losses["class"] + self.l1 * losses["l1"] + self.giou * losses["giou"]


class Normalisers(NamedTuple):
    """The divisors of the terms, summed over all pictures whose gradients are added up."""

    num_boxes: Float[Tensor, ""]
    class_weight: Float[Tensor, ""]
    num_denoising: Float[Tensor, ""]  # denoising queries that must find their object

    @classmethod
    def of_batch(
        cls, targets: Targets, num_queries: int, scoring: Scoring, denoising: Denoising | None = None
    ) -> "Normalisers":
        """Those of one batch. All are known before the model runs: every layer matches min(T, Q) per picture."""
        matched = targets.counts.clamp(max=num_queries).sum().float()
        predictions = matched.new_full((), num_queries * len(targets.counts))  # a new tensor would wait for the device
        num_denoising = torch.zeros_like(matched) if denoising is None else denoising.positive.sum().float()
        return cls(targets.counts.sum().float(), scoring.normaliser(matched, predictions), num_denoising)

    def times(self, factor: float | Tensor) -> "Normalisers":
        """Those of a loss in which every object counts `factor` times (of scorings that divide by matched queries)."""
        return self._replace(num_boxes=self.num_boxes * factor, class_weight=self.class_weight * factor)


def set_loss(
    output: DetrOutput, targets: Targets, matches: Matches, scoring: Scoring, normalisers: Normalisers
) -> Losses:
    """The parts of the loss, one value per decoder layer each.

    `class` is divided by the sum of class weights; `l1` (of cxcywh in 0..1) and `giou` (1 - GIoU) by the number of
    boxes, at least 1. A batch without objects has a class loss only; its box losses are 0 with zero gradients.
    """
    with without_autocast(output.logits.device):
        logits, boxes = as_float32(output)
        classes = torch.full(logits.shape[:3], scoring.num_classes(logits.shape[-1]), device=logits.device)  # no-object
        classes[matches.layers, matches.images, matches.queries] = targets.labels[matches.images, matches.targets]
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


class Loss(NamedTuple):
    """The loss of a training step, and the figures for its log."""

    total: Float[Tensor, ""]
    figures: dict[str, Float[Tensor, ""]]  # without gradients; `pairs`, the number of matches, on the CPU


@dataclass(frozen=True)
class Criterion:
    """The losses of decoder layers, proposals and denoising queries: what a recipe minimises."""

    scoring: Scoring
    num_queries: int  # Q
    costs: CostWeights = field(default_factory=CostWeights)
    weights: LossWeights = field(default_factory=LossWeights)  # of every loss
    auxiliary: bool = True  # whether every decoder layer has a loss (section 3.2), or only the last
    proposal_repeats: int = 0  # to how many cells each object is matched; 0: proposals have no loss

    def __call__(
        self, output: DetrOutput, targets: Targets, denoising: Denoising | None, normalisers: Normalisers
    ) -> Loss:
        """The weighted sum of all losses of a micro-batch; with it, terms and statistics of the last decoder layer.

        `denoising` are the queries that the model was given; the normalisers are those of all micro-batches and
        processes together.
        """
        if not self.auxiliary:
            output = output.last_layer()
        matches = match(output, targets, self.scoring, self.costs)
        losses = set_loss(output, targets, matches, self.scoring, normalisers)
        helping = []
        if output.proposals is not None and self.proposal_repeats:
            helping.append(self.proposal_losses(output.proposals, targets, normalisers))
        if output.denoising is not None and denoising is not None:
            helping.append(self.denoising_losses(output.denoising, denoising, targets, normalisers))
        total = self.weights.total(losses) + sum(self.weights.total(each) for each in helping)
        terms = {f"loss_{name}": values[-1].detach() for name, values in losses.items()}
        pairs = torch.tensor(float(len(matches.layers) // len(output.logits)))
        figures = {"loss": total.detach(), **terms, "pairs": pairs}
        return Loss(total, figures | statistics(output, targets, matches, self.scoring))

    def normalisers(self, targets: Targets, denoising: Denoising | None) -> Normalisers:
        """Those of one micro-batch."""
        return Normalisers.of_batch(targets, self.num_queries, self.scoring, denoising)

    def proposal_losses(self, proposals: DetrOutput, targets: Targets, normalisers: Normalisers) -> Losses:
        """The set loss of the cells' proposals, every object matched to `proposal_repeats` cells.

        One-to-many matching (Jia et al. 2023, H-DETR; Wang et al. 2022, DE-DETR) is for proposals only: the answers of
        the decoder are matched one to one, so that they need no suppression of duplicates.
        """
        matches = match(proposals, targets, self.scoring, self.costs, self.proposal_repeats)
        return set_loss(proposals, targets, matches, self.scoring, normalisers.times(self.proposal_repeats))

    def denoising_losses(
        self, output: DetrOutput, denoising: Denoising, targets: Targets, normalisers: Normalisers
    ) -> Losses:
        """The set loss of the denoising queries, whose matches are known: no Hungarian algorithm."""
        answers, truth, matches = known_matches(output, denoising, targets)
        normalisers = normalisers.times(normalisers.num_denoising / normalisers.num_boxes.clamp(min=1))
        return set_loss(answers, truth, matches, self.scoring, normalisers)


def build_criterion(loss: LossConfig, num_queries: int, scoring: Scoring) -> Criterion:
    """The criterion that a config describes."""
    return Criterion(
        scoring,
        num_queries,
        CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost),
        LossWeights(loss.class_weight, loss.l1_weight, loss.giou_weight),
        loss.auxiliary,
        loss.proposal_repeats,
    )


def matched_boxes(boxes: Tensor, targets: Targets, matches: Matches) -> tuple[Tensor, Tensor]:
    """Predicted and true box [N, 4] of every pair."""
    predicted = boxes[matches.layers, matches.images, matches.queries]
    return predicted, targets.boxes_cxcywh[matches.images, matches.targets].to(boxes.dtype)


@torch.no_grad()
def statistics(output: DetrOutput, targets: Targets, matches: Matches, scoring: Scoring) -> dict[str, Tensor]:
    """Figures of the last decoder layer beside the loss; all scalars.

    `matched_accuracy` (percent): matched queries whose best class, no-object aside, is right. `matched_iou`: their mean
    IoU. `cardinality_error`: difference of the number of queries with an object and the number of objects.
    `class_error` (percent): the official code's figure, which also counts a matched query whose best class is no-object
    as wrong, and so starts at 100.
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
