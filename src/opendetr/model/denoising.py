"""Denoising (Li et al. 2022; Zhang et al. 2023, DINO): noised true objects as extra queries of a training step."""

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.model.queries import Queries
from opendetr.structures import Denoising, DetrOutput, Matches, Targets

GROUPS = 5  # of denoising queries for the most crowded picture of a batch, where there is room
WRONG_LABELS = 0.2  # share of denoising queries that get a random class
NEAR = 0.4  # of half a side: largest move of boxes that must find their object; the others move further


def make_denoising(targets: Targets, num_classes: int, num_queries: int) -> Denoising | None:
    """True objects with noise (Li et al. 2022); half have so much noise that they must answer no-object (DINO).

    A group holds every object of its picture twice: with little noise and with much. A picture with few objects has
    more groups, so that all N queries are used. N is at most `num_queries`, more only where one group of the most
    crowded picture needs it. None where `num_queries` is 0.
    """
    if num_queries == 0:
        return None
    labels, boxes = F.pad(targets.labels, (0, 1)), F.pad(targets.boxes_cxcywh, (0, 0, 0, 1), value=0.5)
    counts = targets.counts[:, None]
    size = 2 * targets.labels.shape[1]
    size = max(1, size, min(num_queries, GROUPS * size))
    slots = torch.arange(size, device=labels.device).expand(len(labels), -1)
    group_size = 2 * counts.clamp(min=1)
    groups, within = slots // group_size, slots % group_size
    is_used = (counts > 0) & (groups < size // group_size)
    origins = within % counts.clamp(min=1)
    positive = is_used & (within < counts)
    labels = labels.gather(1, origins)
    random_labels = torch.randint_like(labels, num_classes)
    labels = torch.where(torch.rand_like(slots, dtype=torch.float) < WRONG_LABELS, random_labels, labels)
    boxes = boxes.gather(1, origins[..., None].expand(-1, -1, 4))
    magnitude, sign = torch.rand_like(boxes), torch.rand_like(boxes).round() * 2 - 1
    noise = sign * torch.where(positive[..., None], NEAR * magnitude, NEAR + (1 - NEAR) * magnitude)
    boxes = (boxes + noise * boxes[..., 2:].repeat(1, 1, 2) / 2).clamp(1e-3, 1 - 1e-3)
    return Denoising(labels, boxes, torch.where(is_used, groups, -1), origins, positive)


def with_denoising(queries: Queries, denoising: Denoising, label_embed: nn.Module) -> Queries:
    """The ordinary queries, which do not attend to denoising queries, followed by the denoising queries.

    The ordinary queries have reference boxes; `label_embed` gives the content of a denoising query by its class.
    """
    assert queries.reference_boxes is not None
    content = label_embed(denoising.labels).to(queries.content.dtype)
    blocked = blocked_attention(queries.num_queries, denoising.groups)
    if queries.missing is not None:
        blocked = blocked | F.pad(queries.missing, (0, content.shape[1]))[:, None]
    return queries._replace(
        content=torch.cat([queries.content, content], 1),
        reference_boxes=torch.cat([queries.reference_boxes, denoising.boxes_cxcywh], 1),
        blocked=blocked,
    )


def blocked_attention(num_queries: int, groups: Tensor) -> Bool[Tensor, "B M M"]:
    """True where a query (row) must not attend to a query (column); M = Q + N, the Q ordinary queries first.

    Denoising queries are visible to their own group only. `groups` [B, N] is -1 in empty slots, which attend to the
    ordinary queries only.
    """
    everyone = F.pad(groups, (num_queries, 0), value=-2)  # the ordinary queries' group
    same_group = everyone[:, :, None] == everyone[:, None, :]
    seen_by_all = (everyone == -2)[:, None, :]
    return ~(seen_by_all | (same_group & (everyone != -1)[:, None, :]))


def known_matches(output: DetrOutput, denoising: Denoising, targets: Targets) -> tuple[DetrOutput, Targets, Matches]:
    """The output of the denoising queries (Q = N), the objects they were made from, and which must find theirs.

    The queries of all pictures are returned as those of one picture: query i belongs to target i, and is matched with
    it if it must find it. Empty slots are left out.
    """
    pictures, slots = torch.where(denoising.groups >= 0)  # only once, since each call waits for the device
    answers = DetrOutput(output.logits[:, pictures, slots][:, None], output.boxes_cxcywh[:, pictures, slots][:, None])
    origins = denoising.origins[pictures, slots]
    labels, boxes = targets.labels[pictures, origins], targets.boxes_cxcywh[pictures, origins]
    truth = Targets(labels[None], boxes[None], targets.counts.new_full((1,), len(labels)))
    (found,) = torch.where(denoising.positive[pictures, slots])
    num_layers = len(output.logits)
    layers = torch.arange(num_layers, device=found.device).repeat_interleave(len(found))
    everywhere = found.repeat(num_layers)
    return answers, truth, Matches(layers, torch.zeros_like(everywhere), everywhere, everywhere)
