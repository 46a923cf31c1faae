"""Boxes: formats, IoU and GIoU. Every function broadcasts, so one definition serves aligned and pairwise use.

Pairwise: `generalized_box_iou(boxes1[:, None], boxes2[None])`.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def cxcywh_to_xyxy(boxes: Shaped[Tensor, "... 4"]) -> Shaped[Tensor, "... 4"]:
    """Centre and size to corners, in the unit of the input."""
    centre, half_size = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half_size, centre + half_size], dim=-1)


def xyxy_to_cxcywh(boxes: Shaped[Tensor, "... 4"]) -> Shaped[Tensor, "... 4"]:
    """Corners to centre and size, in the unit of the input."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def clip_boxes(
    boxes_xyxy: Shaped[Tensor, "... 4"], size: tuple[int, int]
) -> tuple[Shaped[Tensor, "... 4"], Shaped[Tensor, "..."]]:
    """The boxes cut off at the edges of a picture of `size` (height, width), in pixels, and which have an area there.

    The others lie outside, are empty or not finite: pictures, crops and files leave them out.
    """
    height, width = size
    most = boxes_xyxy.new_tensor([width, height, width, height])
    clipped = boxes_xyxy.clamp(min=torch.zeros_like(most), max=most)
    return clipped, boxes_xyxy.isfinite().all(-1) & (clipped[..., 2:] > clipped[..., :2]).all(-1)


def box_iou(boxes1: Float[Tensor, "... 4"], boxes2: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """Intersection over union of xyxy boxes in one common unit; 0 where both are empty, finite for any input."""
    intersection, union, _ = _intersection_union_hull(boxes1, boxes2)
    return intersection / union


def generalized_box_iou(boxes1: Float[Tensor, "... 4"], boxes2: Float[Tensor, "... 4"]) -> Float[Tensor, "..."]:
    """GIoU of xyxy boxes in one common unit (Rezatofighi et al. 2019; DETR section 3.1 and appendix A.2).

    IoU minus the share of the smallest enclosing box that neither box covers; in -1..1.

    Differs from the official code: asserts nothing and is finite for any input, empty, reversed and infinite boxes
    included (tests/unit/test_boxes.py); equal to it wherever that is defined (tests/parity).
    """
    intersection, union, hull = _intersection_union_hull(boxes1, boxes2)
    return intersection / union - (hull - union) / hull


def _intersection_union_hull(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three areas per pair; union and hull are at least `smallest`, so that both can divide."""
    ax1, ay1, ax2, ay2 = _corners(boxes1)
    bx1, by1, bx2, by2 = _corners(boxes2)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    area1 = (ax2 - ax1).clamp(min=0) * (ay2 - ay1).clamp(min=0)
    area2 = (bx2 - bx1).clamp(min=0) * (by2 - by1).clamp(min=0)
    hull_width = (torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)).clamp(min=0)
    hull_height = (torch.maximum(ay2, by2) - torch.minimum(ay1, by1)).clamp(min=0)
    # Far below the area of any real box (a millionth of a picture's side, squared, is 1e-12), far above underflow.
    smallest = 1e-20
    union = (area1 + area2 - intersection).clamp(min=smallest)
    return intersection, union, torch.maximum((hull_width * hull_height).clamp(min=smallest), union)


def _corners(boxes: Tensor) -> tuple[Tensor, ...]:
    """x1, y1, x2 and y2, each contiguous: pairwise arithmetic takes half the time.

    A diverging model's NaN and infinity become numbers whose products stay finite in float32.
    """
    finite = torch.nan_to_num(boxes, nan=0.0, posinf=1e9, neginf=-1e9).clamp(-1e9, 1e9)
    return finite.movedim(-1, 0).contiguous().unbind()
