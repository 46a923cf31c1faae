"""ONNX Runtime, and the metadata of `.onnx` files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from opendetr.engines.engine import require_installed
from opendetr.engines.graph_engine import INPUTS, METADATA, GraphEngine, inputs
from opendetr.errors import UserError, first_line
from opendetr.options import OneEngine


def write_onnx(graph: Any, path: Path, metadata: str) -> None:
    """Write an ONNX graph as one file."""
    import onnx

    onnx.helper.set_model_props(graph, {METADATA: metadata})
    onnx.save(graph, path)


def read_onnx_metadata(path: Path) -> str | None:
    """The metadata of a file; None where it has none. For a damaged file ONNX Runtime raises its own exceptions."""
    require_installed("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is only read
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: str | None = session.get_modelmeta().custom_metadata_map.get(METADATA)
    return found


class OnnxRuntimeEngine(GraphEngine):
    """ONNX Runtime on the CPU."""

    name: OneEngine = "onnxruntime"

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Load an `.onnx` file that was written in `fp32` or `int8`.

        Raises:
            UserError: the package is missing, the file is not an ONNX graph, or the precision is bf16.
        """
        require_installed(self.name)
        if precision == "bf16":
            raise UserError("ONNX Runtime has no bf16 on CPUs: use --engine openvino or torch for it, or fp32 or int8")
        import onnxruntime

        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Beside other programs, threads that spin take the time of those that they wait for.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has many classes of exceptions
            raise UserError(f"{path} cannot be run by ONNX Runtime ({first_line(error)}); export it again") from None

    def outputs(
        self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The graph's outputs of these names, or all of them."""
        images, padding_mask = inputs(images, padding_mask)
        names = list(names) or [output.name for output in self.session.get_outputs()]
        found = self.session.run(names, dict(zip(INPUTS, (images.numpy(), padding_mask.numpy()))))
        return dict(zip(names, map(torch.from_numpy, found)))
