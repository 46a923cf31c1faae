"""What queries do over a data set: slots (figure 7), layers (figure 4), and attention around the boxes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torchvision.ops import batched_nms

from opendetr.data.check import require_size
from opendetr.data.index import DatasetIndex
from opendetr.detections import Threshold, reaches
from opendetr.evaluation.coco import CocoMetrics
from opendetr.evaluation.runner import metrics_of
from opendetr.explanation.look import Look, look
from opendetr.explanation.maps import concentration, widening
from opendetr.images import read_image
from opendetr.inference.detector import Detector
from opendetr.model.postprocess import postprocess
from opendetr.progress import show_progress
from opendetr.raw_values import RawId
from opendetr.structures import Batch, Detections, DetrOutput

NMS_IOU = 0.7  # for the comparison only, as in the paper's figure 4: detections are never suppressed
FINEST_GRID, BOXES_PER_CELL = 16, 4  # cells per side for the overlap of slots: few boxes need large cells
GRADIENT_PICTURES = 20  # of a split, evenly spread: every detection needs a backward pass of its own
DRAWS = 20  # of equal slots, to see what overlap they show by chance


@dataclass(frozen=True)
class Survey:
    """The output of every query for every picture; N pictures."""

    boxes_cxcywh: Float[np.ndarray, "N Q 4"]  # 0..1 of the picture
    scores: Float[np.ndarray, "N Q"]  # of the best class
    starts_cxcywh: Float[np.ndarray, "N Q 4"] | None  # of selected queries
    sides: Float[np.ndarray, "N 2"]  # width and height of the pictures, pixels
    concentrations: Float[np.ndarray, "K L heads"]  # for detections above the threshold; 1 is evenly spread attention
    widenings: Float[np.ndarray, " K"]  # area of the widened box over the box's own
    by_gradient: Float[np.ndarray, "G 2"]  # concentration and widening of gradient-weighted attention, for a sample
    layers: list[tuple[CocoMetrics, CocoMetrics]]  # per decoder layer: without and with NMS
    sure: Bool[np.ndarray, "N Q"]  # whether the query detects something: its best class reaches the threshold
    threshold: Threshold

    @cached_property
    def specialisation(self) -> Float[np.ndarray, "Q Q"]:
        """The overlap of every two slots, 0..1: of the histograms of their boxes' centres over the unit square."""
        return _overlaps(self._histograms())

    @property
    def chance_overlap(self) -> float:
        """The overlap of two equal slots: of random draws from all boxes together."""
        together, pictures = self._histograms().mean(0), len(self.boxes_cxcywh)
        drawn = np.random.default_rng(0).multinomial(pictures, together / together.sum(), DRAWS) / pictures
        return float(_overlaps(drawn)[~np.eye(DRAWS, dtype=bool)].mean())

    def _histograms(self) -> Float[np.ndarray, "Q cells"]:
        pictures = len(self.boxes_cxcywh)
        grid = int(np.clip(np.sqrt(pictures / BOXES_PER_CELL), 2, FINEST_GRID))
        cells = np.clip((self.boxes_cxcywh[..., :2] * grid).astype(int), 0, grid - 1)
        flat = cells[..., 1] * grid + cells[..., 0]
        return np.stack([np.bincount(slot, minlength=grid * grid) for slot in flat.T]) / pictures

    @property
    def usage(self) -> Float[np.ndarray, " Q"]:
        """The share of pictures in which each query detects something."""
        usage: np.ndarray = self.sure.mean(0)
        return usage

    @property
    def moves(self) -> Float[np.ndarray, "N Q"]:
        """How far each box's centre moved from the start of its selected query, relative to the picture's diagonal."""
        assert self.starts_cxcywh is not None
        way = (self.boxes_cxcywh - self.starts_cxcywh)[..., :2] * self.sides[:, None]
        moves: np.ndarray = np.linalg.norm(way, axis=-1) / np.linalg.norm(self.sides, axis=-1)[:, None]
        return moves


