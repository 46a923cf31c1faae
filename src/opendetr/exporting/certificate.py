"""The certificate: the outputs of an exported model agree with PyTorch's, on real pictures of any number and shape."""

import math
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from rich.table import Table
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.checkpoints.native import Checkpoint
from opendetr.data.digits import photographs
from opendetr.data.index import DatasetIndex
from opendetr.data.loader import pad_to_largest
from opendetr.data.transforms import Preprocessing
from opendetr.devices import describe_machine
from opendetr.engines.engine import Engine, TorchEngine, describe_engine
from opendetr.engines.graph_engine import GraphEngine
from opendetr.exporting.comparison import (
    BOUNDS,
    LEAST_ANSWERS,
    THRESHOLD,
    Bounds,
    Comparison,
    FinalAnswers,
    compare,
    pair_queries,
)
from opendetr.images import read_image
from opendetr.model.capture import capture_attention
from opendetr.model.selection import SelectedQueries
from opendetr.progress import console, print_command, show_progress
from opendetr.structures import DetrOutput
from opendetr.wording import counted

BATCHES = (1, 2, 8)
FRAMES = ((480, 480), (480, 640), (640, 360))  # height and width before preprocessing: three aspect ratios
PICTURES = 4  # repeated where a batch has more
SHORTER_SIDE = 384  # of the compared pictures but one, which has the model's own size: it takes as long as five of them


@dataclass(frozen=True)
class Certificate:
    """The differences between an engine and PyTorch, and whether they are within the bounds."""

    engine: str
    precision: str
    against: str
    machine: str
    date: str
    pictures: str
    bounds: Bounds
    comparisons: list[Comparison] = field(default_factory=list)
    ap: dict[str, float] | None = None  # of both, and on how many pictures
    attention: float | None = None  # the largest difference, where it was exported
    shorter_side: int | None = None  # pixels, of all compared pictures but one, where the model's own is larger

    def problems(self) -> list[str]:
        """Reasons why it does not hold, as sentences; empty if it holds."""
        found = []
        judged = (("logits", "logits"), ("boxes", "boxes"), ("answer_boxes", "boxes of answers"))
        for row in self.comparisons:
            for name, called in judged:
                difference, limit = getattr(row, name), getattr(self.bounds, name)
                if not math.isfinite(difference):
                    found.append(f"{called} have NaN, infinity or another shape, in {row.where}")
                elif limit is not None and difference > limit:
                    found.append(f"{called} differ by {difference:.2g} in {row.where}, {limit:.2g} is allowed")
        if self.attention is not None and not self.attention <= (self.bounds.attention or 1.0):
            found.append(f"attention differs by {self.attention:.2g}, {self.bounds.attention or 1.0} is allowed")
        if self._sum("undecided") == self._sum("pictures"):
            found.append("rounding selects the queries of every picture; compare on other pictures with --data")
        answers, agreeing = self._sum("answers"), self._sum("agreeing")
        if not answers:
            found.append("the model gives no answers to compare")
        elif agreeing / answers < self.bounds.agreement:
            found.append(f"{agreeing} of {answers} answers agree, {self.bounds.agreement:.0%} are needed")
        if self.ap is not None and not self.ap["torch"] - self.ap["engine"] <= self.bounds.ap:
            lost = self.ap["torch"] - self.ap["engine"]
            found.append(f"AP falls by {lost:.4f} (from {self.ap['torch']:.4f}), {self.bounds.ap} is allowed")
        return found

    def _sum(self, name: str) -> int:
        return sum(getattr(row, name) for row in self.comparisons)

    def summary(self) -> str:
        """One short sentence."""
        answers = f"{self._sum('agreeing')} of {self._sum('answers')} answers"
        smaller = "" if self.shorter_side is None else f"; {self._sizes()}"
        return f"{self.engine} {self.precision} agrees with {self.against} on {self.pictures} ({answers}{smaller})"

    def _sizes(self) -> str:
        return f"one comparison in the model's own size, the others with a shorter side of {self.shorter_side} pixels"

    def rows(self) -> dict[str, str]:
        """What was compared, and how far it differs at most, in words."""
        logits, boxes, apart = (
            max(getattr(row, name) for row in self.comparisons) for name in ("logits", "boxes", "answer_boxes")
        )
        sizes = ", ".join(map(str, BATCHES))
        rows = {
            "engine": f"{self.engine} {self.precision}",
            "compared with": f"{self.against}, on {self.pictures}",
            "comparisons": f"{self._sum('pictures')}: batches of {sizes}, three aspect ratios, one with padding",
            "answers": f"{self._sum('agreeing')} of {self._sum('answers')} agree, boxes within {apart:.1g} (scores "
            f"from {THRESHOLD}, at least the best {LEAST_ANSWERS} of a picture)",
            "all queries": f"logits within {logits:.1g}, boxes within {boxes:.1g} of the picture's sides",
        }
        if self.shorter_side is not None:
            rows["sizes"] = self._sizes()
        if self.attention is not None:
            rows["attention"] = f"within {self.attention:.1g}"
        if undecided := self._sum("undecided"):
            rows["left out"] = f"{counted(undecided, 'comparison')}, where rounding selects the queries"
        if self.ap is not None:
            ap, before, count = (self.ap[name] for name in ("engine", "torch", "pictures"))
            rows["AP"] = f"{ap:.4f} instead of {before:.4f}, on {counted(int(count), 'picture')}"
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"holds": not self.problems()}


