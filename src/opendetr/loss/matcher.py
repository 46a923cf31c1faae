"""Hungarian matching: the one-to-one assignment of targets to queries of the lowest cost (section 3.1, equation 1)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from opendetr.boxes import cxcywh_to_xyxy, generalized_box_iou
from opendetr.devices import send, without_autocast
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput, Matches, Targets


@dataclass(frozen=True)
class CostWeights:
    """Weights of the terms of the matching cost; 0 switches a term off."""

    class_: float = 1.0
    l1: float = 5.0
    giou: float = 2.0


def as_float32(output: DetrOutput) -> DetrOutput:
    """Logits and boxes of half precision in float32, where costs and losses are computed; float64 is left alone."""
    logits, boxes = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in output)
    return DetrOutput(logits, boxes)


def matching_cost(
    output: DetrOutput, targets: Targets, scoring: Scoring, weights: CostWeights
) -> Float[Tensor, "L B T Q"]:
    """The cost of every pair of target and query, in all layers and images at once. Padded targets have one too."""
    logits, boxes = as_float32(output)
    true = targets.boxes_cxcywh.to(boxes.dtype)
    cost = weights.class_ * scoring.matching_cost(logits, targets.labels)
    cost = cost + weights.l1 * torch.cdist(true, boxes, p=1)
    predicted_xyxy, true_xyxy = cxcywh_to_xyxy(boxes[:, :, None]), cxcywh_to_xyxy(true[:, :, None])
    return cost - weights.giou * generalized_box_iou(predicted_xyxy, true_xyxy)


@torch.no_grad()
def match(output: DetrOutput, targets: Targets, scoring: Scoring, weights: CostWeights, repeats: int = 1) -> Matches:
    """Assign targets to queries in every layer and image, each target to `repeats` of them.

    An image with T targets yields min(repeats * T, Q) pairs per layer. Costs reach the host in one copy; a diverging
    model's non-finite costs count as very high, so that matching never fails.
    """
    with without_autocast(output.logits.device):
        cost = matching_cost(output, targets, scoring, weights)
        cost = torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=1e6)
    is_padded = torch.arange(cost.shape[2], device=cost.device) >= targets.counts[:, None]
    on_host = cost.masked_fill_(is_padded[..., None], torch.nan).cpu().numpy()
    counts = np.isfinite(on_host[0, :, :, 0]).sum(1)  # from the same copy
    pairs = []
    for layer, image in np.ndindex(on_host.shape[:2]):
        rows, queries = assign(on_host[layer, image, : counts[image]], repeats)
        pairs.append(np.stack([np.full_like(rows, layer), np.full_like(rows, image), queries, rows]))
    return Matches(*send(torch.from_numpy(np.concatenate(pairs, axis=1)), output.logits.device))


def assign(cost: np.ndarray, repeats: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Targets and queries of the pairs with the lowest total cost [T, Q], every target in `repeats` pairs.

    Where there are too few queries for that, there are as many pairs as queries.
    """
    if repeats == 1:
        rows, columns = linear_sum_assignment(cost)
        return rows, columns
    # One of a target's repeats * T cheapest queries is always free, so the optimum uses only those.
    nearest = min(repeats * len(cost), cost.shape[1])
    candidates = np.unique(np.argpartition(cost, nearest - 1, axis=1)[:, :nearest])
    rows, columns = linear_sum_assignment(np.repeat(cost[:, candidates], repeats, axis=0))
    return rows // repeats, candidates[columns]