def _overlaps(shares: Float[np.ndarray, "K cells"]) -> Float[np.ndarray, "K K"]:
    overlaps: np.ndarray = np.minimum(shares[:, None], shares[None]).sum(-1)
    return overlaps


def survey(detector: Detector, index: DatasetIndex, threshold: Threshold) -> Survey:
    """Run the model on every picture of a split.

    Raises:
        UserError: a picture cannot be read.
    """
    boxes, scores, sure, starts, sides = [], [], [], [], []
    concentrations, widenings, by_gradient = [], [], []
    model = detector.checkpoint.config.model
    detections: list[list[tuple[int, Detections]]] = [[] for _ in range(model.num_decoder_layers)]
    for number, seen in show_progress(_looks(detector, index), "looking", len(index)):
        boxes.append(seen.output.boxes_cxcywh[-1, 0].detach().float().cpu().numpy())
        best, labels = seen.scores().max(-1)
        scores.append(best.numpy())
        sure.append(reaches(best, labels, threshold).numpy())
        sides.append(seen.image.size)
        if seen.starts_cxcywh is not None:
            starts.append(seen.starts_cxcywh.float().cpu().numpy())
        found = seen.explained(threshold, at_most=len(boxes[-1]))
        if found.found:
            maps = seen.cross_maps(found.queries)
            covered = torch.tensor([side / whole for side, whole in zip(seen.image.size, seen.extent)] * 2)
            own = seen.output.boxes_cxcywh[-1, 0, found.queries].detach().float().cpu() * covered
            concentrations += [
                [[concentration(head, box) for head in layer] for layer in of_query]
                for of_query, box in zip(maps.permute(2, 0, 1, 3, 4), own)
            ]
            wide = [widening(maps.shape[-2:], box) for box in own]
            widenings += wide
            if seen.output.logits.requires_grad:
                weighted = seen.gradient_maps(found.queries, found.labels)
                by_gradient += [(concentration(of_query, box), w) for of_query, box, w in zip(weighted, own, wide)]
        for so_far, of_layer in zip(detections, _by_layer(seen, index.records[number].image_id)):
            so_far.append((number, of_layer))
    return Survey(
        np.stack(boxes),
        np.stack(scores),
        np.stack(starts) if starts else None,
        np.array(sides, dtype=float),
        np.array(concentrations).reshape(len(concentrations), len(detections), model.num_heads),
        np.array(widenings),
        np.array(by_gradient).reshape(-1, 2),
        [(metrics_of(index, layer), metrics_of(index, [(n, suppressed(d)) for n, d in layer])) for layer in detections],
        np.stack(sure),
        threshold,
    )


def suppressed(detections: Detections) -> Detections:
    """The answers after classic non-maximum suppression, class by class, to measure its effect."""
    boxes, scores, labels = detections.boxes_xyxy, detections.scores, detections.labels
    keep = batched_nms(boxes.float(), scores, labels, NMS_IOU)
    return replace(detections, boxes_xyxy=boxes[keep], scores=scores[keep], labels=labels[keep])


def _looks(detector: Detector, index: DatasetIndex) -> Iterator[tuple[int, Look]]:
    sample = set(np.linspace(0, len(index) - 1, GRADIENT_PICTURES).round().astype(int).tolist())
    for number, record in enumerate(index.records):
        image = read_image(record.path, white_level=detector.description.preprocessing.white_level)
        require_size(record, image.size, index)
        yield number, look(detector, image, gradients=number in sample)


def _by_layer(seen: Look, image_id: RawId) -> Iterator[Detections]:
    """The answers of each decoder layer, as if it were the last."""
    sizes = torch.tensor([[seen.image.height, seen.image.width]])
    batch = Batch(torch.zeros(1, 3, 1, 1), None, sizes, (image_id,))
    for layer in range(len(seen.output.logits)):
        output = DetrOutput(seen.output.logits[layer, None].detach(), seen.output.boxes_cxcywh[layer, None].detach())
        yield from postprocess(output, batch, seen.scoring, seen.label_map)
