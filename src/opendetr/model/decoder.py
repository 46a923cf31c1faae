"""The transformer decoder: object queries agree among themselves and look at the image (section 3.2, figure 10)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.model.attention import FeedForward, MultiheadAttention, Residual, add_position


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
        memory_position: Float[Tensor, "B S D"] | None,
        padding_mask: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B Q D"]:
        """The queries, each now knowing the others and what it found in the image."""

        def agree(queries: Tensor) -> Tensor:
            located = add_position(queries, query_position)
            return self.self_attn(located, located, queries)  # type: ignore[no-any-return]

        def look(queries: Tensor) -> Tensor:
            located = add_position(queries, query_position)
            keys = add_position(memory, memory_position)
            return self.multihead_attn(located, keys, memory, padding_mask)  # type: ignore[no-any-return]

        x = self.residual(x, self.norm1, agree)
        x = self.residual(x, self.norm2, look)
        return x if self.ffn is None else self.residual(x, self.norm3, self.ffn)


class Decoder(nn.Module):
    """A stack of decoder layers whose every output is read by the same heads (section 3.2, auxiliary losses)."""

    def __init__(self, layers: list[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self,
        x: Float[Tensor, "B Q D"],
        query_position: Float[Tensor, "B Q D"] | None,
        memory: Float[Tensor, "B S D"],
        memory_position: Float[Tensor, "B S D"] | None,
        padding_mask: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "L B Q D"]:
        """The normalised queries after each layer."""
        outputs = []
        for layer in self.layers:
            x = layer(x, query_position, memory, memory_position, padding_mask)
            outputs.append(self.norm(x))
        return torch.stack(outputs)