def print_certificate(certificate: Certificate, path: Path) -> None:
    """That a file is written, what it was compared with, and how to use it."""
    table = Table(show_header=False)
    for row in certificate.rows().items():
        table.add_row(*row)
    console.print(f"{path} is written ({path.stat().st_size / 1e6:.1f} MB) and agrees with the model:", table)
    console.print("Next:")
    print_command("opendetr", "predict", path, "PICTURES", "--output", "found")


def certify(
    engine: GraphEngine, checkpoint: Checkpoint, index: DatasetIndex | None, max_ap_loss: float | None = None
) -> Certificate:
    """Compare an engine with PyTorch in fp32: its outputs for every query, and the detections that users get.

    The index, a split of the user's data, is for pictures and AP; without it there are two photographs and no AP. The
    largest allowed loss of AP is that of the precision by default. Pictures of a model for large ones are compared at
    a shorter side of 384 pixels, one of them at the model's own size too.

    Raises:
        UserError: a picture cannot be read, or without a split scikit-learn, which has the photographs, is missing.
    """
    reference = TorchEngine.prepared(checkpoint.model, torch.device("cpu"), "fp32")
    images, called = comparison_pictures(index, checkpoint.preprocessing.white_level)
    own, smaller = checkpoint.preprocessing, checkpoint.preprocessing.with_shorter_side(SHORTER_SIDE)
    bounds = BOUNDS[engine.precision]
    bounds = bounds if max_ap_loss is None else replace(bounds, ap=max_ap_loss)
    comparisons, mixed, attention = [], [], None
    for frame in show_progress(FRAMES, f"comparing {engine.name} with torch", len(FRAMES), "shapes"):
        looks = [prepare_frame(smaller, image, frame) for image in images]
        alone = [reference(look[None]) for look in looks] * (BATCHES[-1] // PICTURES)
        looks *= BATCHES[-1] // PICTURES
        mixed.append(looks[0])
        size = (looks[0].shape[1], looks[0].shape[2])
        for batch in BATCHES:
            # Every picture alone once: OpenVINO compiles a graph for the first shape and for each frequent one.
            count = PICTURES if (batch, frame) == (1, FRAMES[0]) else batch
            said = [engine.outputs(torch.stack(looks[at : at + batch]), None) for at in range(0, count, batch)]
            found = [one for part in said for one in _split(part)]
            comparisons.append(compare(checkpoint, alone[:count], found, size, bounds, batch=batch))
            if attention is None and "attention" in said[0]:
                attention = attention_difference(checkpoint, looks[0][None], said[0])
    stacked, mask = pad_to_largest(mixed)
    truth = _pictures_of(reference(stacked, mask))
    found, size = _split(engine.outputs(stacked, mask)), (stacked.shape[2], stacked.shape[3])
    comparisons.append(compare(checkpoint, truth, found, size, bounds, batch=len(mixed), padded=True))
    if smaller != own:
        look = prepare_frame(own, images[0], FRAMES[0])[None]
        found, size = _split(engine.outputs(look, None)), (look.shape[2], look.shape[3])
        comparisons.append(compare(checkpoint, [reference(look)], found, size, bounds, batch=1))
    ap = None
    if index is not None:
        # Here, since `predict` reads certificates too and needs nothing of the evaluation, which takes long to import.
        from opendetr.evaluation.runner import evaluate_split

        measured: dict[str, Engine] = {"torch": reference, "engine": engine}
        ap = {name: evaluate_split(run, checkpoint.description, index).summary["AP"] for name, run in measured.items()}
        ap["pictures"] = float(len(index))
    return Certificate(
        describe_engine(engine.name), engine.precision, f"{describe_engine('torch')} fp32", describe_machine(),
        date.today().isoformat(), called, bounds, comparisons, ap, attention,
        None if smaller == own else SHORTER_SIDE,
    )  # fmt: skip


def _split(said: dict[str, Tensor]) -> list[tuple[DetrOutput, FinalAnswers]]:
    """A graph's outputs for a batch, picture by picture."""
    return [
        (
            DetrOutput(said["logits"][None, row : row + 1], said["boxes_cxcywh"][None, row : row + 1]),
            FinalAnswers(*(said[name][row : row + 1] for name in FinalAnswers._fields)),
        )
        for row in range(len(said["logits"]))
    ]


def _pictures_of(output: DetrOutput) -> list[DetrOutput]:
    """PyTorch's output for a batch, picture by picture, with the proposals, which graphs do not give."""
    proposals = [None] * output.logits.shape[1] if output.proposals is None else _pictures_of(output.proposals)
    return [
        DetrOutput(output.logits[:, row : row + 1], output.boxes_cxcywh[:, row : row + 1], proposals[row])
        for row in range(output.logits.shape[1])
    ]


@torch.no_grad()
def attention_difference(checkpoint: Checkpoint, images: Float[Tensor, "1 3 H W"], said: dict[str, Tensor]) -> float:
    """The largest difference of the last layer's cross-attention between a graph and the model, for one picture.

    The model's attention is what hooks note from outside, so that it shares no code with the module that was traced.
    `said` are the graph's outputs; selected queries are paired first, since their order depends on rounding. Infinite
    for NaN or infinity.
    """
    with capture_attention(checkpoint.model) as captured:
        truth = checkpoint.model(images, None)
    attention, output = captured.decoder_cross[-1].weights(), _split(said)[0][0]
    if isinstance(checkpoint.model.query_embed, SelectedQueries) and torch.isfinite(said["logits"]).all():
        order = pair_queries(truth, output)[0]
        said = said | {"attention": said["attention"][:, :, order]}
    difference = (attention - said["attention"].float()).abs().max()
    return float(difference) if torch.isfinite(difference) else float("inf")


def comparison_pictures(index: DatasetIndex | None, white_level: int | None) -> tuple[list[Image.Image], str]:
    """Four pictures, repeated if there are fewer, and a name for them."""
    if index is None:
        photos = photographs()
        width, height = photos[0].size
        return [photo.crop(part) for part in ((0, 0, width, height), (0, 0, width // 2, height)) for photo in photos], (
            "two photographs"
        )
    found = [read_image(record.path, white_level=white_level) for record in index.records[:PICTURES]]
    return (found * PICTURES)[:PICTURES], f"{counted(len(found), 'picture')} of {index.source.name}"


def prepare_frame(preprocessing: Preprocessing, image: Image.Image, frame: tuple[int, int]) -> Tensor:
    """The model's input of a picture cut to the frame's height and width."""
    cut = ImageOps.fit(image, (frame[1], frame[0]))
    tensor: Tensor = preprocessing.transform()(tv_tensors.Image(v2.functional.pil_to_tensor(cut)))
    return tensor.as_subclass(Tensor)
