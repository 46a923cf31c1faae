"""Exported files: `.onnx`, OpenVINO's `.xml` and `.bin`, `.pt2`; each says what it is and how far it can be trusted."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.export import ExportedProgram

from opendetr.checkpoints.description import Description
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.transforms import Preprocessing
from opendetr.engines.engine import Engine
from opendetr.engines.graph_engines import (
    OUTPUTS,
    OnnxRuntimeEngine,
    OpenVinoEngine,
    inputs,
    openvino_core,
    require_installed,
)
from opendetr.errors import UserError, first_line
from opendetr.structures import DetrOutput
from opendetr.version import __version__

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
KEY = "opendetr"  # the name of the metadata entry, one JSON text, in all three


def is_exported(model: str | Path) -> bool:
    """Whether a model's name is that of an exported file."""
    return Path(model).suffix in SUFFIXES.values()


@dataclass(frozen=True)
class Exported:
    """An exported file, ready to run."""

    engine: Engine
    description: Description
    metadata: dict[str, Any]


def metadata_of(checkpoint: Checkpoint, precision: str, inputs: dict[str, str]) -> dict[str, Any]:
    """What an exported file says about itself, before its certificate."""
    return {
        "opendetr": __version__,
        "model": checkpoint.source.name,
        "weights": fingerprint(checkpoint),
        "precision": precision,
        "inputs": inputs,
        **checkpoint.description.to_json(),
        "certificate": None,
    }


def fingerprint(checkpoint: Checkpoint) -> str:
    """A number that two models share only if they are the same: of architecture, preprocessing, classes and weights.

    Weights alone do not tell everything: a dilated backbone (DC5) has those of a plain one.
    """
    said = json.dumps(checkpoint.description.to_json()) + repr(checkpoint.config.model)
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class ProgramEngine:
    """A `.pt2` archive, run by PyTorch on the CPU."""

    name, precision = "torch", "fp32"

    def __init__(self, program: ExportedProgram) -> None:
        self.module = program.module()

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B H W 3"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
    ) -> DetrOutput:
        """The last decoder layer's answers; from bytes where the graph has its preprocessing inside."""
        found = self.outputs(images, padding_mask)
        return DetrOutput(found["logits"][None], found["boxes_cxcywh"][None])

    def outputs(self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None) -> dict[str, Tensor]:
        """All outputs of the graph."""
        with torch.no_grad():
            return dict(zip((*OUTPUTS, "attention"), self.module(*inputs(images, padding_mask))))


class FromPixels:
    """Feeds a graph that has its preprocessing inside from normalised pictures: the pixels they were made of."""

    def __init__(self, engine: Any, preprocessing: Preprocessing) -> None:
        self.engine, self.name, self.precision = engine, engine.name, engine.precision
        self.mean = torch.tensor(preprocessing.mean)[:, None, None]
        self.std = torch.tensor(preprocessing.std)[:, None, None]

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None = None
    ) -> DetrOutput:
        """What the graph says about the pixels."""
        found: DetrOutput = self.engine(self.pixels(images), padding_mask)
        return found

    def outputs(self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None) -> dict[str, Tensor]:
        """All outputs of the graph."""
        found: dict[str, Tensor] = self.engine.outputs(self.pixels(images), padding_mask)
        return found

    def pixels(self, images: Float[Tensor, "B 3 H W"]) -> UInt8[Tensor, "B H W 3"]:
        """What was normalised."""
        pixels = ((images * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).contiguous()


def write_onnx(graph: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Write an ONNX graph as one file."""
    import onnx

    onnx.helper.set_model_props(graph, {KEY: json.dumps(metadata)})
    onnx.save(graph, path)


def write_openvino(graph: Any, path: Path, metadata: dict[str, Any]) -> None:
    """Write OpenVINO's two files."""
    import openvino

    graph.set_rt_info(json.dumps(metadata), [KEY])
    openvino.save_model(graph, path, compress_to_fp16=False)


def write_pt2(program: ExportedProgram, path: Path, metadata: dict[str, Any]) -> None:
    """Write a `torch.export` archive."""
    from torch._export.serde.serialize import SerializeError  # a private module: only who needs it may miss it

    try:
        torch.export.save(program, path, extra_files={KEY: json.dumps(metadata)})
    except SerializeError as error:
        raise UserError(f"torch cannot write this model as pt2 ({first_line(error)}); use --format onnx") from None


def read_metadata(path: Path) -> dict[str, Any]:
    """What an exported file says about itself.

    Raises:
        UserError: the file is missing, damaged, or not ours.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file written by opendetr export")
    try:
        if path.suffix == ".onnx":
            require_installed("onnxruntime")
            import onnxruntime

            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            text = session.get_modelmeta().custom_metadata_map.get(KEY)
        elif path.suffix == ".xml":
            require_installed("openvino")
            model = openvino_core().read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        else:
            extra = {KEY: ""}
            torch.export.load(path, extra_files=extra)
            text = extra[KEY]
    except UserError:
        raise
    except Exception as error:  # each format's reader raises kinds of its own
        raise UserError(f"{path} cannot be read ({first_line(error)}); export it again") from None
    if not text:
        raise UserError(f"{path} was not written by opendetr export: it says nothing about classes and preprocessing")
    found: dict[str, Any] = json.loads(text)
    return found


def load_exported(path: Path, engine: str = "auto") -> Exported:
    """An exported file with the engine that runs it.

    Raises:
        UserError: the file cannot be used, or not by that engine.
    """
    metadata = read_metadata(path)
    natural = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".pt2": ("torch",)}[path.suffix]
    if engine not in ("auto", *natural):
        raise UserError(f"--engine {engine} does not run {path.suffix} files; {' or '.join(natural)} does")
    chosen, precision = natural[0] if engine == "auto" else engine, metadata["precision"]
    running: Engine
    if chosen == "openvino":
        running = OpenVinoEngine(path, precision)
    elif chosen == "onnxruntime":
        running = OnnxRuntimeEngine(path, precision)
    else:
        running = ProgramEngine(torch.export.load(path))
    description = Description.from_json(metadata)
    if metadata["inputs"]["images"].startswith("uint8"):
        running = FromPixels(running, description.preprocessing)
    return Exported(running, description, metadata)
