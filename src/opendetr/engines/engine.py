"""What runs a model: the engines by name, their protocol, and PyTorch itself."""

import importlib.util
from importlib.metadata import version
from typing import Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from opendetr.devices import autocast, place, send
from opendetr.errors import UserError
from opendetr.model.detr import DETR
from opendetr.model.precision import fit_precision
from opendetr.options import GraphEngineName, OneEngine
from opendetr.structures import DetrOutput

GRAPH_ENGINES = get_args(GraphEngineName)  # they run exported graphs on the CPU; each is called as its package


@runtime_checkable
class Engine(Protocol):
    """Runs a model: normalised pictures in, what the last decoder layer says out. Nothing learns from it."""

    name: OneEngine
    precision: str

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None = None
    ) -> DetrOutput:
        """Logits and boxes of every query; L, the leading axis, may be 1.

        Args:
            images: normalised, on any device; of different sizes: top-left aligned.
            padding_mask: True where an image was padded; None where none was.
        """


class TorchEngine:
    """PyTorch on any device. The model is used as it is and where it is."""

    name: OneEngine = "torch"

    def __init__(self, model: nn.Module, device: torch.device, precision: str = "fp32") -> None:
        """Wrap.

        Args:
            model: a DETR on `device`.
            device: where it is.
            precision: `fp32` or `bf16`, the autocast type.
        """
        self.model, self.device, self.precision = model, device, precision

    @classmethod
    def prepared(cls, model: DETR, device: torch.device, precision: str) -> "TorchEngine":
        """The model moved to the device, in eval mode; in bf16 its backbone stays in fp32 where that is faster.

        Raises:
            UserError: PyTorch does not run this precision.
        """
        if precision not in ("fp32", "bf16"):
            raise UserError(f"--engine torch runs fp32 and bf16, not {precision}; openvino and onnxruntime do")
        model = place(model.eval(), device)
        fit_precision(model, device, precision)
        return cls(model, device, precision)

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None = None
    ) -> DetrOutput:
        """Every decoder layer's answers, on the device."""
        mask = None if padding_mask is None else send(padding_mask, self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            output: DetrOutput = self.model(send(images, self.device), mask)
        return output


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is there; nothing is imported."""
    return importlib.util.find_spec(engine) is not None


def require_installed(engine: str) -> None:
    """Check that an engine can be used.

    Raises:
        UserError: its package is missing.
    """
    if not is_installed(engine):
        raise UserError(f"--engine {engine} needs the package {engine}: pip install 'opendetr[export]'")


def describe_engine(engine: str) -> str:
    """Name and version."""
    return f"{engine} {version(engine)}"
