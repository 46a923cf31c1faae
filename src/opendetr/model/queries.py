"""Object queries: the decoder's input, and the learned queries of the paper."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.model.tokens import Tokens
from opendetr.structures import Denoising, DetrOutput

SILENT = -100.0  # a logit whose sigmoid is 0 in float32


class Queries(NamedTuple):
    """The decoder's input: Q ordinary queries, in training followed by N for denoising; M = Q + N."""

    content: Float[Tensor, "B M D"]
    num_queries: int  # Q
    position: Float[Tensor, "B M D"] | None = None  # added to queries and keys in every attention
    reference_boxes: Float[Tensor, "B M 4"] | None = None  # cxcywh; every layer refines them
    blocked: Bool[Tensor, "B Q"] | Bool[Tensor, "B M M"] | None = None  # True: no attention, by all or by a row's query
    missing: Bool[Tensor, "B Q"] | None = None  # True for queries without a cell: no query attends to them
    proposals: DetrOutput | None = None  # what the queries were selected from

    def output(self, logits: Float[Tensor, "L B M K"], boxes_cxcywh: Float[Tensor, "L B M 4"]) -> DetrOutput:
        """The output of the ordinary queries, with that of the denoising queries in `denoising`."""
        own, total = self.num_queries, logits.shape[2]
        answers = logits[:, :, :own]
        if self.missing is not None:
            answers = answers.masked_fill(self.missing[..., None], SILENT)
        denoising = DetrOutput(logits[:, :, own:], boxes_cxcywh[:, :, own:]) if total > own else None
        return DetrOutput(answers, boxes_cxcywh[:, :, :own], self.proposals, denoising)


class LearnedQueries(nn.Module):
    """One learned vector per query (section 3.2).

    With the placement `attention` the decoder starts from zeros and adds the vectors in every attention; with `input`
    it starts from the vectors and adds nothing later (table 3, output encoding at input).
    """

    def __init__(self, num_queries: int, embed_dim: int, placement: str) -> None:
        super().__init__()
        self.num_queries, self.embed_dim, self.at_input = num_queries, embed_dim, placement == "input"
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(num_queries, embed_dim)))

    def forward(self, memory: Tokens, denoising: Denoising | None = None) -> Queries:
        """The same queries for every picture; only selected queries can be denoised."""
        assert denoising is None
        vectors = self.weight.expand(memory.content.shape[0], -1, -1)
        content, position = (vectors, None) if self.at_input else (torch.zeros_like(vectors), vectors)
        return Queries(content, self.num_queries, position)
