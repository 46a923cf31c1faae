"""An exported graph, run on the CPU: what all engines of graphs share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from opendetr.data.transforms import Preprocessing
from opendetr.options import OneEngine
from opendetr.structures import DetrOutput

INPUTS = ("images", "padding_mask")
OUTPUTS = ("logits", "boxes_cxcywh", "scores", "labels", "boxes_xyxy")  # and attention, where it was asked for
ANSWERS = OUTPUTS[:2]
METADATA = "opendetr"  # the name of the entry, one JSON text, in files of all kinds


class GraphEngine(ABC):
    """An `Engine` that runs an exported graph, and gives all that it says."""

    name: OneEngine
    precision: str

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B H W 3"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
    ) -> DetrOutput:
        """The last decoder layer's answers, on the CPU; from bytes where the graph has its preprocessing inside."""
        found = self.outputs(images, padding_mask, ANSWERS)
        return DetrOutput(found["logits"][None], found["boxes_cxcywh"][None])

    @abstractmethod
    def outputs(
        self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The graph's outputs of these names, or all of them."""


class FromPixels(GraphEngine):
    """Feeds a graph that has its preprocessing inside from normalised pictures: the pixels they were made of."""

    def __init__(self, engine: GraphEngine, preprocessing: Preprocessing) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision
        self.mean = torch.tensor(preprocessing.mean)[:, None, None]
        self.std = torch.tensor(preprocessing.std)[:, None, None]

    def outputs(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """What the graph says about the pixels."""
        return self.engine.outputs(self.pixels(images), padding_mask, names)

    def pixels(self, images: Float[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B H W 3"]:
        """What was normalised."""
        pixels = ((images * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous()


def inputs(images: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a graph is given: on the CPU, in one piece, with a mask, which is False everywhere where there is none."""
    if padding_mask is None:
        sides = images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]  # pixels come as [B, H, W, 3]
        padding_mask = torch.zeros(images.shape[0], *sides, dtype=torch.bool)
    return images.cpu().contiguous(), padding_mask.cpu().contiguous()
