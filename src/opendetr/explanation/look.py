"""One picture passed through a model, with everything that is captured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from opendetr.boxes import cxcywh_to_xyxy
from opendetr.detections import Threshold, reaches
from opendetr.errors import UserError
from opendetr.explanation.maps import at_cells, cell_at, gradient_relevance, on_picture, rollout
from opendetr.inference.detector import Detector, require_numbers
from opendetr.labels import LabelMap
from opendetr.model.capture import AttentionLayer, Captured, capture_attention
from opendetr.model.tokens import Tokens
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput
from opendetr.wording import one_line

AT_LEAST = 3  # number of answers that are explained where none reaches the threshold
ROWS = 512  # of the attention of an encoder layer that are computed at once


@dataclass(frozen=True)
class Explained:
    """The detections of a picture that are explained; K of them, best first."""

    queries: list[int]
    labels: list[int]
    names: list[str]
    scores: list[float]
    found: int  # queries that reach the threshold, explained or not; 0: none does, and these are the best

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def titles(self) -> list[str]:
        """Name and score of each."""
        return [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores)]


@dataclass(frozen=True)
class Look:
    """The output of a model for one picture, and its attention."""

    image: Image.Image
    output: DetrOutput  # of this picture alone, B = 1
    captured: Captured
    memory: Tokens  # the cells to which encoder and decoder attend
    scoring: Scoring
    label_map: LabelMap
    extent: tuple[float, float]  # width and height, in pixels of the picture, that the maps cover

    def boxes_xyxy(self, layer: int = -1) -> Float[Tensor, "Q 4"]:
        """The boxes of a decoder layer in pixels of the picture."""
        return self.in_pixels(self.output.boxes_cxcywh[layer, 0])

    def in_pixels(self, boxes_cxcywh: Tensor) -> Tensor:
        """Boxes in fractions of the picture as xyxy in its pixels."""
        width, height = self.image.size
        return cxcywh_to_xyxy(boxes_cxcywh.detach().float().cpu()) * torch.tensor([width, height, width, height])

    def scores(self, layer: int = -1) -> Float[Tensor, "Q C"]:
        """The score of every query and class in a decoder layer."""
        return self.scoring.probabilities(self.output.logits[layer, 0].detach().float()).cpu()

    def explained(self, threshold: Threshold, at_most: int) -> Explained:
        """The detections with at least that score, one per query; the best few where there are none."""
        scores, labels = self.scores().max(-1)
        order = scores.argsort(descending=True, stable=True)
        chosen = order[reaches(scores, labels, threshold)[order]]
        queries = (chosen[:at_most] if len(chosen) else order[:AT_LEAST]).tolist()
        classes = labels[queries].tolist()
        names = [one_line(self.label_map.names[label]) for label in classes]
        return Explained(queries, classes, names, scores[queries].tolist(), len(chosen))

    @property
    def starts_cxcywh(self) -> Tensor | None:
        """The boxes at which queries started [Q, 4]; None for learned queries, which have none."""
        queries = self.captured.queries
        return None if queries is None or queries.reference_boxes is None else queries.reference_boxes[0].detach()

    def encoder_maps(self, points: Sequence[tuple[float, float]]) -> Float[Tensor, "L heads P h w"]:
        """What the cells at some points (pixels of the picture) attend to: their rows in every encoder layer.

        Raises:
            UserError: the model has no encoder.
        """
        return self._maps(_weights(self.captured.encoder, self.cells_at(points)))

    def encoder_readers(self, points: Sequence[tuple[float, float]]) -> Float[Tensor, "L heads P h w"]:
        """Which cells attend to those at some points (pixels of the picture): their columns in every encoder layer.

        The authors' notebook plots these as figure 3 of the paper. Unlike a row, a column has no fixed sum.
        """
        return at_cells(_received(self.captured.encoder, self.cells_at(points)), self.memory).float().cpu()

    def cells_at(self, points: Sequence[tuple[float, float]]) -> list[int]:
        """The numbers of the cells at some points (pixels of the picture).

        Raises:
            UserError: the model has no encoder.
        """
        if not self.captured.encoder:
            raise UserError(
                "this model has no encoder (model.num_encoder_layers = 0), so no attention of cells to show"
            )
        return [cell_at(x / self.extent[0], y / self.extent[1], self.memory) for x, y in points]

    def cross_maps(self, queries: Sequence[int]) -> Float[Tensor, "L heads K h w"]:
        """The cross-attention of some queries in every decoder layer."""
        return self._maps(_weights(self.captured.decoder_cross, queries))

    @torch.no_grad()
    def rollout_maps(self, queries: Sequence[int]) -> Float[Tensor, "K h w"]:
        """Attention rollout of some queries through all layers."""
        return self._maps(rollout(self.captured, queries))

    def gradient_maps(self, queries: Sequence[int], labels: Sequence[int]) -> Float[Tensor, "K h w"]:
        """Gradient-weighted attention of some queries; needs a look with gradients."""
        scores = list(self.output.logits[-1, 0, queries, labels])
        return self._maps(gradient_relevance(self.captured, scores, queries))

    def self_attention(self) -> Float[Tensor, "L heads Q Q"]:
        """Self-attention of queries (rows) to each other (columns) in every decoder layer."""
        return _weights(self.captured.decoder_self).float().cpu()

    def _maps(self, rows: Tensor) -> Tensor:
        return on_picture(rows, self.memory).float().cpu()


@torch.no_grad()
def _weights(layers: Sequence[AttentionLayer], rows: Sequence[int] | None = None) -> Float[Tensor, "L heads N M"]:
    return torch.stack([layer.weights(rows)[0] for layer in layers])


@torch.no_grad()
def _received(layers: Sequence[AttentionLayer], columns: Sequence[int]) -> Float[Tensor, "L heads P S"]:
    """Some columns of the weights; rows are computed in parts, since all of them may need gigabytes."""

    def of(layer: AttentionLayer) -> Tensor:
        rows = range(layer.query.shape[1])
        parts = [layer.weights(rows[start : start + ROWS])[0][..., list(columns)] for start in rows[::ROWS]]
        return torch.cat(parts, 1).transpose(1, 2)

    return torch.stack([of(layer) for layer in layers])


def look(detector: Detector, image: Image.Image, *, gradients: bool = False) -> Look:
    """Pass an RGB picture through a model and store its output and attention; `gradient_maps` needs `gradients`."""
    tensor = detector.prepare(image)
    model, config = detector.model, detector.checkpoint.config.model
    with torch.set_grad_enabled(gradients), capture_attention(model) as captured:
        output = model(tensor[None].to(detector.device), None)
    require_numbers(detector.engine, output.logits.amax(-1), output.boxes_cxcywh)
    assert captured.memory is not None
    # The last cells of a map may reach beyond the picture: the backbone rounds up.
    stride = min((*config.encoder_strides, config.output_stride))
    rows, columns = captured.memory.shapes[0]
    height, width = tensor.shape[1:]
    extent = (columns * stride * image.width / width, rows * stride * image.height / height)
    return Look(image, output, captured, captured.memory, model.scoring, detector.checkpoint.label_map, extent)
