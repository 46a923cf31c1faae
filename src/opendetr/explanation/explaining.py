"""What `opendetr explain` shows of a picture: the attention of encoder and decoder, and the decoder layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from opendetr.boxes import box_iou
from opendetr.detections import Threshold, reaches, threshold_in_words
from opendetr.errors import UserError
from opendetr.explanation import figures, readings
from opendetr.explanation.folder import Folder
from opendetr.explanation.look import Explained, Look, look
from opendetr.inference.detector import Detector
from opendetr.progress import console

MOST_POINTS = 4  # chosen on detected objects where none are given


@dataclass(frozen=True)
class Asked:
    """The options of the user; layers and heads count from 1, 0 is the last layer and the mean of the heads."""

    threshold: float | None = None  # None: the model's own of each class
    points: Sequence[tuple[float, float]] = ()  # pixels of the picture
    layer: int = 0
    head: int = 0
    at_most: int = 12  # detections of a picture that are explained

    def of(self, maps: Tensor) -> tuple[Tensor, str]:
        """The chosen layer and head of maps [L, heads, ...], and a description in words."""
        layers, heads = maps.shape[:2]
        layer = min(self.layer or layers, layers)
        if self.head == 0:
            return maps[layer - 1].mean(0), f"layer {layer} of {layers}, mean of {heads} heads"
        return maps[layer - 1, self.head - 1], f"layer {layer} of {layers}, head {self.head}"

    def check(self, detector: Detector) -> None:
        """Check layer and head against the model.

        Raises:
            UserError: it has no such layer or head.
        """
        model = detector.checkpoint.config.model
        layers = max(model.num_encoder_layers, model.num_decoder_layers)
        if not 0 <= self.layer <= layers:
            raise UserError(f"--layer {self.layer}: this model's layers count from 1 to {layers}")
        if not 0 <= self.head <= model.num_heads:
            raise UserError(f"--head {self.head}: this model's heads count from 1 to {model.num_heads}")
        for stack, count in (("encoder", model.num_encoder_layers), ("decoder", model.num_decoder_layers)):
            if 0 < count < self.layer:
                console.print(f"--layer {self.layer}: the {stack} has {count}; its last is shown")
        if self.points and model.num_encoder_layers == 0:
            raise UserError("--point needs an encoder and this model has no encoder (model.num_encoder_layers = 0)")


def explain_picture(folder: Folder, detector: Detector, name: str, image: Image.Image, asked: Asked) -> None:
    """Encoder maps, decoder maps in three variants, attention between queries, and the decoder layer by layer.

    Raises:
        UserError: a point lies outside the picture.
    """
    require_inside(asked.points, name, image)
    seen = look(detector, image, gradients=True)
    threshold = detector.description.threshold(asked.threshold)
    explained = seen.explained(threshold, asked.at_most)
    folder.heading(name)
    folder.words(_summary(explained, threshold))
    layers = range(len(seen.output.logits))
    arrays: dict[str, Any] = {
        "queries": explained.queries, "labels": explained.labels, "scores": explained.scores,
        "boxes_xyxy_by_layer": torch.stack([seen.boxes_xyxy(layer) for layer in layers]),
        "scores_by_layer": torch.stack([seen.scores(layer) for layer in layers]),
        "starts_xyxy": None if seen.starts_cxcywh is None else seen.in_pixels(seen.starts_cxcywh),
        "map_extent": seen.extent,
    }  # fmt: skip
    if seen.captured.encoder:
        arrays |= _encoder(folder, seen, explained, name, asked)
    else:
        folder.words("The model has no encoder: there is no self-attention of the picture.")
    folder.arrays(name, arrays | _decoder(folder, seen, explained, name, asked, threshold))


def _encoder(folder: Folder, seen: Look, explained: Explained, name: str, asked: Asked) -> dict[str, Any]:
    """Both directions of the encoder's attention at some points; returns the arrays."""
    points = asked.points or _points_on(seen, explained)
    readers, reads = seen.encoder_readers(points), seen.encoder_maps(points)
    shown, what = asked.of(readers)
    folder.figure(
        f"{name}-encoder-readers",
        figures.encoder_figure(seen, points, shown, f"Encoder, {what}: which cells attend to the cell at a point"),
        "Self-attention of the encoder: which cells attend to the cell at a point (the paper's figure 3).",
        readings.READERS, readings.of_points(seen, points, shown, explained, from_outside=True),
    )  # fmt: skip
    shown, what = asked.of(reads)
    folder.figure(
        f"{name}-encoder-reads",
        figures.encoder_figure(seen, points, shown, f"Encoder, {what}: what the cell at a point attends to"),
        "Self-attention of the encoder: what the cell at a point attends to.",
        readings.READS, readings.of_points(seen, points, shown, explained, from_outside=False),
    )  # fmt: skip
    return {"points": points, "encoder_attention": reads, "encoder_readers": readers}


