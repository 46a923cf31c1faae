"""The box head and its MLP. The class head is a linear layer."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from opendetr.devices import without_autocast


class MLP(nn.Module):
    """Linear layers with ReLUs between them."""

    def __init__(self, in_dim: int, embed_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_dim] + [embed_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor) -> Tensor:
        """The last layer is linear."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class BoxHead(MLP):
    """A box per query: absolute (section 3.2), or where it `refines`, relative to the query's reference box.

    A relative box is the reference box itself at first.
    """

    def __init__(self, embed_dim: int, *, refines: bool) -> None:
        super().__init__(embed_dim, embed_dim, 4, num_layers=3)
        if refines:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, x: Float[Tensor, "... D"], reference_boxes: Float[Tensor, "... 4"] | None = None
    ) -> Float[Tensor, "... 4"]:
        """Boxes (cxcywh, 0..1 of the unpadded image), float32 under autocast."""
        if reference_boxes is None:
            with without_autocast(x.device):  # a box in bf16 is off by up to 1/256 of the picture
                return super().forward(x.to(self.dtype)).sigmoid()
        return refine(reference_boxes, super().forward(x).to(reference_boxes.dtype))


def refine(boxes: Float[Tensor, "... 4"], change: Float[Tensor, "... 4"]) -> Float[Tensor, "... 4"]:
    """Move a box by fractions of its size and scale it by exponentials, so that outputs do not depend on its size.

    The re-parametrisation of Plain-DETR (Lin et al. 2023, section 3.3).
    """
    centres, sizes = boxes.chunk(2, dim=-1)
    shift, growth = change.chunk(2, dim=-1)
    return torch.cat([centres + shift * sizes, sizes * growth.clamp(-4, 4).exp()], -1)
