"""2-D spatial position encodings (section A.4; ablated in table 3)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.errors import UserError


class SinePosition(nn.Module):
    """Sines and cosines of the cell's place, half of the channels for y and half for x.

    Places run from 0 to 2 pi over the unpadded area, so they are fractions of the picture whatever its padding.
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
        exponent = torch.arange(self.num_frequencies, dtype=torch.float32, device=x.device) / self.num_frequencies
        wavelength = self.temperature**exponent
        encoded = [
            torch.stack([(place[..., None] / wavelength).sin(), (place[..., None] / wavelength).cos()], -1).flatten(-2)
            for place in (y, x)
        ]
        return torch.cat(encoded, -1)


class LearnedPosition(nn.Module):
    """A learned vector per column and per row of cells, half of the channels each."""

    def __init__(self, embed_dim: int, num_cells: int = 50) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(num_cells, embed_dim // 2)
        self.col_embed = nn.Embedding(num_cells, embed_dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: Bool[Tensor, "B h w"]) -> Float[Tensor, "B h w D"]:
        """The encoding of every cell.

        Raises:
            UserError: there are more rows or columns of cells than vectors.
        """
        batch, height, width = padding_mask.shape
        if max(height, width) > self.row_embed.num_embeddings:
            raise UserError(
                f"model.position_encoding = learned has {self.row_embed.num_embeddings} cells per side and the feature "
                f"map has {height}x{width}; use a smaller data.max_size, or the sine encoding"
            )
        columns = self.col_embed.weight[:width].expand(height, -1, -1)
        rows = self.row_embed.weight[:height, None].expand(-1, width, -1)
        return torch.cat([columns, rows], -1).expand(batch, -1, -1, -1)


def build_position_encoding(kind: str, embed_dim: int) -> nn.Module | None:
    """The encoding called `sine`, `learned` or `none`."""
    return {"sine": SinePosition, "learned": LearnedPosition}[kind](embed_dim) if kind != "none" else None