def _decoder(
    folder: Folder, seen: Look, explained: Explained, name: str, asked: Asked, threshold: Threshold
) -> dict[str, Any]:
    """What each detection attends to, how queries attend to each other, and the layers; returns the arrays."""
    cross, between = seen.cross_maps(explained.queries), seen.self_attention()
    shown, what = asked.of(cross)
    folder.figure(
        f"{name}-decoder",
        figures.decoder_figure(seen, explained, shown, what),
        "Cross-attention of the decoder: which cells each detection attends to (the paper's figure 6).",
        readings.DECODER, readings.of_decoder(seen, explained, shown),
    )  # fmt: skip
    rolled_out = seen.rollout_maps(explained.queries)
    by_gradient = seen.gradient_maps(explained.queries, explained.labels)
    variants = {"attention": shown, "rollout": rolled_out, "by gradient": by_gradient}
    folder.figure(
        f"{name}-variants",
        figures.variants_figure(seen, explained, variants, what),
        "Three ways to ask what each detection looked at.",
        readings.VARIANTS, readings.of_variants(seen, explained, variants),
    )  # fmt: skip
    among, what = asked.of(between)
    queries = [*explained.queries, *dict.fromkeys(_rivals(seen, explained, threshold))]
    folder.figure(
        f"{name}-queries",
        figures.queries_figure(explained, among, queries, what),
        "Self-attention of the decoder: how the queries attend to each other.",
        readings.QUERIES, readings.of_queries(explained, among, queries),
    )  # fmt: skip
    folder.figure(
        f"{name}-layers",
        figures.layers_figure(seen, explained),
        "The box and the score of every detection after each decoder layer.",
        readings.LAYERS, readings.of_layers(seen, explained),
    )  # fmt: skip
    return {"cross_attention": cross, "self_attention": between, "rollout": rolled_out, "gradient": by_gradient}


def require_inside(points: Sequence[tuple[float, float]], name: str, image: Image.Image) -> None:
    """Check that the points lie in the picture.

    Raises:
        UserError: one does not.
    """
    for x, y in points:
        if not (0 <= x < image.width and 0 <= y < image.height):
            raise UserError(
                f"--point {x:g},{y:g} lies outside {name}, which is {image.width}x{image.height} pixels; expected "
                f"x from 0 to {image.width - 1} and y from 0 to {image.height - 1}"
            )


def _summary(explained: Explained, threshold: Threshold) -> str:
    shown, found, names = len(explained), explained.found, ", ".join(explained.titles)
    if found > shown:
        left_out = f"{found - shown} more are left out (--at-most)."
        return f"Explained are the {shown} best of {found} detections: {names}. {left_out}"
    if found:
        return f"Explained: {names}."
    return f"No answer reaches {threshold_in_words(threshold)}; explained are the {shown} best: {names}."


def _points_on(seen: Look, explained: Explained) -> list[tuple[float, float]]:
    """The centres of the first detections, within the picture, each in a cell of its own."""
    boxes = seen.boxes_xyxy()[explained.queries]
    width, height = seen.image.size
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    points = [(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)) for x, y in centres]
    of_cell: dict[int, tuple[float, float]] = {}
    for cell, point in zip(seen.cells_at(points), points):
        of_cell.setdefault(cell, point)
    return list(of_cell.values())[:MOST_POINTS]


def _rivals(seen: Look, explained: Explained, threshold: Threshold) -> list[int]:
    """For each detection the query without a detection whose box overlaps its own most."""
    boxes = seen.boxes_xyxy()
    overlaps = box_iou(boxes[explained.queries][:, None], boxes[None])
    overlaps[:, explained.queries] = -1
    overlaps[:, reaches(*seen.scores().max(-1), threshold)] = -1
    return [int(query) for row, query in zip(overlaps, overlaps.argmax(1)) if float(row[query]) > 0]
