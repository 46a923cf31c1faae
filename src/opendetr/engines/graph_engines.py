"""ONNX Runtime and OpenVINO: they run an exported graph, without PyTorch, on the CPU."""

import importlib.util
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from opendetr.errors import UserError, first_line
from opendetr.structures import DetrOutput

PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
INPUTS, ANSWERS = ("images", "padding_mask"), ("logits", "boxes_cxcywh")


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is there; nothing is imported."""
    return engine == "torch" or importlib.util.find_spec(PACKAGES[engine]) is not None


def require_installed(engine: str) -> None:
    """Check that an engine can be used.

    Raises:
        UserError: its package is missing.
    """
    if not is_installed(engine):
        raise UserError(f"--engine {engine} needs the package {PACKAGES[engine]}: pip install 'opendetr[export]'")


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Load a graph.

        Args:
            path: the `.onnx` file.
            precision: `fp32` or `int8`, as the file was written.

        Raises:
            UserError: the package is missing, the file is no such graph, or the precision is bf16.
        """
        require_installed(self.name)
        if precision == "bf16":
            raise UserError("ONNX Runtime has no bf16 on CPUs: use --engine openvino or torch for it, or fp32 or int8")
        import onnxruntime

        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises kinds of its own for each way a file can be wrong
            raise UserError(f"{path} cannot be run by ONNX Runtime ({first_line(error)}); export it again") from None

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B H W 3"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
    ) -> DetrOutput:
        """The last decoder layer's answers, on the CPU; from bytes where the graph has its preprocessing inside."""
        images, padding_mask = _inputs(images, padding_mask)
        answers = self.session.run(list(ANSWERS), dict(zip(INPUTS, (images.numpy(), padding_mask.numpy()))))
        return _output(*map(torch.from_numpy, answers))


class OpenVinoEngine:
    """OpenVINO on the CPU.

    A graph for any size is slower than one for a fixed size, by a fifth for a small model, and compiling one takes
    seconds: only a shape that keeps coming gets a graph of its own.
    """

    name = "openvino"
    OFTEN, MOST_SHAPES = 4, 2  # a shape that came so often is compiled for; so many at a time, for each has its weights

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Load a graph.

        Args:
            path: the `.onnx` or `.xml` file.
            precision: `fp32`, `bf16` (the file is that of fp32), or `int8`, as the file was written.

        Raises:
            UserError: the package is missing, the file is no such graph, or the machine has no bf16.
        """
        require_installed(self.name)
        import openvino

        self.precision, self.path = precision, path
        self.core: Any = openvino.Core()
        try:
            self.graph: Any = self.core.read_model(path)
            self.any_shape = self._compile(self.graph)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be run by OpenVINO ({first_line(error)}); export it again") from None
        used = self.any_shape.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision == "bf16" and used != "bf16":
            raise UserError(f"--precision bf16: this processor has no bf16, OpenVINO would run {used}; use fp32")
        self.seen: Counter[tuple[int, ...]] = Counter()
        self.fixed: dict[tuple[int, ...], Any] = {}

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B H W 3"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
    ) -> DetrOutput:
        """The last decoder layer's answers, on the CPU; from bytes where the graph has its preprocessing inside."""
        images, padding_mask = _inputs(images, padding_mask)
        request = self._request(tuple(images.shape), tuple(padding_mask.shape))
        found = request.infer(dict(zip(INPUTS, (images.numpy(), padding_mask.numpy()))), share_inputs=True)
        return _output(*(torch.from_numpy(found[name].copy()) for name in ANSWERS))

    def _request(self, shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> Any:
        self.seen[shape] += 1
        if shape not in self.fixed and self.seen[shape] >= self.OFTEN and len(self.fixed) < self.MOST_SHAPES:
            graph = self.core.read_model(self.path)
            graph.reshape(dict(zip(INPUTS, (list(shape), list(mask_shape)))))
            self.fixed[shape] = self._compile(graph).create_infer_request()
        return self.fixed.get(shape) or self.any_shape.create_infer_request()

    def _compile(self, graph: Any) -> Any:
        precision = "bf16" if self.precision == "bf16" else "f32"
        return self.core.compile_model(
            graph,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": precision,
            },
        )


def describe_engine(engine: str) -> str:
    """Name and version."""
    return f"{engine} {version(PACKAGES.get(engine, engine))}"


def _inputs(images: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if padding_mask is None:
        sides = images.shape[1:3] if images.dtype == torch.uint8 else images.shape[2:]  # pixels come as [B, H, W, 3]
        padding_mask = torch.zeros(images.shape[0], *sides, dtype=torch.bool)
    return images.cpu().contiguous(), padding_mask.cpu().contiguous()


def _output(logits: Tensor, boxes_cxcywh: Tensor) -> DetrOutput:
    return DetrOutput(logits[None], boxes_cxcywh[None])
