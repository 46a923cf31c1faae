"""The transformer decoder: object queries attend to each other and to the image (section 3.2, figure 10)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.model.attention import FeedForward, MultiheadAttention, Residual, add_position
from opendetr.model.queries import Queries
from opendetr.model.tokens import Tokens


class DecoderLayer(nn.Module):
    """Self-attention between queries, cross-attention to the memory, then a feed-forward layer."""

    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(embed_dim, feedforward_dim, dropout) if feedforward_dim else None
        self.norm3 = nn.LayerNorm(embed_dim) if feedforward_dim else None
        self.residual = Residual(dropout, pre_norm)

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        query_position: Float[Tensor, "B Q D"] | None,
        memory: Float[Tensor, "B S D"],
        located_memory: Float[Tensor, "B S D"],
        padding_mask: Bool[Tensor, "B S"] | None,
        blocked: Bool[Tensor, "B Q"] | Bool[Tensor, "B Q Q"] | None = None,
        focus: Float[Tensor, "B _ Q S"] | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """The queries after self-attention, cross-attention and the feed-forward layer."""

        def self_attention(queries: Tensor) -> Tensor:
            located = add_position(queries, query_position)
            return self.self_attn(located, located, queries, blocked=blocked)

        def cross_attention(queries: Tensor) -> Tensor:
            located = add_position(queries, query_position)
            return self.multihead_attn(located, located_memory, memory, padding_mask, focus=focus)

        x = self.residual(x, self.norm1, self_attention)
        x = self.residual(x, self.norm2, cross_attention)
        return x if self.ffn is None else self.residual(x, self.norm3, self.ffn)


class Decoder(nn.Module):
    """A stack of decoder layers whose every output is read by the same heads (section 3.2, auxiliary losses)."""

    def __init__(
        self,
        layers: list[DecoderLayer],
        norm: nn.Module,
        reference_position: nn.Module | None = None,
        precedence: nn.Module | None = None,
        focus: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm  # of the output of every layer
        self.reference_position = reference_position  # of a query, from its reference box, which every layer refines
        self.precedence = precedence  # gives queries the overlap of their boxes with higher-ranked ones
        self.focus = focus  # bias of the cross-attention, from reference boxes and cells

    def forward(
        self, queries: Queries, memory: Tokens, box_head: nn.Module
    ) -> tuple[Float[Tensor, "L B Q D"], Float[Tensor, "L B Q 4"]]:
        """The normalised queries after each layer, and their boxes."""
        x, position, reference_boxes = queries.content, queries.position, queries.reference_boxes
        located_memory = add_position(memory.content, memory.position)  # the keys of every layer
        hidden, boxes = [], []
        for layer in self.layers:
            if self.reference_position is not None:
                position = self.reference_position(reference_boxes).to(x.dtype)
            focus = self.focus(reference_boxes, memory.cells) if self.focus and reference_boxes is not None else None
            if self.precedence is not None:
                x = x + self.precedence(reference_boxes, queries.num_queries).to(x.dtype)
            x = layer(x, position, memory.content, located_memory, memory.padding_mask, queries.blocked, focus)
            hidden.append(self.norm(x))
            boxes.append(box_head(hidden[-1], reference_boxes))
            if reference_boxes is not None:
                reference_boxes = boxes[-1].detach()  # no gradient to earlier layers (Deformable DETR, section 4.2)
        return torch.stack(hidden), torch.stack(boxes)
