"""The vocabulary between stages. Images, labels -> Batch, Targets -> DetrOutput -> Matches -> losses; -> Detections.

B batch, Q queries, T targets per image, L decoder layers, C classes. What crosses the model's border is a NamedTuple or
a pytree, so that DataLoader, DDP and `torch.export` carry it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from opendetr.detections import Detections as Detections  # the last of the stages, in a file of its own
from opendetr.devices import send
from opendetr.raw_values import RawId


class Target(NamedTuple):
    """The true objects of one image."""

    labels: Int[Tensor, " T"]  # class index 0..C-1
    boxes_cxcywh: Float[Tensor, "T 4"]  # 0..1 of the unpadded image


class Targets(NamedTuple):
    """The true objects of a batch, padded to the most crowded image; `counts` tells how many are real."""

    labels: Int[Tensor, "B T"]
    boxes_cxcywh: Float[Tensor, "B T 4"]
    counts: Int[Tensor, " B"]

    @classmethod
    def stack(cls, targets: list[Target]) -> "Targets":
        """Pad with class 0 and a box in the middle; no code reads the padding."""
        longest = max((len(target.labels) for target in targets), default=0)
        labels = torch.zeros(len(targets), longest, dtype=torch.long)
        boxes = torch.full((len(targets), longest, 4), 0.5)
        for row, target in enumerate(targets):
            labels[row, : len(target.labels)] = target.labels
            boxes[row, : len(target.labels)] = target.boxes_cxcywh
        return cls(labels, boxes, torch.tensor([len(target.labels) for target in targets]))

    def to(self, device: torch.device) -> "Targets":
        """The same on another device."""
        return Targets(*(send(tensor, device) for tensor in self))


class Batch(NamedTuple):
    """Images of a batch, top-left aligned in one tensor."""

    images: Float[Tensor, "B 3 H W"]  # normalised; 0 where padded
    padding_mask: Bool[Tensor, "B H W"] | None  # True = padding; None where nothing is padded
    original_sizes: Int[Tensor, "B 2"]  # height, width of the picture before any transform, in pixels
    image_ids: tuple[RawId, ...]  # B of them, as the data set has them
    left_out: tuple[str, ...] = ()  # a sentence per picture that could not be used, and was replaced by another one

    def to(self, device: torch.device) -> "Batch":
        """The pictures on another device; their sizes and ids, which people read, stay on the CPU."""
        mask = None if self.padding_mask is None else send(self.padding_mask, device)
        return self._replace(images=send(self.images, device), padding_mask=mask)


class Denoising(NamedTuple):
    """True objects with noise, as extra queries that must predict the true objects; N per picture (training only).

    Queries of one group attend to each other and to the ordinary queries; no query attends to those of another group.
    """

    labels: Int[Tensor, "B N"]  # class index 0..C-1, some of them wrong
    boxes_cxcywh: Float[Tensor, "B N 4"]  # 0..1 of the unpadded image
    groups: Int[Tensor, "B N"]  # number of the group; -1 where the slot is empty
    origins: Int[Tensor, "B N"]  # the target that the query was made from
    positive: Bool[Tensor, "B N"]  # True: it must find its target; False: it is too far off and must find no object


@dataclass(frozen=True)
class DetrOutput:
    """The output of every decoder layer; the last layer is the answer, the others are trained as auxiliary outputs.

    It unpacks like a named tuple of logits and boxes_cxcywh; the optional parts have names only, so that no code takes
    them for answers by mistake. It is a pytree, so that DDP and `torch.export` carry it.
    """

    _fields: ClassVar = ("logits", "boxes_cxcywh")
    logits: Float[Tensor, "L B Q K"]  # K = C+1 (softmax, the last is no-object) or C (focal)
    boxes_cxcywh: Float[Tensor, "L B Q 4"]  # 0..1 of the unpadded image
    proposals: "DetrOutput | None" = None  # of every cell of the memory (L = 1, Q = S), where queries are selected
    denoising: "DetrOutput | None" = None  # the output of the denoising queries (Q = N), in training

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, name) for name in self._fields)

    def last_layer(self) -> "DetrOutput":
        """The last decoder layer alone, L = 1, also of the denoising queries; proposals have no layers and stay."""
        denoising = None if self.denoising is None else self.denoising.last_layer()
        return DetrOutput(self.logits[-1:], self.boxes_cxcywh[-1:], self.proposals, denoising)


register_pytree_node(
    DetrOutput,
    lambda output: ([output.logits, output.boxes_cxcywh, output.proposals, output.denoising], None),
    lambda parts, _: DetrOutput(*parts),
)


class Matches(NamedTuple):
    """Pairs of query and target, one to one within a layer and an image; N pairs over all layers and images.

    The pairs are ordered by layer; every layer has the same number.
    """

    layers: Int[Tensor, " N"]
    images: Int[Tensor, " N"]
    queries: Int[Tensor, " N"]
    targets: Int[Tensor, " N"]
