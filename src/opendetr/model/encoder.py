"""The transformer encoder: every cell of the feature map attends to every other (section 3.2, figure 10)."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.model.attention import FeedForward, MultiheadAttention, Residual, add_position
from opendetr.model.tokens import Tokens


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward layer (left out where `feedforward_dim` is 0)."""

    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(embed_dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(embed_dim, feedforward_dim, dropout) if feedforward_dim else None
        self.norm2 = nn.LayerNorm(embed_dim) if feedforward_dim else None
        self.residual = Residual(dropout, pre_norm)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        position: Float[Tensor, "B S D"] | None,
        padding_mask: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B S D"]:
        """The tokens after self-attention and the feed-forward layer."""

        def attend(tokens: Tensor) -> Tensor:
            located = add_position(tokens, position)
            return self.self_attn(located, located, tokens, padding_mask)

        x = self.residual(x, self.norm1, attend)
        return x if self.ffn is None else self.residual(x, self.norm2, self.ffn)


class Encoder(nn.Module):
    """A stack of encoder layers; without any, memory is the projected features (table 2)."""

    def __init__(self, layers: list[EncoderLayer], norm: nn.Module | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, tokens: Tokens) -> Float[Tensor, "B S D"]:
        """The memory the decoder reads."""
        x = tokens.content
        for layer in self.layers:
            x = layer(x, tokens.position, tokens.padding_mask)
        return x if self.norm is None else self.norm(x)
