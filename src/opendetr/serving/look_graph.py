"""`look.onnx`: the look tensors of a picture as a graph, and the certificate that it gives what PyTorch gives."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.export import ExportedProgram

from opendetr.checkpoints.native import Checkpoint
from opendetr.devices import describe_machine
from opendetr.engines.engine import describe_engine
from opendetr.engines.file_kinds import run_file, write_file
from opendetr.engines.graph_engine import INPUTS, OUTPUTS, GraphEngine
from opendetr.exporting.certificate import FRAMES, SHORTER_SIDE, prepare_frame
from opendetr.exporting.comparison import BOUNDS, depends_on_rounding, pair_queries
from opendetr.exporting.export import Tracing
from opendetr.exporting.exported_file import metadata_of
from opendetr.exporting.graph import STRIDE, ExportableModel, ExportError, traced
from opendetr.exporting.translation import part_of, to_onnx
from opendetr.model.capture import capture_attention
from opendetr.model.selection import SelectedQueries
from opendetr.progress import show_progress
from opendetr.serving.look_tensors import look_tensors
from opendetr.structures import DetrOutput

CELLS = "cells"  # an output beside the look tensors: cxcywh of every cell [S, 4], which tell the sides of the maps
QUERY_AXES = {  # of the tensors that have one
    "logits": 1, "boxes_cxcywh": 1, "starts_cxcywh": 0, "cross_query": 2, "focus": 1, "rollout": 0,
}  # fmt: skip
PICTURES = 2


class LookingModel(ExportableModel):
    """An exportable model that gives the look tensors of the first picture, and the cells of its memory, too."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, with_preprocessing=False, with_attention=False)

    def answers_and_look(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """The outputs that `OUTPUTS` names; and by name the look tensors and the cells [S, 4] of the first picture."""
        with capture_attention(self.model) as captured:
            output = self.model(images, padding_mask)
        assert captured.memory is not None
        return self.answered(output), look_tensors(output, captured) | {CELLS: captured.memory.cells[0]}

    def forward(self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"]) -> tuple[Tensor, ...]:
        """The outputs that `OUTPUTS` names, then the look tensors and the cells."""
        answered, seen = self.answers_and_look(images, padding_mask)
        return (*answered, *seen.values())

    @torch.no_grad()
    def look_names(self) -> list[str]:
        """The names of the look tensors and of the cells: which there are depends on the model."""
        images = torch.zeros(1, 3, 2 * STRIDE, 2 * STRIDE)
        return list(self.answers_and_look(images, images[:, 0] > 0)[1])


class LookTracing(Tracing):
    """A model traced once, and translated once, for `model.onnx` and `look.onnx`, which have most of it in common."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)

    @cached_property
    def program(self) -> ExportedProgram:
        """The model with the outputs of both files."""
        return traced(self._model, self.checkpoint)

    @cached_property
    def onnx(self) -> Any:
        """The graph of `model.onnx`."""
        return self._parts[0]

    @cached_property
    def look(self) -> Any:
        """The graph of `look.onnx`."""
        return self._parts[1]

    @cached_property
    def _model(self) -> LookingModel:
        return LookingModel(self.checkpoint)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        answers = {f"answer.{name}": name for name in OUTPUTS}  # outputs of both files are called alike
        look = {f"look.{name}": name for name in self._model.look_names()}
        both = to_onnx(self.program, [*answers, *look])
        return part_of(both, answers), part_of(both, look)


@dataclass(frozen=True)
class LookCertificate:
    """The largest differences of the graph's look tensors to PyTorch's, on real pictures of several shapes."""

    engine: str
    against: str
    machine: str
    logits: float = 0.0
    boxes: float = 0.0
    attention: float = 0.0  # of weights of all layers and heads, and of the rollout
    sizes: list[tuple[int, int]] = field(default_factory=list)  # height and width of the compared inputs
    undecided: int = 0  # left out: rounding selects their queries

    def problems(self) -> list[str]:
        """Reasons why it does not hold, as sentences; empty if it holds."""
        bounds, found = BOUNDS["fp32"], []
        for name in ("logits", "boxes", "attention"):
            difference, limit = getattr(self, name), getattr(bounds, name)
            if not difference <= limit:  # written so that NaN is refused too
                found.append(f"{name} differ by {difference:.2g}, {limit:.2g} is allowed")
        if not self.sizes:
            found.append("rounding selects the queries of every picture; compare on other pictures with --data")
        return found

    def row(self) -> str:
        """What was compared, and how far it differs at most, in words."""
        return (
            f"{self.engine} agrees with {self.against} on {len(self.sizes)} pictures, all layers: logits within "
            f"{self.logits:.1g}, boxes within {self.boxes:.1g}, attention within {self.attention:.1g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"holds": not self.problems()}


def write_look_graph(tracing: LookTracing, path: Path, pictures: list[Image.Image]) -> LookCertificate:
    """Write `look.onnx` if it gives what PyTorch gives on the pictures.

    Its inputs are those of other exported files; what it gives is of the first picture, which has no padding.

    Raises:
        UserError: the model cannot be traced, or the differences are too large.
    """
    inputs = {
        INPUTS[0]: "float32 [1, 3, height, width]: an RGB picture, resized and normalised as `preprocessing` says",
        INPUTS[1]: "bool [1, height, width]: False everywhere",
    }
    metadata = metadata_of(tracing.checkpoint, "fp32", inputs)
    write_file(tracing.look, path, metadata)
    certificate = certify_look(run_file(path, "fp32"), tracing.checkpoint, pictures)
    if problems := certificate.problems():
        said = "; ".join(problems)
        raise ExportError(f"{path.name} is not written, since its output would differ from the model's: {said}")
    metadata["certificate"] = certificate.to_json()
    write_file(tracing.look, path, metadata)
    return certificate


@torch.no_grad()
def certify_look(engine: GraphEngine, checkpoint: Checkpoint, pictures: list[Image.Image]) -> LookCertificate:
    """Compare the look tensors of an engine with PyTorch's, on pictures cut to three shapes.

    PyTorch's come from the model as it is, not from the copy that was traced.
    """
    model, differences = checkpoint.model.eval(), {"logits": 0.0, "boxes": 0.0, "attention": 0.0}
    selects = isinstance(model.query_embed, SelectedQueries)
    preprocessing = checkpoint.preprocessing.with_shorter_side(SHORTER_SIDE)
    sizes, undecided = list[tuple[int, int]](), 0
    shown = [(frame, picture) for frame in FRAMES for picture in pictures[:PICTURES]]
    for frame, picture in show_progress(shown, "comparing what the model sees", len(shown), "pictures"):
        images = prepare_frame(preprocessing, picture, frame)[None]
        with capture_attention(model) as captured:
            output = model(images, None)
        truth, said = look_tensors(output, captured), engine.outputs(images, None)
        apart = _differences(output, truth, said, selects=selects)
        # The order of selected queries depends on rounding: PyTorch with other threads would differ as well.
        if selects and apart["logits"] > (BOUNDS["fp32"].logits or 0) and depends_on_rounding(output, checkpoint):
            undecided += 1
            continue
        differences = {name: max(value, apart[name]) for name, value in differences.items()}
        sizes.append((images.shape[2], images.shape[3]))
    return LookCertificate(
        f"{describe_engine(engine.name)} fp32", f"{describe_engine('torch')} fp32", describe_machine(),
        **differences, sizes=sizes, undecided=undecided,
    )  # fmt: skip


def _differences(
    output: DetrOutput, truth: dict[str, Tensor], said: dict[str, Tensor], *, selects: bool
) -> dict[str, float]:
    if {name: tensor.shape for name, tensor in truth.items()} != {
        name: tensor.shape for name, tensor in said.items() if name != CELLS
    } or not all(torch.isfinite(tensor).all() for tensor in said.values()):
        return dict.fromkeys(("logits", "boxes", "attention"), float("inf"))
    if selects:
        found = DetrOutput(said["logits"][:, None], said["boxes_cxcywh"][:, None])
        order = pair_queries(output, found)[0]
        said = {
            name: tensor.index_select(QUERY_AXES[name], order) if name in QUERY_AXES else tensor
            for name, tensor in said.items()
        }

    def apart(names: tuple[str, ...]) -> float:
        return max(float((truth[name] - said[name]).abs().max()) for name in names if name in truth)

    weights = max(
        float((one - other).abs().max()) for one, other in zip(_all_weights(truth), _all_weights(said), strict=True)
    )
    return {
        "logits": apart(("logits",)),
        "boxes": apart(("boxes_cxcywh", "starts_cxcywh")),
        "attention": max(weights, apart(("rollout",))),
    }


def _all_weights(tensors: dict[str, Tensor]) -> list[Tensor]:
    """The attention weights of encoder and decoder, as the page computes them."""
    found = []
    for stack in ("encoder", "cross"):
        if f"{stack}_query" in tensors:
            similarity = tensors[f"{stack}_query"] @ tensors[f"{stack}_key"].transpose(-1, -2)
            if stack == "cross" and "focus" in tensors:
                similarity = similarity + tensors["focus"][:, None]
            found.append(similarity.softmax(-1))
    return found
