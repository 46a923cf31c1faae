"""The parts of `opendetr explain`: a picture, a picture's matching, all queries over a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from opendetr.boxes import box_iou, xyxy_to_cxcywh
from opendetr.data.check import require_size
from opendetr.data.datasets import DatasetIndex, Record
from opendetr.data.images import read_image
from opendetr.errors import UserError
from opendetr.evaluation.report import metric_in_words
from opendetr.explanation import figures
from opendetr.explanation.folder import Folder
from opendetr.explanation.look import Explained, Look, look
from opendetr.explanation.matching import Candidate, ObjectMatch, explain_matching
from opendetr.explanation.slots import Survey, survey
from opendetr.inference.detector import Detector
from opendetr.loss.matcher import CostWeights
from opendetr.progress import console
from opendetr.structures import DetrOutput, Target

MOST_POINTS = 4  # chosen on detected objects where none are given


@dataclass(frozen=True)
class Asked:
    """The options of the user; layers and heads count from 1, 0 is the last layer and the mean of the heads."""

    threshold: float
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
    explained = seen.explained(asked.threshold, asked.at_most)
    folder.heading(name)
    folder.words(_summary(explained, asked.threshold))
    layers = range(len(seen.output.logits))
    arrays: dict[str, Any] = {
        "queries": explained.queries, "labels": explained.labels, "scores": explained.scores,
        "boxes_xyxy_by_layer": torch.stack([seen.boxes_xyxy(layer) for layer in layers]),
        "scores_by_layer": torch.stack([seen.scores(layer) for layer in layers]),
        "starts_xyxy": None if seen.starts_cxcywh is None else seen.in_pixels(seen.starts_cxcywh),
        "map_extent": seen.extent,
    }  # fmt: skip
    if seen.captured.encoder:
        points = asked.points or _points_on(seen, explained)
        maps = seen.encoder_maps(points)
        arrays |= {"points": points, "encoder_attention": maps}
        shown, what = asked.of(maps)
        caption = "Self-attention of the encoder: the cell at each point attends to the bright cells."
        folder.figure(f"{name}-encoder", figures.encoder_figure(seen, points, shown, what), caption)
    else:
        folder.words("The model has no encoder: there is no self-attention of the picture.")
    cross = seen.cross_maps(explained.queries)
    shown, what = asked.of(cross)
    caption = "Cross-attention of the decoder: each detection attends to the cells in its colour."
    folder.figure(f"{name}-decoder", figures.decoder_figure(seen, explained, shown, what), caption)
    variants = {
        f"attention, {what}": shown,
        "rollout": seen.rollout_maps(explained.queries),
        "by gradient": seen.gradient_maps(explained.queries, explained.labels),
    }
    caption = (
        "Attention of one layer; rollout through all layers (Abnar and Zuidema 2020); attention weighted by the "
        "gradient of the detection's class score, through all layers (Chefer et al. 2021)."
    )
    folder.figure(f"{name}-variants", figures.variants_figure(seen, explained, variants), caption)
    between = seen.self_attention()
    shown, what = asked.of(between)
    caption = "Self-attention between queries: detections, and queries without a detection that have the same box."
    drawn = figures.queries_figure(seen, explained, shown, _rivals(seen, explained, asked.threshold), what)
    folder.figure(f"{name}-queries", drawn, caption)
    caption = "The box and the score of every detection after each decoder layer."
    folder.figure(f"{name}-layers", figures.layers_figure(seen, explained), caption)
    arrays |= {"cross_attention": cross, "self_attention": between}
    folder.arrays(name, arrays | {"rollout": variants["rollout"], "gradient": variants["by gradient"]})


def explain_image_matching(
    folder: Folder, detector: Detector, index: DatasetIndex, record: Record, threshold: float
) -> list[ObjectMatch]:
    """Which query is matched to which true object of a picture, and why objects were missed."""
    image = read_image(record.path)
    require_size(record, image.size, index)
    seen = look(detector, image)
    loss = detector.checkpoint.config.loss
    costs = CostWeights(loss.class_cost, loss.l1_cost, loss.giou_cost)
    names = detector.checkpoint.label_map.names
    on_cpu = DetrOutput(seen.output.logits.cpu(), seen.output.boxes_cxcywh.cpu())
    matches = explain_matching(on_cpu, _target_of(record), seen.scoring, costs, names, threshold)
    missed = sum(found.reason is not None for found in matches)
    name = f"{record.path.stem}-matching"
    folder.heading(f"{record.path.name} (image {record.image_id})")
    folder.words(f"{len(matches)} true objects, {missed} missed at the threshold of {threshold:g}.")
    folder.figure(name, figures.matching_figure(seen, matches), "True objects and the queries matched to them.")
    rows = []
    for number, found in enumerate(matches, start=1):
        own = found.taken_by
        cells = ["none", "-", "-"] if own is None else [
            str(own.query), f"'{own.answer}' {own.score:.2f}, IoU {own.iou:.2f}",
            f"{own.class_cost:.2f} + {own.l1_cost:.2f} + {own.giou_cost:.2f} = {own.cost:.2f}",
        ]  # fmt: skip
        others = ", ".join(f"{other.query} ({other.cost:.2f})" for other in found.runners_up)
        rows.append([f"{number} {found.name}", *cells, others, found.sentence])
    header = ["object", "query", "its answer", "class + L1 + GIoU cost", "runners-up (cost)", "outcome"]
    folder.table(header, rows)
    arrays = {
        "names": [found.name for found in matches],
        "boxes_cxcywh": [found.box_cxcywh for found in matches],
        "queries": [-1 if found.taken_by is None else found.taken_by.query for found in matches],
        "costs": [_costs(found.taken_by) for found in matches],
        "runners_up": [[other.query for other in found.runners_up] for found in matches],
        "runners_up_costs": [[_costs(other) for other in found.runners_up] for found in matches],
        "reasons": ["" if found.reason is None else found.reason.name for found in matches],
        "sentences": [found.sentence for found in matches],
    }
    folder.arrays(name, arrays)
    return matches


def explain_slots(folder: Folder, detector: Detector, index: DatasetIndex, threshold: float) -> None:
    """What every query does over a split: slots, usage, layers, and attention around the boxes."""
    found = survey(detector, index, threshold)
    folder.heading(f"{len(index)} pictures of {index.source}")
    if found.starts_cxcywh is None:
        shown = f"The {min(figures.MOST_SLOTS, len(found.usage))} busiest of {len(found.usage)} queries"
        caption = f"{shown}, their boxes over the data set: the paper's figure 7. A specialist's points lie together."
        folder.figure("slots", figures.slots_figure(found), caption)
        caption = (
            "The overlap of the places of two queries' boxes. Two queries with equal boxes would show "
            f"{found.chance_overlap:.2f} over so many pictures, specialists 0."
        )
        folder.figure("slots-overlap", figures.overlap_figure(found), caption)
        overlaps = found.specialisation - np.eye(len(found.usage))
        rows = [
            [str(query), f"{usage:.0%} of the pictures", f"{others.max():.2f} (query {others.argmax()})"]
            for query, (usage, others) in enumerate(zip(found.usage, overlaps))
        ]
        folder.table(["query", "detects something in", "overlap with the nearest other slot"], rows)
    else:
        folder.words(
            "The queries of this model have no fixed role: each picture's cells with the highest scores become its "
            "queries. So there are no slots; the figure shows where queries start and how far they move."
        )
        caption = "Selected queries: the proposals they start from, and how far their boxes move in the decoder."
        folder.figure("starts", figures.starts_figure(found), caption)
    caption = "AP if the decoder ended after a layer. NMS (for comparison only) helps where queries give duplicates."
    folder.figure("decoder-layers", figures.layers_ap_figure(found), caption)
    rows = [
        [str(layer), *(metric_in_words(metrics.summary[key]) for key in ("AP", "AP50") for metrics in both)]
        for layer, both in enumerate(found.layers, start=1)
    ]
    folder.table(["decoder layer", "AP", "AP with NMS", "AP50", "AP50 with NMS"], rows)
    if len(found.concentrations):
        _concentration_table(folder, found)
    arrays = {
        "boxes_cxcywh": found.boxes_cxcywh, "scores": found.scores, "starts_cxcywh": found.starts_cxcywh,
        "concentrations": found.concentrations, "widenings": found.widenings, "by_gradient": found.by_gradient,
    }  # fmt: skip
    if found.starts_cxcywh is None:  # only learned queries are the same in every picture
        arrays |= {"usage": found.usage, "overlap": found.specialisation}
    folder.arrays("slots", arrays)


def _concentration_table(folder: Folder, found: Survey) -> None:
    """The concentration of attention around boxes: medians over detections."""
    everywhere, around = found.concentrations, found.widenings
    gradient, wide = found.by_gradient.T
    even = np.median(around)
    folder.words(
        f"Attention around detections: the share of a map within a box widened by one cell on every side, over that "
        f"widened box's share of the area (1 for evenly spread attention), and over the box's own share ({even:.2f} "
        f"for evenly spread attention, the boxes being small). Medians over {len(everywhere)} detections with a "
        f"score from {found.threshold:g} on; by gradient over {len(gradient)} of them, from a sample of pictures."
    )
    by_layer = everywhere.mean(-1)
    rows = [
        [f"layer {number}", *(f"{value:.2f}" for value in np.median(heads, axis=0)), *_medians(heads.mean(-1), around)]
        for number, heads in enumerate(everywhere.swapaxes(0, 1), start=1)
    ]
    none = ["-"] * everywhere.shape[-1]
    rows.append(["mean of layers", *none, *_medians(by_layer.mean(-1), around)])
    if len(gradient):
        rows.append(["by gradient, all layers", *none, *_medians(gradient, wide)])
    heads = (f"head {number}" for number in range(1, everywhere.shape[-1] + 1))
    folder.table(["decoder attention", *heads, "mean of heads", "over the box's own share"], rows)


def _medians(concentrations: np.ndarray, widenings: np.ndarray) -> list[str]:
    return [f"{np.median(concentrations):.2f}", f"{np.median(concentrations * widenings):.2f}"]


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


def _summary(explained: Explained, threshold: float) -> str:
    shown, found, names = len(explained), explained.found, ", ".join(explained.titles)
    if found > shown:
        left_out = f"{found - shown} more are left out (--at-most)."
        return f"Explained are the {shown} best of {found} detections: {names}. {left_out}"
    if found:
        return f"Explained: {names}."
    return f"No answer reaches the threshold of {threshold:g}; explained are the {shown} best: {names}."


def _points_on(seen: Look, explained: Explained) -> list[tuple[float, float]]:
    """The centres of the first detections, within the picture."""
    boxes = seen.boxes_xyxy()[explained.queries[:MOST_POINTS]]
    width, height = seen.image.size
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return [(min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)) for x, y in centres.tolist()]


def _rivals(seen: Look, explained: Explained, threshold: float) -> list[int]:
    """For each detection the query without a detection whose box overlaps its own most."""
    boxes = seen.boxes_xyxy()
    overlaps = box_iou(boxes[explained.queries][:, None], boxes[None])
    overlaps[:, explained.queries] = -1
    overlaps[:, seen.scores().amax(-1) >= threshold] = -1
    return [int(query) for row, query in zip(overlaps, overlaps.argmax(1)) if float(row[query]) > 0]


def _costs(candidate: Candidate | None) -> list[float]:
    """Class, L1 and GIoU."""
    return [np.nan] * 3 if candidate is None else [candidate.class_cost, candidate.l1_cost, candidate.giou_cost]


def _target_of(record: Record) -> Target:
    size = torch.tensor([record.width, record.height, record.width, record.height], dtype=torch.float32)
    return Target(torch.from_numpy(record.labels), xyxy_to_cxcywh(torch.from_numpy(record.boxes_xyxy).float() / size))
