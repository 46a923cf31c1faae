"""The certificate: an exported model says what PyTorch says, on real pictures, whatever their number and shape."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageOps
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.boxes import box_iou, cxcywh_to_xyxy
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.datasets import DatasetIndex
from opendetr.data.digits import photographs
from opendetr.data.images import read_image
from opendetr.devices import describe_machine
from opendetr.engines.engine import Engine, TorchEngine
from opendetr.engines.graph_engines import describe_engine
from opendetr.evaluation.runner import evaluate_split
from opendetr.model.queries import SelectedQueries
from opendetr.progress import track
from opendetr.structures import DetrOutput

BATCHES = (1, 2, 8)
FRAMES = ((480, 480), (480, 640), (640, 360))  # height and width before preprocessing: three aspect ratios
THRESHOLD = 0.5  # of the detections that must agree
TIE = 1e-5  # scores so near each other rank by the last bit of the arithmetic


@dataclass(frozen=True)
class Bounds:
    """How far an export may be from the model it was made of. What is None is measured and not judged."""

    logits: float | None
    boxes: float | None  # of cxcywh in 0..1
    score: float  # of a detection
    iou: float  # of a detection's boxes, at least
    agreement: float  # the share of detections that must have a partner
    ap: float  # lost on the user's data, 0..1


BOUNDS = {
    "fp32": Bounds(1e-3, 1e-4, 1e-3, 0.99, 1.0, 0.0005),
    "bf16": Bounds(None, None, 0.1, 0.8, 0.9, 0.005),
    "int8": Bounds(None, None, 0.2, 0.7, 0.0, 0.005),
}


class Comparison(NamedTuple):
    """One batch, both ways."""

    batch: int
    height: int  # of the model's input, in pixels
    width: int
    padded: bool  # pictures of several shapes in one batch
    logits: float  # the largest difference
    boxes: float  # the largest difference
    detections: int
    agreeing: int
    passed_over: int  # pictures whose choice of queries hangs on the last bit


@dataclass(frozen=True)
class Certificate:
    """What was compared with what, how far they differ, and whether that is within the bounds."""

    engine: str
    precision: str
    against: str
    machine: str
    date: str
    pictures: str
    bounds: Bounds
    comparisons: list[Comparison] = field(default_factory=list)
    ap: dict[str, float] | None = None  # of both, and on how many pictures

    def problems(self) -> list[str]:
        """Why it does not hold, in words; empty where it holds."""
        found = []
        for row in self.comparisons:
            where = f"batch {row.batch} at {row.height}x{row.width}{' with padding' if row.padded else ''}"
            for name, limit in (("logits", self.bounds.logits), ("boxes", self.bounds.boxes)):
                if limit is not None and not getattr(row, name) <= limit:
                    found.append(f"{name} differ by {getattr(row, name):.2g} in {where}, {limit:.2g} is allowed")
        detections, agreeing = self.detections
        if detections and agreeing / detections < self.bounds.agreement:
            found.append(f"{agreeing} of {detections} detections agree, {self.bounds.agreement:.0%} are needed")
        if self.ap is not None and self.ap["torch"] - self.ap["engine"] > self.bounds.ap:
            lost = self.ap["torch"] - self.ap["engine"]
            found.append(f"AP falls by {lost:.4f} (from {self.ap['torch']:.4f}), {self.bounds.ap} is allowed")
        return found

    @property
    def detections(self) -> tuple[int, int]:
        """How many there are at a score of 0.5, and how many of them agree."""
        return sum(row.detections for row in self.comparisons), sum(row.agreeing for row in self.comparisons)

    def summary(self) -> str:
        """One sentence."""
        detections, agreeing = self.detections
        said = (
            f"{self.engine} {self.precision} against {self.against} on {self.pictures}, batches of "
            f"{', '.join(map(str, BATCHES))} at three aspect ratios and one with padding: logits within "
            f"{max(row.logits for row in self.comparisons):.1g}, boxes within "
            f"{max(row.boxes for row in self.comparisons):.1g}, {agreeing} of {detections} detections agree"
        )
        if self.ap is not None:
            ap, before, count = (self.ap[name] for name in ("engine", "torch", "pictures"))
            said += f"; AP {ap:.4f} instead of {before:.4f} on {count:.0f} pictures"
        return said

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {
            "comparisons": [row._asdict() for row in self.comparisons], "holds": not self.problems(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Certificate":
        """The inverse of `to_json`."""
        values = {key: value for key, value in values.items() if key != "holds"}
        return cls(**{
            **values, "bounds": Bounds(**values["bounds"]),
            "comparisons": [Comparison(**row) for row in values["comparisons"]],
        })  # fmt: skip


def certify(engine: Engine, checkpoint: Checkpoint, index: DatasetIndex | None) -> Certificate:
    """Compare an engine with PyTorch in fp32.

    Args:
        engine: of the exported model.
        checkpoint: the model it was made of.
        index: a split of the user's data, for its pictures and AP; without it, two photographs and no AP.

    Raises:
        UserError: a picture cannot be read; or there is no split and scikit-learn, whose photographs they are, is
            missing.
    """
    reference = TorchEngine.prepared(checkpoint.model, torch.device("cpu"), "fp32")
    images, called = _pictures(index)
    selects = isinstance(checkpoint.model.query_embed, SelectedQueries)
    bounds = BOUNDS[engine.precision]
    comparisons, mixed = [], []
    for frame in track(FRAMES, f"comparing {engine.name} with torch", len(FRAMES)):
        looks = [_prepare(checkpoint, image, frame) for image in images]
        alone = [reference(look[None]) for look in looks]
        mixed.append(looks[0])
        for size in BATCHES:
            found = engine(torch.stack(looks[:size]))
            comparisons.append(_compare(checkpoint, alone[:size], _split(found), looks[0], selects, bounds))
    stacked, mask = _pad(mixed)
    both = _split(reference(stacked, mask)), _split(engine(stacked, mask))
    comparisons.append(_compare(checkpoint, *both, stacked[0], selects, bounds)._replace(padded=True))
    ap = None
    if index is not None:
        described = checkpoint.description
        measured = {"torch": reference, "engine": engine}
        ap = {name: evaluate_split(run, described, index).summary["AP"] for name, run in measured.items()}
        ap["pictures"] = float(len(index))
    return Certificate(
        describe_engine(engine.name), engine.precision, f"{describe_engine('torch')} fp32", describe_machine(),
        date.today().isoformat(), called, bounds, comparisons, ap,
    )  # fmt: skip


def _pictures(index: DatasetIndex | None) -> tuple[list[Image.Image], str]:
    """Eight pictures and what they are called; fewer are shown again."""
    if index is None:
        photos = photographs()
        width, height = photos[0].size
        left, right, upper = (0, 0, width // 2, height), (width // 2, 0, width, height), (0, 0, width, height // 2)
        parts = ((0, 0, width, height), left, right, upper)
        return [photo.crop(part) for part in parts for photo in photos], "two photographs"
    found = [read_image(record.path) for record in index.records[: BATCHES[-1]]]
    return (found * BATCHES[-1])[: BATCHES[-1]], f"{len(found)} pictures of {index.source}"


def _prepare(checkpoint: Checkpoint, image: Image.Image, frame: tuple[int, int]) -> Tensor:
    """The model's input of a picture cut to the frame's height and width."""
    cut = ImageOps.fit(image, (frame[1], frame[0]))
    tensor: Tensor = checkpoint.preprocessing.transform()(tv_tensors.Image(v2.functional.pil_to_tensor(cut)))
    return tensor.as_subclass(Tensor)


def _pad(looks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One batch of several shapes, and its padding mask."""
    height, width = (max(look.shape[side] for look in looks) for side in (1, 2))
    stacked, mask = torch.zeros(len(looks), 3, height, width), torch.ones(len(looks), height, width, dtype=torch.bool)
    for row, look in enumerate(looks):
        stacked[row, :, : look.shape[1], : look.shape[2]] = look
        mask[row, : look.shape[1], : look.shape[2]] = False
    return stacked, mask


