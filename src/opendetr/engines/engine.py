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
from opendetr.model.precision import fit_precision, gain_of_products
from opendetr.options import GraphEngineName, OneEngine
from opendetr.progress import warn
from opendetr.structures import DetrOutput

GRAPH_ENGINES = get_args(GraphEngineName)  # they run exported graphs on the CPU; each has the name of its package


@runtime_checkable
class Engine(Protocol):
    """Runs a model: from normalised pictures to the output of the last decoder layer, without gradients."""

    name: OneEngine
    precision: str

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None = None
    ) -> DetrOutput:
        """Logits and boxes of every query; the leading axis L may be 1.

        The images are normalised, on any device, and aligned at the top left; the mask is True where one was padded.
        """


class TorchEngine:
    """PyTorch on any device: the model is used as it is and where it is, in `fp32` or `bf16` (the autocast type)."""

    name: OneEngine = "torch"

    def __init__(self, model: nn.Module, device: torch.device, precision: str = "fp32") -> None:
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
        if precision == "bf16" and device.type == "cpu" and (gain := gain_of_products(device)) < 1:
            warn(f"bf16 is slower than fp32 here (matrix products run at {gain:.2f} times its speed): leave it out")
        fit_precision(model, device, precision)
        return cls(model, device, precision)

    def __call__(
        self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None = None
    ) -> DetrOutput:
        """The output of every decoder layer, on the device."""
        mask = None if padding_mask is None else send(padding_mask, self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            output: DetrOutput = self.model(send(images, self.device), mask)
        return output


def is_installed(engine: str) -> bool:
    """Whether the package of an engine is installed; it is not imported."""
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
