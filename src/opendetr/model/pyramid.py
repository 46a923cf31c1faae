"""Feature maps of several strides as one sequence of tokens: for small objects the last map alone is too coarse."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.devices import without_autocast
from opendetr.model.encoder import Encoder, EncoderLayer
from opendetr.model.tokens import Features, Tokens


class InputProjection(nn.Module):
    """The paper's: a 1x1 convolution of the backbone's last map (section 3.2)."""

    def __init__(self, channels: list[int], embed_dim: int) -> None:
        super().__init__()
        # Only for its parameters: they start as those of the official code's convolution, and keep its names,
        # `input_proj.weight` and `input_proj.bias`, while this module takes and gives Features.
        projection = nn.Conv2d(channels[-1], embed_dim, kernel_size=1)
        self.weight, self.bias = projection.weight, projection.bias

    def forward(self, levels: list[Features]) -> list[Features]:
        """The one map the transformer reads."""
        return [Features(F.conv2d(levels[-1].map, self.weight, self.bias), levels[-1].padding_mask)]


class PyramidProjection(nn.Module):
    """Every map projected to the same width and normalised cell by cell, with a learned bias for its stride.

    Normalising per cell, where others use group normalisation, keeps padding out of the statistics.
    """

    def __init__(self, channels: list[int], embed_dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(width, embed_dim, bias=False) for width in channels)
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in channels)

    def forward(self, levels: list[Features]) -> list[Features]:
        """The maps, projected."""
        return [
            Features(norm(projection(level.map.permute(0, 2, 3, 1))).permute(0, 3, 1, 2), level.padding_mask)
            for level, projection, norm in zip(levels, self.projections, self.norms)
        ]


class PyramidEncoder(Encoder):
    """Self-attention over the coarser maps; the result is then added to the finer maps, top down.

    The hybrid encoder of RT-DETR (Zhao et al. 2024, section 4.2), made smaller for few pictures. There is one merge for
    each finer map, finest first.
    """

    def __init__(self, layers: list[EncoderLayer], norm: nn.Module | None, merges: list["Merge"]) -> None:
        super().__init__(layers, norm)
        self.merges = nn.ModuleList(merges)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B S D"]:
        """The memory the decoder reads."""
        sizes = [height * width for height, width in tokens.shapes]
        finer = len(self.merges)
        encoded = super().forward(tokens.without_finest(finer))
        levels = [*torch.split(tokens.content, sizes, 1)[:finer], *torch.split(encoded, sizes[finer:], 1)]
        maps = [
            level.transpose(1, 2).reshape(level.shape[0], -1, *shape) for level, shape in zip(levels, tokens.shapes)
        ]
        masks = [None] * len(maps) if tokens.padding_mask is None else torch.split(tokens.padding_mask, sizes, 1)
        for finest in reversed(range(len(self.merges))):
            maps[finest] = self.merges[finest](maps[finest], maps[finest + 1], masks[finest])
        return torch.cat([features.flatten(2).transpose(1, 2).to(maps[-1].dtype) for features in maps], 1)


class Merge(nn.Module):
    """A finer map plus its coarser neighbour, smoothed by a separable convolution."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim, bias=False)
        self.pointwise = nn.Linear(embed_dim, embed_dim, bias=False)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, fine: Tensor, coarse: Tensor, padding_mask: Tensor | None) -> Float[Tensor, "B D h w"]:
        """The finer map [B, D, h, w] with the content of the coarser one [B, D, h/2, w/2]."""
        x = fine + F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        if padding_mask is not None:  # like the border: it must not enter the convolution
            x = x.masked_fill(padding_mask.view(-1, 1, *x.shape[-2:]), 0)
        with without_autocast(x.device):  # depthwise convolutions are slow in bf16
            smoothed = self.depthwise(x.to(self.depthwise.weight.dtype))
        smoothed = F.relu(self.norm(self.pointwise(smoothed.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return x + smoothed
