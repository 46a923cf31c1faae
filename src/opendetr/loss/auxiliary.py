"""What helps learning and is not the answer: losses of proposals and of denoising queries."""

import torch
from torch import Tensor

from opendetr.loss.criterion import Losses, Normalisers, set_loss
from opendetr.loss.matcher import CostWeights, match
from opendetr.scoring import Scoring
from opendetr.structures import Denoising, DetrOutput, Matches, Targets


def proposal_losses(
    proposals: DetrOutput,
    targets: Targets,
    repeats: int,
    scoring: Scoring,
    costs: CostWeights,
    normalisers: Normalisers,
) -> Losses:
    """The set loss of the cells' proposals, every object matched to `repeats` cells.

    One-to-many matching (Jia et al. 2023, H-DETR; Wang et al. 2022, DE-DETR) stays with the proposals: the decoder's
    answers are matched one to one, so nothing has to be suppressed at the end.
    """
    matches = match(proposals, targets, scoring, costs, repeats)
    return set_loss(proposals, targets, matches, scoring, normalisers.times(repeats))


def denoising_losses(
    output: DetrOutput, denoising: Denoising, targets: Targets, scoring: Scoring, normalisers: Normalisers
) -> Losses:
    """The set loss of the denoising queries, whose matches are known: no Hungarian algorithm.

    All queries in use, of all pictures, are taken as those of one picture; empty slots count nowhere.
    """
    pictures, slots = torch.where(denoising.groups >= 0)  # once: each time it would wait for the device
    answers = DetrOutput(output.logits[:, pictures, slots][:, None], output.boxes_cxcywh[:, pictures, slots][:, None])
    origins = denoising.origins[pictures, slots]
    labels, boxes = targets.labels[pictures, origins], targets.boxes_cxcywh[pictures, origins]
    (found,) = torch.where(denoising.positive[pictures, slots])
    truth = Targets(labels[None], boxes[None], targets.counts.new_full((1,), len(labels)))
    per_object = len(found) / targets.counts.sum().clamp(min=1)
    return set_loss(answers, truth, _known_matches(found, len(output.logits)), scoring, normalisers.times(per_object))


def _known_matches(queries: Tensor, num_layers: int) -> Matches:
    """Query i of the one picture has target i, in every layer."""
    layers = torch.arange(num_layers, device=queries.device).repeat_interleave(len(queries))
    everywhere = queries.repeat(num_layers)
    return Matches(layers, torch.zeros_like(everywhere), everywhere, everywhere)
