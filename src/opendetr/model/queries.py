"""Where object queries come from: learned vectors (the paper), or the most promising cells of the picture."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.model.heads import BoxHead
from opendetr.model.tokens import Tokens
from opendetr.scoring import Scoring
from opendetr.structures import Denoising, DetrOutput, Targets

SILENT = -100.0  # a logit whose sigmoid is 0 in float32
GROUPS = 5  # of denoising queries for the most crowded picture of a batch, as far as there is room


class Queries(NamedTuple):
    """What the decoder starts from."""

    content: Float[Tensor, "B Q D"]
    position: Float[Tensor, "B Q D"] | None = None  # added to queries and keys in every attention
    reference_boxes: Float[Tensor, "B Q 4"] | None = None  # cxcywh: where the queries look, refined by every layer
    blocked: Bool[Tensor, "B Q"] | Bool[Tensor, "B Q Q"] | None = None  # True where one is not seen, by all or by a row
    proposals: DetrOutput | None = None  # what the queries were selected from
    num_ranked: int = 0  # that many come first, the most promising before the others
    missing: Bool[Tensor, "B Q"] | None = None  # no cell was left for them: nobody sees them and they say nothing


class LearnedQueries(nn.Embedding):
    """One learned vector per query (section 3.2): the decoder starts from zeros, the vectors are its positions."""

    def __init__(self, num_queries: int, embed_dim: int, placement: str) -> None:
        """Draw the vectors.

        Args:
            num_queries: Q.
            embed_dim: D.
            placement: `attention` adds the vectors in every attention; `input` starts the decoder from them and adds
                nothing later (table 3, output encoding at input).
        """
        super().__init__(num_queries, embed_dim)
        self.at_input = placement == "input"

    def forward(self, memory: Tokens) -> Queries:  # type: ignore[override]
        """The same queries for every picture."""
        vectors = self.weight.expand(memory.content.shape[0], -1, -1)
        return Queries(vectors, None) if self.at_input else Queries(torch.zeros_like(vectors), vectors)


class SelectedQueries(nn.Module):
    """The cells of the memory that most likely hold an object, each with the box it proposes.

    Query selection of two-stage Deformable DETR (Zhu et al. 2021, section 4.2) with the learned contents of DINO (Zhang
    et al. 2023, section 3.4) added to the cell's own, and queries for denoising (Li et al. 2022).
    """

    ANCHOR_CELLS = 4.0  # a cell's first guess of a box is that many cells wide and high

    def __init__(self, num_queries: int, embed_dim: int, num_classes: int, scoring: Scoring, *, denoises: bool) -> None:
        super().__init__()
        self.num_queries, self.embedding_dim = num_queries, embed_dim
        self.cell_proj = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.LayerNorm(embed_dim))
        self.class_embed = nn.Linear(embed_dim, scoring.num_logits(num_classes))
        self.bbox_embed = BoxHead(embed_dim, refines=True)
        self.content = nn.Embedding(num_queries, embed_dim)
        self.label_embed = nn.Embedding(num_classes, embed_dim) if denoises else None
        scoring.initialise(self.class_embed)

    def forward(self, memory: Tokens) -> Queries:
        """The best `num_queries` cells, best first. Where a picture has fewer, the other queries are missing."""
        cells = self.cell_proj(memory.content)
        logits = self.class_embed(cells).float()
        if memory.padding_mask is not None:
            logits = logits.masked_fill(memory.padding_mask[..., None], -1e4)  # says nothing, and costs nothing
        centres, sizes = memory.cells.chunk(2, dim=-1)
        boxes = self.bbox_embed(cells, torch.cat([centres, sizes * self.ANCHOR_CELLS], -1))
        best, missing = self.most_promising(logits.detach().amax(-1), memory.padding_mask)
        content = cells.detach().gather(1, best[..., None].expand(-1, -1, cells.shape[-1])) + self.content.weight
        reference_boxes = boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        proposals = DetrOutput(logits[None], boxes[None])
        return Queries(content, None, reference_boxes, missing, proposals, self.num_queries, missing)

    def most_promising(
        self, promise: Float[Tensor, "B S"], padding_mask: Bool[Tensor, "B S"] | None
    ) -> tuple[Int[Tensor, "B Q"], Bool[Tensor, "B Q"] | None]:
        """The cells that become queries, and which queries are missing; None where no picture can lack cells.

        Every picture of a batch, of whatever size, has `num_queries` queries, so that no answer depends on the others.
        """
        if padding_mask is None and promise.shape[1] >= self.num_queries:
            return promise.topk(self.num_queries, dim=1).indices, None
        padded = torch.zeros_like(promise, dtype=torch.bool) if padding_mask is None else padding_mask
        unused = F.pad(padded, (0, self.num_queries), value=True)
        promise = F.pad(promise, (0, self.num_queries)).masked_fill(unused, float("-inf"))
        best = promise.topk(self.num_queries, dim=1).indices
        return best.clamp(max=padded.shape[1] - 1), unused.gather(1, best)

    def with_denoising(self, queries: Queries, denoising: Denoising) -> Queries:
        """The queries, which notice nothing, followed by the denoising ones."""
        assert queries.reference_boxes is not None
        assert self.label_embed is not None
        content = self.label_embed(denoising.labels).to(queries.content.dtype)
        blocked = blocked_attention(queries.content.shape[1], denoising.groups)
        if queries.missing is not None:
            blocked = blocked | F.pad(queries.missing, (0, content.shape[1]))[:, None]
        return queries._replace(
            content=torch.cat([queries.content, content], 1),
            reference_boxes=torch.cat([queries.reference_boxes, denoising.boxes_cxcywh], 1),
            blocked=blocked,
        )


class Precedence(nn.Module):
    """Tells every query how far its box is covered by that of a more promising one.

    Cells that see the same object propose almost the same box, and queries that start alike answer alike: attention
    alone learns slowly which of them is to stay silent. The overlap with those before it breaks the tie. It is the rank
    of learned duplicate removal (Hu et al. 2018, section 4.3) as an input of the decoder: nothing is removed, and the
    set loss teaches what to make of it.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        last = nn.Linear(32, embed_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), last)

    def forward(self, boxes: Float[Tensor, "B Q 4"], num_ranked: int) -> Float[Tensor, "B Q D"]:
        """What is added to the queries; for those after the first `num_ranked` as for one whom nobody covers.

        Args:
            boxes: cxcywh.
            num_ranked: that many come best first.
        """
        ranked = cxcywh_to_xyxy(boxes[:, :num_ranked].detach().float())
        overlaps = box_iou(ranked[:, :, None], ranked[:, None]).tril(-1)  # with those before it
        covered = F.pad(overlaps.amax(-1), (0, boxes.shape[1] - num_ranked))
        told: Tensor = self.mlp(covered[..., None])
        return told


