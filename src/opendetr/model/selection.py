"""Selected queries: the cells with the highest scores, the boxes they propose, and how their rank is used."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.model.denoising import with_denoising
from opendetr.model.heads import BoxHead
from opendetr.model.queries import Queries
from opendetr.model.tokens import Tokens
from opendetr.scoring import Scoring
from opendetr.structures import Denoising, DetrOutput


class SelectedQueries(nn.Module):
    """The cells of the memory that most likely hold an object, each with the box it proposes.

    Query selection of two-stage Deformable DETR (Zhu et al. 2021, section 4.2) with the learned contents of DINO (Zhang
    et al. 2023, section 3.4) added to the cell's own, and queries for denoising (Li et al. 2022).
    """

    ANCHOR_CELLS = 4.0  # a cell's first guess of a box is that many cells wide and high

    def __init__(self, num_queries: int, embed_dim: int, num_classes: int, scoring: Scoring, *, denoises: bool) -> None:
        super().__init__()
        self.num_queries, self.embed_dim = num_queries, embed_dim
        self.cell_proj = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.LayerNorm(embed_dim))
        self.class_embed = nn.Linear(embed_dim, scoring.num_logits(num_classes))
        self.bbox_embed = BoxHead(embed_dim, refines=True)
        self.content = nn.Embedding(num_queries, embed_dim)
        self.label_embed = nn.Embedding(num_classes, embed_dim) if denoises else None  # of denoising queries
        scoring.initialise(self.class_embed)

    def forward(self, memory: Tokens, denoising: Denoising | None = None) -> Queries:
        """The best `num_queries` cells, best first, then the denoising queries.

        Where a picture has fewer cells, the other queries are missing.
        """
        cells = self.cell_proj(memory.content)
        logits = _at_least_float32(self.class_embed(cells))
        if memory.padding_mask is not None:
            logits = logits.masked_fill(memory.padding_mask[..., None], -1e4)  # never selected; its loss is 0
        centres, sizes = memory.cells.to(logits.dtype).chunk(2, dim=-1)
        boxes = self.bbox_embed(cells, torch.cat([centres, sizes * self.ANCHOR_CELLS], -1))
        best, missing = self.most_promising(logits.detach().amax(-1), memory.padding_mask)
        content = cells.detach().gather(1, best[..., None].expand(-1, -1, cells.shape[-1])) + self.content.weight
        reference_boxes = boxes.detach().gather(1, best[..., None].expand(-1, -1, 4))
        proposals = DetrOutput(logits[None], boxes[None])
        queries = Queries(content, self.num_queries, None, reference_boxes, missing, missing, proposals)
        if denoising is None:
            return queries
        assert self.label_embed is not None
        return with_denoising(queries, denoising, self.label_embed)

    def most_promising(
        self, promise: Float[Tensor, "B S"], padding_mask: Bool[Tensor, "B S"] | None
    ) -> tuple[Int[Tensor, "B Q"], Bool[Tensor, "B Q"] | None]:
        """The cells that become queries, and which queries are missing; None where no picture can lack cells.

        Every picture of a batch, of any size, has `num_queries` queries, so that no answer depends on the others.
        """
        if padding_mask is None and promise.shape[1] >= self.num_queries:
            return promise.topk(self.num_queries, dim=1).indices, None
        padded = torch.zeros_like(promise, dtype=torch.bool) if padding_mask is None else padding_mask
        unused = F.pad(padded, (0, self.num_queries), value=True)
        promise = F.pad(promise, (0, self.num_queries)).masked_fill(unused, float("-inf"))
        best = promise.topk(self.num_queries, dim=1).indices
        return best.clamp(max=padded.shape[1] - 1), unused.gather(1, best)


class Precedence(nn.Module):
    """Adds to every query an encoding of the largest overlap of its box with that of a higher-ranked query.

    Cells of the same object propose almost the same box, and queries that start alike answer alike: attention alone
    learns slowly which of them should answer. The overlap with higher-ranked ones breaks the tie. It is the rank of
    learned duplicate removal (Hu et al. 2018, section 4.3) as an input of the decoder: no query is removed, and the set
    loss trains how the overlap is used.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        last = nn.Linear(32, embed_dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), last)

    def forward(self, boxes: Float[Tensor, "B M 4"], num_queries: int) -> Float[Tensor, "B M D"]:
        """The encoding. `boxes` are cxcywh, those of the Q ordinary queries first, from the highest rank to the lowest.

        Denoising queries have no rank: their overlap is 0.
        """
        ranked = cxcywh_to_xyxy(_at_least_float32(boxes[:, :num_queries].detach()))
        overlaps = box_iou(ranked[:, :, None], ranked[:, None]).tril(-1)  # with those before it
        covered = F.pad(overlaps.amax(-1), (0, boxes.shape[1] - num_queries))
        return self.mlp(covered[..., None])


def _at_least_float32(values: Tensor) -> Tensor:
    """Half precision is too coarse for ranks and boxes; float64 is left alone."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
