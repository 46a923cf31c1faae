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
METADATA = "opendetr"  # the name of the entry, one JSON text, in files of all kinds


class GraphEngine(ABC):
    """An `Engine` that runs an exported graph, and gives all its outputs."""

    name: OneEngine
    precision: str

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B H W 3"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
    ) -> DetrOutput:
        """The output of the last decoder layer, on the CPU; from uint8 pictures where the graph normalises them."""
        found = self.outputs(images, padding_mask, OUTPUTS[:2])
        return DetrOutput(found["logits"][None], found["boxes_cxcywh"][None])

    @abstractmethod
    def outputs(
        self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The graph's outputs of these names, or all of them."""


class FromPixels(GraphEngine):
    """Runs a graph that normalises its inputs on normalised pictures: it gets the pixels that they were made of."""

    def __init__(self, engine: GraphEngine, preprocessing: Preprocessing) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision
        self.mean = torch.tensor(preprocessing.mean)[:, None, None]
        self.std = torch.tensor(preprocessing.std)[:, None, None]

    def outputs(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The graph's outputs for the pixels."""
        pixels = ((images * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return self.engine.outputs(pixels.permute(0, 2, 3, 1), padding_mask, names)


def inputs(images: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inputs of a graph: contiguous, on the CPU, with a mask, which is False everywhere without padding."""
    if padding_mask is None:
        sides = images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]  # pixels come as [B, H, W, 3]
        padding_mask = torch.zeros(images.shape[0], *sides, dtype=torch.bool)
    return images.cpu().contiguous(), padding_mask.cpu().contiguous()
