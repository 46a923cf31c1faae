"""2-D spatial position encodings (section A.4; ablated in table 3)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.errors import UserError
from opendetr.model.heads import MLP
from opendetr.model.tokens import cell_boxes


class SinePosition(nn.Module):
    """Sines and cosines of the cell's place, half of the channels for y and half for x.

    Places run from 0 to 2 pi over the unpadded area, so they are fractions of the picture with any padding.
    """

    def __init__(self, embed_dim: int, temperature: float = 10000.0) -> None:
        super().__init__()
        self.num_frequencies, self.temperature = embed_dim // 4, temperature

    def forward(self, padding_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B h w D"]:
        """The encoding of every cell; padded cells continue the count of the last unpadded one."""
        inside = ~padding_mask
        y, x = inside.cumsum(1, dtype=torch.float32), inside.cumsum(2, dtype=torch.float32)
        scale, epsilon = 2 * math.pi, 1e-6
        y = y / (y[:, -1:, :] + epsilon) * scale
        x = x / (x[:, :, -1:] + epsilon) * scale
        return _waves(torch.stack([y, x], -1), self.num_frequencies, 1.0, self.temperature)


class LearnedPosition(nn.Module):
    """A learned vector per column and per row of cells, half of the channels each."""

    def __init__(self, embed_dim: int, num_cells: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(num_cells, embed_dim // 2)
        self.col_embed = nn.Embedding(num_cells, embed_dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B h w D"]:
        """The encoding of every cell; UserError if there are more rows or columns of cells than vectors."""
        batch, height, width = padding_mask.shape
        if max(height, width) > self.row_embed.num_embeddings:
            raise UserError(
                f"model.position_encoding = learned has {self.row_embed.num_embeddings} cells per side and the feature "
                f"map has {height}x{width}; use a smaller data.max_size, or the sine encoding"
            )
        columns = self.col_embed.weight[:width].expand(height, -1, -1)
        rows = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([columns, rows], -1).expand(batch, -1, -1, -1)


class CellPosition(nn.Module):
    """Sines and cosines of a cell's centre, projected: the same place has the same encoding in maps of any stride."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.num_frequencies = embed_dim // 4
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, padding_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B h w D"]:
        """The encoding of every cell."""
        return self.projection(_fractions(cell_boxes(padding_mask)[..., :2], self.num_frequencies))


class BoxPosition(nn.Module):
    """The position of a query that has a reference box: an MLP of its sines and cosines (DAB-DETR, section 4)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.num_frequencies = embed_dim // 4
        self.mlp = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)

    def forward(self, boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q D"]:
        """The encoding of every box."""
        return self.mlp(_fractions(boxes, self.num_frequencies))


SPREAD = 0.4  # standard deviation of the attention around the centre of a box, in shares of its sides


def focus_on(boxes: Float[Tensor, "B Q 4"], cells: Float[Tensor, "B S 4"]) -> Float[Tensor, "B 1 Q S"]:
    """The logarithm of a Gaussian in and around each query's box, added to the attention logits of every head.

    Content decides among the cells of an object, and cells outside need a larger similarity (the spatial prior of SMCA,
    Gao et al. 2021, section 3.2, without learned parameters). Boxes and cells are cxcywh in the same frame.
    """
    x, y, width, height = boxes[:, None, :, :, None].unbind(-2)  # [B, 1, Q, 1]
    cell_x, cell_y, cell_width, cell_height = cells.transpose(1, 2)[:, None, None].unbind(-2)  # [B, 1, 1, S]
    across = (cell_x - x) / (SPREAD * width + cell_width / 2)  # a box may be smaller than a cell
    down = (cell_y - y) / (SPREAD * height + cell_height / 2)
    return -(across.square() + down.square()) / 2


def _fractions(places: Float[Tensor, "... n"], num_frequencies: int) -> Float[Tensor, "... m"]:
    """Waves of fractions of the picture; wavelengths run from a tenth of the picture to two pictures."""
    return _waves(places * 2 * math.pi, num_frequencies, 0.1, 2.0)


def _waves(
    places: Float[Tensor, "... n"], num_frequencies: int, shortest: float, longest: float
) -> Float[Tensor, "... m"]:
    """Sine and cosine in turn for wavelengths (of 2 pi each) from `shortest` almost to `longest`, for every place."""
    exponent = torch.arange(num_frequencies, dtype=torch.float32, device=places.device) / num_frequencies
    angles = places[..., None] / (shortest * (longest / shortest) ** exponent)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)


def build_position_encoding(kind: str, embed_dim: int) -> nn.Module | None:
    """The encoding called `sine`, `learned`, `cell` or `none`."""
    kinds: dict[str, type[nn.Module]] = {"sine": SinePosition, "learned": LearnedPosition, "cell": CellPosition}
    return kinds[kind](embed_dim) if kind != "none" else None
