"""How classes are scored. One object owns the matching cost, the loss and the score, so that they always agree."""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class Answers(NamedTuple):
    """The N answers of a model for each picture, before any threshold."""

    scores: Float[Tensor, "B N"]  # 0..1
    labels: Int[Tensor, "B N"]  # class index 0..C-1
    queries: Int[Tensor, "B N"]  # the query that gave the answer


@runtime_checkable
class Scoring(Protocol):
    """A way to score classes, for the model's head, the matcher, the criterion and the post-processing."""

    def num_logits(self, num_classes: int) -> int:
        """K, the width of the class head."""

    def num_classes(self, num_logits: int) -> int:
        """C, the inverse of `num_logits`; also the class index of queries without a match."""

    def initialise(self, class_embed: nn.Linear) -> None:
        """Initialise a new class head, so that training starts from a sensible loss."""

    def matching_cost(self, logits: Float[Tensor, "L B Q K"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "L B T Q"]:
        """The cost of matching each target to each query, low where they agree."""

    smallest_normaliser: ClassVar[float]  # lower bound of the divisor, which is a sum over micro-batches and processes

    def normaliser(self, num_matched: Float[Tensor, ""], num_predictions: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The divisor of the sum of `loss`, from the numbers of matched and of all predictions of one layer."""

    def loss(
        self, logits: Float[Tensor, "L B Q K"], classes: Int[Tensor, "L B Q"], ious: Float[Tensor, "L B Q"]
    ) -> Float[Tensor, " L"]:
        """The class loss summed per layer.

        `ious` are those of predicted with true boxes, without gradient; queries without a match have class C and IoU 0.
        """

    def probabilities(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "... C"]:
        """The score in 0..1 of every class."""

    def answers(self, logits: Float[Tensor, "B Q K"]) -> Answers:
        """The answers of the queries."""

    def finds_something(self, logits: Float[Tensor, "L B Q K"]) -> Tensor:
        """Which queries [L, B, Q] answer with an object (for the cardinality error)."""


@dataclass(frozen=True)
class SoftmaxScoring:
    """The paper's: softmax over C classes and no-object, the latter down-weighted in the loss (section 3.1)."""

    no_object_weight: float = 0.1
    smallest_normaliser: ClassVar[float] = 1e-6

    def num_logits(self, num_classes: int) -> int:
        """C + 1: the last logit is no-object."""
        return num_classes + 1

    def num_classes(self, num_logits: int) -> int:
        """C, which is also the index of no-object."""
        return num_logits - 1

    def initialise(self, class_embed: nn.Linear) -> None:
        """Torch's initial weights, as in the official code."""

    def matching_cost(self, logits: Float[Tensor, "L B Q K"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "L B T Q"]:
        """-p(class): the paper's approximation of the log-likelihood, on the scale of the box costs (section 3.1)."""
        num_layers, _, num_queries, _ = logits.shape
        probabilities = logits.softmax(-1).transpose(-1, -2)  # [L, B, K, Q]
        return -probabilities.gather(2, labels[None, :, :, None].expand(num_layers, -1, -1, num_queries))

    def normaliser(self, num_matched: Float[Tensor, ""], num_predictions: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The sum of the class weights, as in weighted cross-entropy."""
        return num_matched + self.no_object_weight * (num_predictions - num_matched)

    def loss(
        self, logits: Float[Tensor, "L B Q K"], classes: Int[Tensor, "L B Q"], ious: Float[Tensor, "L B Q"]
    ) -> Float[Tensor, " L"]:
        """Cross-entropy with the no-object class down-weighted; it does not depend on the boxes."""
        weight = torch.ones(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        weight[-1] = self.no_object_weight
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
        return loss.view(len(logits), -1).sum(1)

    def probabilities(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "... C"]:
        """Softmax, without no-object."""
        return logits.softmax(-1)[..., :-1]

    def answers(self, logits: Float[Tensor, "B Q K"]) -> Answers:
        """One per query, in their order: the most probable class other than no-object."""
        scores, labels = self.probabilities(logits).max(-1)
        return Answers(scores, labels, torch.arange(logits.shape[1], device=logits.device).expand_as(labels))

    def finds_something(self, logits: Float[Tensor, "L B Q K"]) -> Tensor:
        """Queries whose most probable class is not no-object."""
        return logits.argmax(-1) != logits.shape[-1] - 1


# The focal loss's exponent, which reduces the loss of well-classified classes, and the weight of absent classes (Lin
# et al. 2017, table 1b; present classes have 1 minus it in the matching, and full weight in the loss, as in MAL).
FOCUS, NEGATIVE_WEIGHT = 2, 0.75


@dataclass(frozen=True)
class FocalScoring:
    """A sigmoid per class whose target is the IoU of the box: the score measures class and fit at once.

    The focal loss (Lin et al. 2017) with the IoU as target of the matched class, as in the varifocal loss (Zhang et al.
    2021) and in MAL (Huang et al. 2025).
    """

    iou_power: float = 1.0  # the target is IoU to this power; 0 is the plain focal loss
    smallest_normaliser: ClassVar[float] = 1.0

    def num_logits(self, num_classes: int) -> int:
        """C: a query has no object if no class has a high score."""
        return num_classes

    def num_classes(self, num_logits: int) -> int:
        """C."""
        return num_logits

    def initialise(self, class_embed: nn.Linear) -> None:
        """Start every class at a score of 0.01, so that the many queries without an object have a low loss at first."""
        nn.init.constant_(class_embed.bias, -math.log(99))

    def matching_cost(self, logits: Float[Tensor, "L B Q K"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "L B T Q"]:
        """The change of the focal loss if the query were matched to the target (Zhu et al. 2021, section A.3)."""
        p = logits.sigmoid()
        positive = (1 - NEGATIVE_WEIGHT) * (1 - p) ** FOCUS * F.softplus(-logits)
        negative = NEGATIVE_WEIGHT * p**FOCUS * F.softplus(logits)
        cost = (positive - negative).transpose(-1, -2)  # [L, B, K, Q]
        return cost.gather(2, labels[None, :, :, None].expand(len(logits), -1, -1, logits.shape[2]))

    def normaliser(self, num_matched: Float[Tensor, ""], num_predictions: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The number of matched queries."""
        return num_matched

    def loss(
        self, logits: Float[Tensor, "L B Q K"], classes: Int[Tensor, "L B Q"], ious: Float[Tensor, "L B Q"]
    ) -> Float[Tensor, " L"]:
        """Binary cross-entropy per class, of full weight for the matched class, focal for all others."""
        is_true = classes[..., None] == torch.arange(logits.shape[-1], device=classes.device)
        target = is_true * (ious**self.iou_power)[..., None]
        fading = NEGATIVE_WEIGHT * logits.detach().sigmoid() ** FOCUS
        weight = torch.where(is_true, torch.ones_like(fading), fading)
        loss = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), weight, reduction="none")
        return loss.flatten(1).sum(1)

    def probabilities(self, logits: Float[Tensor, "... K"]) -> Float[Tensor, "... C"]:
        """A sigmoid each."""
        return logits.sigmoid()

    def answers(self, logits: Float[Tensor, "B Q K"]) -> Answers:
        """The Q best pairs of query and class: a query with high scores for two classes may give two answers."""
        num_queries, num_classes = logits.shape[1:]
        scores, best = self.probabilities(logits).flatten(1).topk(num_queries, dim=1)
        return Answers(scores, best % num_classes, best // num_classes)

    def finds_something(self, logits: Float[Tensor, "L B Q K"]) -> Tensor:
        """Queries with a score of at least one half."""
        return logits.amax(-1) > 0
