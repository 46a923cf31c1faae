"""Tiled detection of large pictures: cut into overlapping tiles, detect in each, merge the detections.

A tile reports the part of an object that it sees. So two detections of different tiles are one object if they have the
same class and agree where both tiles look: clipped to what the tiles share, their boxes coincide. This one rule covers
an object that both see whole, a fragment of an object that the other sees whole, and two fragments of an object that
neither sees whole. Within a tile nothing is suppressed: tiles are matched one to one, as DETR matches queries and
targets, and an object takes at most one detection of each tile.
"""

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opendetr.boxes import box_iou
from opendetr.errors import UserError
from opendetr.structures import Detections

SAME_OBJECT = 0.4  # the lowest IoU, in the area of both tiles, of two detections of one object
PART_OF_OBJECT = 0.8  # the smallest share of a fragment's area that the box of its object covers
WITHOUT_END = torch.tensor([-math.inf, -math.inf, math.inf, math.inf])


class Tile(NamedTuple):
    """A part of a picture, in pixels of the picture."""

    top: int
    left: int
    height: int
    width: int


def tile_boxes(height: int, width: int, tile: int, overlap: float) -> list[Tile]:
    """Cut a picture into the fewest tiles of equal size that overlap enough, evenly spread, row by row.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        tile: side of a tile, in pixels; where the picture is shorter, tiles are as long as the picture.
        overlap: smallest overlap of neighbouring tiles, as a share of `tile`.

    Raises:
        UserError: `tile` is below 1, or `overlap` is not in 0..1 or leaves no pixel from one tile to the next.
    """
    if tile < 1:
        raise UserError(f"--tile must be at least 1 pixel, got {tile}")
    if not 0 <= overlap < 1:  # written so that NaN is refused too
        raise UserError(f"--overlap must be at least 0 and below 1, got {overlap}")
    step = tile - math.ceil(tile * overlap)
    if step < 1:
        raise UserError(f"--overlap must leave a pixel from one tile of {tile} pixels to the next, got {overlap}")

    def starts(length: int) -> list[int]:
        rest = max(0, length - tile)
        steps = -(-rest // step)  # rounded up
        return [rest * number // steps for number in range(steps + 1)] if steps else [0]

    size = min(tile, height), min(tile, width)
    return [Tile(top, left, *size) for top in starts(height) for left in starts(width)]


def merge_tiles(found: list[Detections], tiles: list[Tile], image_size: tuple[int, int]) -> Detections:
    """Merge the detections of all tiles so that every object is there once.

    An object gets the highest score that a tile gives it, and the box of the tile that sees it whole and farthest from
    the tile's edges; where no tile does, the box around all its fragments. What a box guesses beyond its tile is cut
    off, because another tile looks there; at the border of the picture boxes stay as they are.

    Args:
        found: the detections of every tile, in pixels of that tile.
        tiles: where the tiles lie, in the same order; at least one.
        image_size: height and width of the picture, in pixels.

    Returns:
        The objects by score, descending, in pixels of the picture; equal scores stay in the order of `found`. Label
        map, image id and file name are those of the first tile's detections.

    Raises:
        ValueError: there are not as many detections as tiles.
    """
    views = [_View.of(part, tile, image_size) for part, tile in zip(found, tiles, strict=True)]
    tile_of = [number for number, part in enumerate(found) for _ in range(len(part))]
    boxes = torch.cat([view.boxes for view in views])
    scores, labels = torch.cat([part.scores for part in found]), torch.cat([part.labels for part in found])
    keep = torch.ones(len(scores), dtype=torch.bool)
    for group in _groups(_links(views), tile_of):
        boxes[group[0]] = _object_box(boxes[group], [views[tile_of[member]] for member in group])
        scores[group[0]] = scores[group].max()
        keep[group[1:]] = False
    order = scores.argsort(descending=True, stable=True)
    order = order[keep[order]]
    return replace(found[0], boxes_xyxy=boxes[order], scores=scores[order], labels=labels[order], image_size=image_size)


@dataclass(frozen=True)
class _View:
    """The detections of one tile, in pixels of the picture."""

    boxes: Float[Tensor, "N 4"]
    open_boxes: Float[Tensor, "N 4"]  # the same, without end on the sides where the tile cuts the object
    fragments: Bool[Tensor, " N"]  # whether it cuts any
    scores: Float[Tensor, " N"]
    labels: Int[Tensor, " N"]
    area: Float[Tensor, " 4"]  # the tile
    edges: Float[Tensor, " 4"]  # the tile, without end where the picture ends
    slack: float  # how far, in pixels, a side may be off

    @classmethod
    def of(cls, found: Detections, tile: Tile, image_size: tuple[int, int]) -> "_View":
        area = torch.tensor([tile.left, tile.top, tile.left + tile.width, tile.top + tile.height]).float()
        inner = [area[0] > 0, area[1] > 0, area[2] < image_size[1], area[3] < image_size[0]]
        edges = torch.where(torch.stack(inner), area, WITHOUT_END)
        boxes = _clip(found.boxes_xyxy + area[:2].repeat(2), edges)
        slack = max(4.0, 0.01 * max(tile.height, tile.width))
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        cut = (boxes - edges).abs() <= (0.05 * sides).clamp(min=slack)
        return cls(
            boxes, torch.where(cut, WITHOUT_END, boxes), cut.any(1), found.scores, found.labels, area, edges, slack
        )


def _links(views: list[_View]) -> list[tuple[int, int, float]]:
    """Pairs of detections of one object, for all pairs of tiles.

    Returns:
        Pairs of detections, numbered through all tiles, and the evidence for each, as `_same_objects` counts it.
    """
    links = []
    first = [0, *accumulate(len(view.boxes) for view in views)]
    areas = torch.stack([view.area for view in views])
    for number, view in enumerate(views):
        # A little more than the tiles share, so that slivers at an edge, and fragments that only meet at an edge, have
        # an area in which they can be compared.
        lows = torch.maximum(areas[:, :2], view.area[:2]) - view.slack
        highs = torch.minimum(areas[:, 2:], view.area[2:]) + view.slack
        for other in (lows < highs).all(1).nonzero()[:, 0].tolist():
            if other > number:
                pairs = _same_objects(view, views[other], torch.cat([lows[other], highs[other]]))
                links += [(first[number] + row, first[other] + column, much) for row, column, much in pairs]
    return links


def _same_objects(one: _View, other: _View, window: Float[Tensor, " 4"]) -> list[tuple[int, int, float]]:
    """Match the detections of two tiles one to one where they agree.

    Returns:
        Of every pair its two indices and the evidence for it: the area inside `window` that both boxes cover, in square
        pixels, times how much more alike they are than either is to a rival.
    """
    # Where a side is cut, the tile cannot tell where the object ends, only that it goes on.
    rows, columns = _clip(one.open_boxes, window), _clip(other.open_boxes, window)
    likeness = box_iou(rows[:, None], columns[None])
    likeness = torch.maximum(likeness, SAME_OBJECT * (_lies_in(one, other) | _lies_in(other, one).T))
    likeness[(likeness < SAME_OBJECT) | (one.labels[:, None] != other.labels[None])] = 0
    if not likeness.any():
        return []
    from scipy.optimize import linear_sum_assignment  # takes half a second, which few detectors need

    # Sure detections choose first: with a low threshold there are unsure ones near them.
    sure = likeness * (one.scores[:, None] * other.scores[None]).sqrt()
    i, j = map(torch.from_numpy, linear_sum_assignment(sure.numpy(), maximize=True))
    both, chosen = _clip(rows[i], columns[j]), likeness[i, j]
    likeness[i, j] = 0  # what is left are the rivals
    rival = torch.maximum(likeness[i].amax(1), likeness[:, j].amax(0))
    evidence = (both[:, 2:] - both[:, :2]).prod(1) * (chosen - rival)
    real = chosen > 0
    return list(zip(i[real].tolist(), j[real].tolist(), evidence[real].tolist()))


def _lies_in(one: _View, other: _View) -> Bool[Tensor, "N M"]:
    """Whether a fragment of `one` lies in a box of `other`, and so may be a part of its object.

    Where an object does not fill its box (a wing of an airplane), its fragment has a smaller box than that part of the
    whole box, and clipping does not make them alike.
    """
    fragments, boxes = one.boxes[:, None], other.boxes + other.slack * WITHOUT_END.sign()
    return (box_iou(_clip(fragments, boxes), fragments) >= PART_OF_OBJECT) & one.fragments[:, None]


def _groups(links: list[tuple[int, int, float]], tile_of: list[int]) -> list[list[int]]:
    """Numbers of the detections of every object that several tiles see, ascending, at most one of each tile.

    Where links contradict each other, the evidence decides: objects that fill the overlap of two tiles look alike
    there, and other tiles know better which is which.
    """
    group_of: dict[int, list[int]] = {}
    for one, other, _ in sorted(links, key=lambda link: -link[2]):
        group, joining = group_of.setdefault(one, [one]), group_of.setdefault(other, [other])
        if {tile_of[member] for member in group}.isdisjoint(tile_of[member] for member in joining):
            group += joining
            group_of.update((member, group) for member in joining)
    return [sorted(group) for group in {id(group): group for group in group_of.values()}.values()]


def _object_box(boxes: Float[Tensor, "N 4"], views: list[_View]) -> Float[Tensor, " 4"]:
    """The box of an object from its detections in several tiles."""
    around = torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])
    edges = torch.stack([view.edges for view in views])
    room = torch.cat([around[:2] - edges[:, :2], edges[:, 2:] - around[2:]], dim=1).amin(1)
    best = int(room.argmax())
    return boxes[best] if room[best] > views[best].slack else around


def _clip(boxes: Float[Tensor, "*B 4"], area: Float[Tensor, "*A 4"]) -> Float[Tensor, "*C 4"]:
    """The parts of boxes inside `area`; an empty box at its edge where there is none."""
    return torch.minimum(torch.maximum(boxes, area[..., [0, 1, 0, 1]]), area[..., [2, 3, 2, 3]])
