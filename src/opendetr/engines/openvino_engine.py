"""OpenVINO, and the metadata of its `.xml` files."""

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from opendetr.engines.engine import require_installed
from opendetr.engines.graph_engine import INPUTS, METADATA, GraphEngine, inputs
from opendetr.errors import UserError, first_line
from opendetr.options import OneEngine

_CORE_LOCK = threading.Lock()


def require_bf16() -> None:
    """Check that OpenVINO, which is installed, has bf16 on this processor.

    Raises:
        UserError: it has none; OpenVINO would silently run fp32.
    """
    if not _has_bf16():
        raise UserError("--precision bf16: this processor has no bf16; use fp32")


def _has_bf16() -> bool:
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_core() -> Any:
    """OpenVINO's `Core`, one for all engines of this process, which is never freed.

    A Core gives the thread in which it first uses the CPU a stack for signal handlers, and frees it with itself. If a
    Core is freed in another thread, or before a newer one, that thread keeps a pointer to the freed stack, and the next
    signal, such as Ctrl-C, is a segmentation fault (OpenVINO 2026.4).
    """
    with _CORE_LOCK:  # threads that call this at the same time get the same one
        return _core()


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def write_openvino(graph: Any, path: Path, metadata: str) -> None:
    """Write OpenVINO's two files."""
    import openvino

    graph.set_rt_info(metadata, [METADATA])
    openvino.save_model(graph, path, compress_to_fp16=False)


def read_openvino_metadata(path: Path) -> str | None:
    """The metadata of a file; None where it has none. For a damaged file OpenVINO raises its own exceptions."""
    require_installed("openvino")
    model = openvino_core().read_model(path)
    return model.get_rt_info([METADATA]).astype(str) if model.has_rt_info([METADATA]) else None


class OpenVinoEngine(GraphEngine):
    """OpenVINO on the CPU; threads may share an engine.

    A graph for any size is slower than one for a fixed size, by a fifth for a small model, but compiling one takes
    seconds: only the first shape, and later each frequent one, gets a graph of its own. Each holds a copy of the
    weights, so the graph for any size is freed then, and compiled again for the next new shape; other threads wait.
    """

    name: OneEngine = "openvino"
    OFTEN, RECENT = 4, 32  # a shape gets a graph if it came 4 times in 32 calls,
    MOST_SHAPES = 2  # in place of one that did not come in them

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Load an `.onnx` or `.xml` file.

        `bf16` takes a file written in fp32; the parts of `int8` in floating point run in bf16 where the machine has it.

        Raises:
            UserError: the package is missing, the file is not such a graph, or the machine has no bf16.
        """
        require_installed(self.name)
        if precision == "bf16":
            require_bf16()
        self.path, self.precision, self.core = path, precision, openvino_core()
        try:
            self.graph: Any = self.core.read_model(path)
        except RuntimeError as error:
            raise UserError(f"{path} cannot be run by OpenVINO ({first_line(error)}); export it again") from None
        self.any_shape: _Compiled | None = None
        self.fixed: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()  # the last used comes last
        self._recent: deque[tuple[int, ...]] = deque(maxlen=self.RECENT)
        self._lock = threading.Lock()

    def outputs(
        self, images: Tensor, padding_mask: Bool[Tensor, "B H W"] | None, names: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """The graph's outputs of these names, or all of them."""
        images, padding_mask = inputs(images, padding_mask)
        names = names or [output.get_any_name() for output in self.graph.outputs]
        with self._lock:
            compiled = self._compiled(tuple(images.shape), tuple(padding_mask.shape))
        found = compiled.request().infer(dict(zip(INPUTS, (images.numpy(), padding_mask.numpy()))), share_inputs=True)
        return {name: torch.from_numpy(found[name].copy()) for name in names}

    def _compiled(self, shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> "_Compiled":
        self._recent.append(shape)
        if shape in self.fixed:
            self.fixed.move_to_end(shape)
            return self.fixed[shape]
        full = len(self.fixed) == self.MOST_SHAPES
        often = self._recent.count(shape) >= self.OFTEN
        if self.fixed and (not often or (full and next(iter(self.fixed)) in self._recent)):
            self.any_shape = self.any_shape or self._compile()
            return self.any_shape
        if full:
            self.fixed.popitem(last=False)
        self.any_shape = None
        self.fixed[shape] = self._compile(shape, mask_shape)
        return self.fixed[shape]

    def _compile(self, *shapes: tuple[int, ...]) -> "_Compiled":
        """Compile the graph for inputs of these shapes, or of any."""
        in_bf16 = self.precision == "bf16" or (self.precision == "int8" and _has_bf16())
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # a thread that is bound to a core cannot make way for other programs
            "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
        }
        graph = self.graph
        try:
            if shapes:
                graph = graph.clone()  # the file may have been replaced since it was read
                graph.reshape(dict(zip(INPUTS, map(list, shapes))))
            return _Compiled(self.core.compile_model(graph, "CPU", settings))
        except RuntimeError as error:
            shape = f"shape {list(shapes[0])}" if shapes else "any shape"
            raise UserError(
                f"{self.path} cannot be run by OpenVINO for inputs of {shape} ({first_line(error)}); use --engine torch"
            ) from None


class _Compiled:
    """A compiled graph with a request for every thread: threads that share one get each other's results."""

    def __init__(self, model: Any) -> None:
        self.model, self._of_thread = model, threading.local()

    def request(self) -> Any:
        """The calling thread's."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.model.create_infer_request()
        return self._of_thread.request
