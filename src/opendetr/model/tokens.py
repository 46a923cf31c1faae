"""Feature maps as sequences of their cells: what the transformer reads."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Features(NamedTuple):
    """A feature map and the padding at its resolution."""

    map: Float[Tensor, "B F h w"]
    padding_mask: Bool[Tensor, "B h w"] | None  # None where nothing is padded


class Tokens(NamedTuple):
    """The cells of one or more feature maps, map after map, finest first, row by row; S cells in all."""

    content: Float[Tensor, "B S D"]
    position: Float[Tensor, "B S D"] | None  # what attention adds to queries and keys
    padding_mask: Bool[Tensor, "B S"] | None  # None where nothing is padded
    cells: Float[Tensor, "B S 4"]  # cxcywh of every cell, 0..1 of the unpadded image
    shapes: tuple[tuple[int, int], ...]  # height and width of every map in cells

    def without_finest(self, maps: int) -> "Tokens":
        """The tokens of all but the finest maps."""
        finest = sum(height * width for height, width in self.shapes[:maps])
        position, padding_mask = self.position, self.padding_mask
        return Tokens(
            self.content[:, finest:],
            None if position is None else position[:, finest:],
            None if padding_mask is None else padding_mask[:, finest:],
            self.cells[:, finest:],
            self.shapes[maps:],
        )


def flatten(features: list[Features], position_encoding: nn.Module | None) -> Tokens:
    """The cells of feature maps of one width as one sequence, with their positions in the image."""
    content, position, masks, cells = [], [], [], []
    for level in features:
        mask = level.padding_mask
        if mask is None:
            mask = level.map.new_zeros(level.map[:, 0].shape, dtype=torch.bool)
        content.append(level.map.flatten(2).transpose(1, 2))
        masks.append(mask.flatten(1))
        cells.append(cell_boxes(mask).flatten(1, 2))
        if position_encoding is not None:
            position.append(position_encoding(mask).to(level.map.dtype).flatten(1, 2))
    return Tokens(
        torch.cat(content, 1),
        torch.cat(position, 1) if position else None,
        None if features[0].padding_mask is None else torch.cat(masks, 1),
        torch.cat(cells, 1),
        tuple((level.map.shape[2], level.map.shape[3]) for level in features),
    )


def cell_boxes(padding_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B h w 4"]:
    """The cells of a map as boxes (cxcywh) in fractions of the unpadded image; padded cells lie beyond 1."""
    batch, height, width = padding_mask.shape
    inside = ~padding_mask
    rows, columns = inside[:, :, 0].sum(1).clamp(min=1), inside[:, 0].sum(1).clamp(min=1)
    y = (torch.arange(height, device=rows.device) + 0.5) / rows[:, None]
    x = (torch.arange(width, device=rows.device) + 0.5) / columns[:, None]
    boxes = [x[:, None, :], y[:, :, None], 1 / columns[:, None, None], 1 / rows[:, None, None]]
    return torch.stack([part.expand(batch, height, width) for part in boxes], -1)
