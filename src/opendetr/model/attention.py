"""The parts of encoder and decoder layers: attention, the feed-forward layer, and the residual around each."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.devices import without_autocast
from opendetr.model.dropout import Dropout

SMALL = 2**24  # weights of all queries, keys, heads and pictures: 100 MB in training with bf16


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention over several heads (section A.1).

    Parameters are named as in `torch.nn.MultiheadAttention`, which the official code uses.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "B N D"],
        key: Float[Tensor, "B M D"],
        value: Float[Tensor, "B M D"],
        blocked: Bool[Tensor, "B M"] | Bool[Tensor, "B N M"] | None = None,
        focus: Float[Tensor, "B _ N M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Each query's mixture of values.

        Keys where `blocked` is True (such as padding) are never attended to, but no query may lose all of them;
        `focus` is added to the similarities.
        """
        q, k, v = self.project(query, key, value)
        if self._writes_weights_out(q, k):
            mixed = self.dropout(_weights(q, k, blocked, focus).to(v.dtype)) @ v
        else:
            dropout = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(q, k, v, _mask(blocked, focus, q.dtype), dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def weights(
        self,
        query: Float[Tensor, "B N D"],
        key: Float[Tensor, "B M D"],
        blocked: Bool[Tensor, "B M"] | Bool[Tensor, "B N M"] | None = None,
        focus: Float[Tensor, "B _ N M"] | None = None,
    ) -> Float[Tensor, "B heads N M"]:
        """The attention weights by themselves (section A.1, equation 8); every row sums to 1."""
        q, k = self.project(query, key)
        return _weights(q, k, blocked, focus)

    def _writes_weights_out(self, q: Tensor, k: Tensor) -> bool:
        """Whether to compute the weights before the mixtures, instead of both in one of PyTorch's fused functions.

        On a CPU its backward pass is faster; larger ones would need too much memory. On MPS the fused function has
        been wrong for heads that are views of one tensor, and for masks that all heads share (pytorch/pytorch 163597,
        181133, 184180).
        """
        if q.device.type == "cpu":
            is_small = q[..., 0].numel() * k.shape[-2] <= SMALL
            return self.training and (self.dropout.p > 0 or is_small)
        return q.device.type == "mps"

    def project(self, *inputs: Float[Tensor, "B _ D"]) -> list[Float[Tensor, "B heads _ d"]]:
        """Queries, keys and values of every head, d = D / heads wide; as many of them as there are inputs."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return [
            F.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases)
        ]


def _weights(
    q: Float[Tensor, "B heads N d"], k: Float[Tensor, "B heads M d"], blocked: Tensor | None, focus: Tensor | None
) -> Float[Tensor, "B heads N M"]:
    """At least in float32: similarities rounded to bf16 change sharp attention weights by per cents."""
    wide = torch.promote_types(q.dtype, torch.float32)
    mask = _mask(blocked, focus, wide)
    with without_autocast(q.device):
        similarity = (q.to(wide) * q.shape[-1] ** -0.5) @ k.to(wide).transpose(-2, -1)
        if mask is not None:
            similarity = similarity.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else similarity + mask
        return similarity.softmax(-1)


def _mask(blocked: Tensor | None, focus: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """For every head [B, 1 or heads, 1 or N, M]: without focus, True where attention is allowed; else what is added."""
    allowed = None if blocked is None else ~blocked[:, None] if blocked.ndim == 3 else ~blocked[:, None, None]
    if focus is None:
        return allowed
    gain = focus.to(dtype)
    return gain if allowed is None else gain.masked_fill(~allowed, float("-inf"))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between (section A.3)."""

    def __init__(self, embed_dim: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.dropout = Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The same function of every token."""
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


def add_position(x: Tensor, position: Tensor | None) -> Tensor:
    """Add the position, for queries and keys but not for values."""
    return x if position is None else x + position


class Residual(nn.Module):
    """A sub-layer's output added to its input, normalised after the sum (the paper) or before the sub-layer."""

    def __init__(self, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.dropout, self.pre_norm = Dropout(dropout), pre_norm

    def forward(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """`norm(x + sublayer(x))`, or `x + sublayer(norm(x))`."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))
