"""Where object queries come from."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Queries(NamedTuple):
    """What the decoder starts from."""

    content: Float[Tensor, "B Q D"]
    position: Float[Tensor, "B Q D"] | None  # added to queries and keys in every attention


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

    def forward(self, memory: Float[Tensor, "B S D"]) -> Queries:  # type: ignore[override]
        """The same queries for every picture."""
        vectors = self.weight.expand(len(memory), -1, -1)
        return Queries(vectors, None) if self.at_input else Queries(torch.zeros_like(vectors), vectors)