def blocked_attention(num_queries: int, groups: Tensor) -> Bool[Tensor, "B M M"]:
    """What each of M = Q + N queries must not see: denoising queries are seen by their own group only.

    Args:
        num_queries: Q, the ordinary queries, which come first.
        groups: [B, N] of the denoising queries; -1 where the slot is empty (it sees the ordinary queries only).
    """
    everyone = F.pad(groups, (num_queries, 0), value=-2)  # the ordinary queries' group
    same_group = everyone[:, :, None] == everyone[:, None, :]
    seen_by_all = (everyone == -2)[:, None, :]
    return ~(seen_by_all | (same_group & (everyone != -1)[:, None, :]))


def make_denoising(targets: Targets, num_classes: int, num_queries: int) -> Denoising:
    """True objects with noise on them (Li et al. 2022), half of them so far off that they shall find nothing (DINO).

    A group holds every object of its picture twice: with little noise and with much. A picture of few objects has many
    groups, so that no query is wasted.

    Args:
        targets: the true objects.
        num_classes: C.
        num_queries: N at most; but one group of the most crowded picture always has room.
    """
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
    labels = torch.where(torch.rand_like(slots, dtype=torch.float) < 0.2, random_labels, labels)
    boxes = boxes.gather(1, origins[..., None].expand(-1, -1, 4))
    # Up to 0.4 of half a side for what shall find its object, 0.4 to 1 for what shall not.
    magnitude, sign = torch.rand_like(boxes), torch.rand_like(boxes).round() * 2 - 1
    noise = sign * torch.where(positive[..., None], 0.4 * magnitude, 0.4 + 0.6 * magnitude)
    boxes = (boxes + noise * boxes[..., 2:].repeat(1, 1, 2) / 2).clamp(1e-3, 1 - 1e-3)
    return Denoising(labels, boxes, torch.where(is_used, groups, -1), origins, positive)
