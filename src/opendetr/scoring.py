"""How classes are scored. One object owns the matching cost, the loss and the score, so that they always agree."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@runtime_checkable
class Scoring(Protocol):
    """What the model's head, the matcher, the criterion and the post-processing ask of a way to score classes."""

    def num_logits(self, num_classes: int) -> int:
        """K, the width of the class head."""

    def matching_cost(self, logits: Float[Tensor, "L B Q K"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "L B T Q"]:
        """The cost of giving each target to each query, low where they agree."""

    def normaliser(self, num_matched: Float[Tensor, ""], num_predictions: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """What the sum of `loss` is divided by, from the numbers of matched and of all predictions of one layer."""

    def loss(self, logits: Float[Tensor, "L B Q K"], classes: Int[Tensor, "L B Q"]) -> Float[Tensor, " L"]:
        """The class loss summed per layer; `classes` is C where a query matched nothing."""

    def scores(self, logits: Float[Tensor, "B Q K"]) -> tuple[Float[Tensor, "B Q"], Int[Tensor, "B Q"]]:
        """The score in 0..1 and the class of every query's answer."""

    def finds_something(self, logits: Float[Tensor, "L B Q K"]) -> Tensor:
        """Which queries [L, B, Q] say there is an object (for the cardinality error)."""


@dataclass(frozen=True)
class SoftmaxScoring:
    """The paper's: softmax over C classes and no-object, the latter down-weighted in the loss (section 3.1)."""

    no_object_weight: float = 0.1

    def num_logits(self, num_classes: int) -> int:
        """C + 1: the last logit is no-object."""
        return num_classes + 1

    def matching_cost(self, logits: Float[Tensor, "L B Q K"], labels: Int[Tensor, "B T"]) -> Float[Tensor, "L B T Q"]:
        """-p(class): the paper's approximation of the log-likelihood, on the scale of the box costs (section 3.1)."""
        num_layers, _, num_queries, _ = logits.shape
        probabilities = logits.softmax(-1).transpose(-1, -2)  # [L, B, K, Q]
        return -probabilities.gather(2, labels[None, :, :, None].expand(num_layers, -1, -1, num_queries))

    def normaliser(self, num_matched: Float[Tensor, ""], num_predictions: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The sum of the class weights, as in weighted cross-entropy."""
        return num_matched + self.no_object_weight * (num_predictions - num_matched)

    def loss(self, logits: Float[Tensor, "L B Q K"], classes: Int[Tensor, "L B Q"]) -> Float[Tensor, " L"]:
        """Cross-entropy with the no-object class down-weighted."""
        weight = torch.ones(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        weight[-1] = self.no_object_weight
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
        return loss.view(len(logits), -1).sum(1)

    def scores(self, logits: Float[Tensor, "B Q K"]) -> tuple[Float[Tensor, "B Q"], Int[Tensor, "B Q"]]:
        """The most probable class other than no-object, and its probability."""
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        return scores, labels

    def finds_something(self, logits: Float[Tensor, "L B Q K"]) -> Tensor:
        """Queries whose most probable class is not no-object."""
        return logits.argmax(-1) != logits.shape[-1] - 1
