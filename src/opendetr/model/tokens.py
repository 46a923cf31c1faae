"""Feature maps as sequences of their cells: what the transformer reads."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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


def cell_boxes(padding_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B h w 4"]:
    """The cells of a map as boxes (cxcywh) in fractions of the unpadded image; padded cells lie beyond 1."""
    batch, height, width = padding_mask.shape
    inside = ~padding_mask
    rows, columns = inside[:, :, 0].sum(1).clamp(min=1), inside[:, 0].sum(1).clamp(min=1)
    y = (torch.arange(height, device=rows.device) + 0.5) / rows[:, None]
    x = (torch.arange(width, device=rows.device) + 0.5) / columns[:, None]
    boxes = [x[:, None, :], y[:, :, None], 1 / columns[:, None, None], 1 / rows[:, None, None]]
    return torch.stack([part.expand(batch, height, width) for part in boxes], -1)
