"""The sides of a benchmark: our engines, and peers with the same weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from opendetr.checkpoints.huggingface import save_huggingface
from opendetr.checkpoints.native import Checkpoint
from opendetr.checkpoints.official import save_official
from opendetr.data.transforms import Preprocessing
from opendetr.exporting.export import Tracing
from opendetr.exporting.fastest_engine import choose_engine
from opendetr.inference.detector import Detector
from opendetr.structures import DetrOutput


@runtime_checkable
class Side(Protocol):
    """A way to run a model."""

    engine: str
    precision: str

    def answer(self, images: Float[Tensor, "B 3 H W"]) -> DetrOutput:
        """The model only: from normalised pictures to the output of the last decoder layer."""

    def detect(self, pictures: list[Image.Image]) -> list[Any]:
        """End to end: from decoded RGB pictures to all answers for each of them, on the CPU."""


class OwnSide:
    """An engine of ours."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        preprocessing: Preprocessing,
        engine: str,
        precision: str,
        device: str,
        tracing: Tracing | None = None,
    ) -> None:
        """Prepare the engine as `choose_engine` does; PyTorch changes the module, so no two sides may share it.

        `tracing` is of the same model, for an engine that must be exported.

        Raises:
            UserError: the engine cannot run the model, or disagrees.
        """
        self.engine, self.precision = engine, precision
        running = choose_engine(checkpoint, engine, precision, device, tracing=tracing)
        self.detector = Detector(running, replace(checkpoint.description, preprocessing=preprocessing), checkpoint)

    def answer(self, images: Float[Tensor, "B 3 H W"]) -> DetrOutput:
        """The output of the decoder."""
        return self.detector.engine(images)

    def detect(self, pictures: list[Image.Image]) -> list[Any]:
        """All answers for every picture, as `Detections`."""
        prepared = (self.detector.prepared(number, picture) for number, picture in enumerate(pictures))
        return [found for _, found in self.detector.detect(prepared, 0.0, len(pictures))]


def write_for_peer(checkpoint: Checkpoint, peer: str, folder: Path) -> Path:
    """Write the model in the peer's format.

    Raises:
        UserError: the peer has no such models.
    """
    return save_official(checkpoint, folder) if peer == "official" else save_huggingface(checkpoint, folder)