def _split(output: DetrOutput) -> list[DetrOutput]:
    """The pictures of a batch one by one."""
    proposals = [None] * output.logits.shape[1] if output.proposals is None else _split(output.proposals)
    return [
        DetrOutput(output.logits[:, row : row + 1], output.boxes_cxcywh[:, row : row + 1], proposals[row])
        for row in range(output.logits.shape[1])
    ]


def _compare(
    checkpoint: Checkpoint,
    expected: Sequence[DetrOutput],
    found: Sequence[DetrOutput],
    look: Tensor,
    selects: bool,
    bounds: Bounds,
) -> Comparison:
    logits = boxes = 0.0
    detections = agreeing = passed_over = 0
    for truth, answer in zip(expected, found, strict=True):
        if selects and bounds.logits is not None and _hangs_on_a_tie(truth, checkpoint):
            passed_over += 1
            continue
        logits = max(logits, _largest(truth.logits[-1], answer.logits[-1]))
        boxes = max(boxes, _largest(truth.boxes_cxcywh[-1], answer.boxes_cxcywh[-1]))
        count, agree = _agreement(truth, answer, checkpoint, bounds)
        detections, agreeing = detections + count, agreeing + agree
    height, width = look.shape[1:]
    return Comparison(len(expected), height, width, False, logits, boxes, detections, agreeing, passed_over)


def _largest(expected: Tensor, found: Tensor) -> float:
    """The largest difference; infinite where the shapes differ or a number is none."""
    if expected.shape != found.shape or not torch.isfinite(found).all():
        return float("inf")
    return float((expected.float() - found.float()).abs().max())


def _hangs_on_a_tie(output: DetrOutput, checkpoint: Checkpoint) -> bool:
    """Whether the order of the selected cells, or who is the last of them, is decided by rounding."""
    assert output.proposals is not None
    promise = output.proposals.logits[0, 0].amax(-1)
    best = promise.topk(min(checkpoint.config.model.num_queries + 1, len(promise))).values
    return bool((best.diff().abs() < TIE).any())


def _agreement(truth: DetrOutput, answer: DetrOutput, checkpoint: Checkpoint, bounds: Bounds) -> tuple[int, int]:
    """How many detections either side has at the threshold, and how many have a partner on the other."""
    scoring = checkpoint.model.scoring
    sides = []
    for output in (truth, answer):
        scores, labels, queries = scoring.answers(output.logits[-1].float())
        sides.append((scores[0], labels[0], cxcywh_to_xyxy(output.boxes_cxcywh[-1, 0].float()[queries[0]])))
    (scores, labels, boxes), (other_scores, other_labels, other_boxes) = sides
    fits = box_iou(boxes[:, None], other_boxes[None]) >= bounds.iou
    fits &= labels[:, None] == other_labels[None]
    fits &= (scores[:, None] - other_scores[None]).abs() <= bounds.score
    counts = torch.maximum(scores[:, None], other_scores[None]) >= THRESHOLD
    rows, columns = linear_sum_assignment((fits & counts).float(), maximize=True)
    met = fits[rows, columns] & counts[rows, columns]
    mine, others = int((scores >= THRESHOLD).sum()), int((other_scores >= THRESHOLD).sum())
    return max(mine, others), min(int(met.sum()), max(mine, others))
