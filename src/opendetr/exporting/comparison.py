"""Differences between the outputs of an engine and of PyTorch: for every query, and for the answers users get."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.checkpoints.native import Checkpoint
from opendetr.model.postprocess import answers
from opendetr.model.selection import SelectedQueries
from opendetr.scoring import Scoring
from opendetr.structures import DetrOutput

THRESHOLD = 0.5  # of the detections that must agree
LEAST_ANSWERS = 5  # best answers of a picture, compared whatever their scores: detections may be few
TIE = 1e-5  # the order of scores closer than this depends on rounding


@dataclass(frozen=True)
class Bounds:
    """Largest allowed differences of an export to its model. Where None, the difference is measured and not judged."""

    logits: float | None
    boxes: float | None  # of cxcywh in 0..1, of every query
    answer_boxes: float | None  # of xyxy in 0..1, of the answers that agree
    attention: float | None  # of weights in 0..1
    score: float  # of an answer
    iou: float  # of an answer's boxes, at least
    agreement: float  # the share of answers that must have a partner
    ap: float  # lost on the user's data, 0..1


BOUNDS = {
    "fp32": Bounds(1e-3, 1e-4, 1e-3, 1e-3, 1e-3, 0.99, 1.0, 0.0005),
    "bf16": Bounds(None, None, 0.05, None, 0.1, 0.8, 0.9, 0.005),
    "int8": Bounds(None, None, None, None, 0.2, 0.7, 0.5, 0.005),
}


class FinalAnswers(NamedTuple):
    """The output of post-processing for a batch: N answers for each picture."""

    scores: Float[Tensor, "B N"]
    labels: Int[Tensor, "B N"]
    boxes_xyxy: Float[Tensor, "B N 4"]  # 0..1

    @classmethod
    def of(cls, output: DetrOutput, scoring: Scoring) -> "FinalAnswers":
        """By PyTorch's post-processing."""
        scores, labels, boxes = answers(output, scoring)
        return cls(scores, labels, cxcywh_to_xyxy(boxes))


@dataclass(frozen=True)
class Comparison:
    """Pictures in the engine and in PyTorch."""

    batch: int
    height: int  # of the model's input, in pixels
    width: int
    padded: bool  # pictures of several shapes in one batch
    logits: float  # the largest difference
    boxes: float  # the largest difference
    answer_boxes: float  # the largest difference of answers that agree
    pictures: int
    answers: int  # of both sides: with a score of at least 0.5, or else the best of each picture
    agreeing: int
    undecided: int  # pictures whose selected queries depend on rounding: left out

    @property
    def where(self) -> str:
        """Which pictures, in words."""
        return f"batch {self.batch} at {self.height}x{self.width}{' with padding' if self.padded else ''}"


def compare(
    checkpoint: Checkpoint,
    expected: Sequence[DetrOutput],
    found: Sequence[tuple[DetrOutput, FinalAnswers]],
    size: tuple[int, int],
    bounds: Bounds,
    *,
    batch: int,
    padded: bool = False,
) -> Comparison:
    """Compare PyTorch's outputs with an engine's outputs and answers, picture by picture.

    `size` is height and width of the model's input, `batch` the number of pictures in the engine's batches.
    """
    selects = isinstance(checkpoint.model.query_embed, SelectedQueries)
    logits = boxes = answer_boxes = 0.0
    counted = agreeing = undecided = 0
    for truth, (output, said) in zip(expected, found, strict=True):
        of_logits, of_boxes = largest_differences(truth, output, paired=selects)
        within = of_logits <= (bounds.logits or of_logits) and of_boxes <= (bounds.boxes or of_boxes)
        finite = max(of_logits, of_boxes) < float("inf") and all(part.isfinite().all() for part in said)
        if not within and finite and selects and depends_on_rounding(truth, checkpoint):
            undecided += 1  # PyTorch with another number of threads would differ as well
            continue
        logits, boxes = max(logits, of_logits), max(boxes, of_boxes)
        count, agree, apart = _agreement(FinalAnswers.of(truth, checkpoint.model.scoring), said, bounds)
        counted, agreeing, answer_boxes = counted + count, agreeing + agree, max(answer_boxes, apart)
    return Comparison(
        batch, *size, padded, logits, boxes, answer_boxes, len(expected), counted, agreeing, undecided
    )  # fmt: skip


def largest_differences(expected: DetrOutput, found: DetrOutput, *, paired: bool) -> tuple[float, float]:
    """The largest differences of the last layer's logits and boxes; infinite for other shapes, NaN or infinity.

    The order of selected queries depends on rounding; `paired` first pairs them by their output.
    """
    reference, other = _queries(expected), _queries(found)
    if reference.shape != other.shape or not torch.isfinite(other).all():
        return float("inf"), float("inf")
    if paired:
        other = torch.stack([said[order] for said, order in zip(other, pair_queries(expected, found))])
    difference = (reference - other).abs().amax((0, 1))
    return float(difference[:-4].max()), float(difference[-4:].max())


def pair_queries(expected: DetrOutput, found: DetrOutput) -> list[Int[Tensor, " Q"]]:
    """For every picture the order of the queries of `found` in which they are most like those of `expected`."""
    from scipy.optimize import linear_sum_assignment  # takes 35 MB and half a second, which a Detector does not need

    pairs = (torch.cdist(*both, p=1).numpy() for both in zip(_queries(expected), _queries(found)))
    return [torch.from_numpy(linear_sum_assignment(costs)[1]) for costs in pairs]


def _queries(output: DetrOutput) -> Float[Tensor, "B Q K4"]:
    return torch.cat([output.logits[-1], output.boxes_cxcywh[-1]], -1).float().cpu()


def depends_on_rounding(output: DetrOutput, checkpoint: Checkpoint) -> bool:
    """Whether rounding decides the order of the selected cells, or which is the last of them."""
    assert output.proposals is not None
    promise = output.proposals.logits[0, 0].amax(-1)
    best = promise.topk(min(checkpoint.config.model.num_queries + 1, len(promise))).values
    return bool((best.diff().abs() < TIE).any())


def _agreement(truth: FinalAnswers, said: FinalAnswers, bounds: Bounds) -> tuple[int, int, float]:
    """Number of answers of both sides, of those with a partner, and the largest difference of partners' boxes."""
    from scipy.optimize import linear_sum_assignment

    scores, labels, boxes = (part[0].float().cpu() for part in truth)
    other_scores, other_labels, other_boxes = (part[0].float().cpu() for part in said)
    best = scores.topk(min(LEAST_ANSWERS, len(scores))).values
    threshold = min(THRESHOLD, float(best[-1]))
    counts = (scores >= threshold)[:, None].float() + (other_scores >= threshold)[None]  # of a pair
    count = int((scores >= threshold).sum()) + int((other_scores >= threshold).sum())
    if not (torch.isfinite(other_scores).all() and torch.isfinite(other_boxes).all()):
        return count, 0, float("inf")
    counts *= box_iou(boxes[:, None], other_boxes[None]) >= bounds.iou
    counts *= labels[:, None] == other_labels[None]
    counts *= (scores[:, None] - other_scores[None]).abs() <= bounds.score
    apart = (boxes[:, None] - other_boxes[None]).abs().amax(-1)
    rows, columns = linear_sum_assignment(counts * (10 - apart), maximize=True)  # as many as fit, the nearest of them
    met = counts[rows, columns]
    return count, int(met.sum()), float(apart[rows, columns][met > 0].max()) if met.any() else 0.0
