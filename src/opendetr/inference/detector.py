"""Detector: pictures in, detections out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.checkpoints.description import Description
from opendetr.checkpoints.loading import NO_WEIGHTS, is_exported, load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.detections import Threshold
from opendetr.devices import resolve_device
from opendetr.engines.detecting import Prepared, detect
from opendetr.engines.engine import GRAPH_ENGINES, Engine, TorchEngine
from opendetr.errors import UserError
from opendetr.exporting.exported_file import fingerprint, load_exported
from opendetr.exporting.fastest_engine import choose_engine
from opendetr.images import Picture
from opendetr.inference.addresses import is_address
from opendetr.inference.reading import read_ahead
from opendetr.inference.sources import expand_source, picture_reader
from opendetr.model.detr import DETR
from opendetr.options import EngineName, PrecisionName, require_batch_size, require_score
from opendetr.structures import Detections


class Detector:
    """A model ready for detection.

    Example:
        >>> detector = Detector.load("runs/cells")
        >>> detections = detector.predict("cell.jpg", threshold=0.5)
        >>> detections.boxes_xyxy, detections.scores, detections.names
    """

    def __init__(
        self, engine: Engine, description: Description, checkpoint: Checkpoint | None = None, identity: str = ""
    ) -> None:
        """Take an engine, its model's description, and the model or, of an exported graph, its fingerprint."""
        self.engine, self.description = engine, description
        self._identity, self._checkpoint = identity, checkpoint
        self.transform = description.preprocessing.transform()

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str = "auto",
        engine: EngineName = "auto",
        precision: PrecisionName = "fp32",
        pictures: int = 0,
        image_size: int | None = None,
    ) -> "Detector":
        """Load any model.

        Args:
            model: a run or model folder, an official `.pth` or released name, a Hugging Face folder or id, or an
                exported file.
            device: `auto`, `cpu`, `cuda` or `mps`.
            engine: `torch`; `openvino` or `onnxruntime` on a CPU, for which the model is exported and compared with
                PyTorch at first use, in a file kept beside it; or `auto`, the fastest that was prepared for this
                model, else PyTorch.
            precision: `fp32`, `bf16` or `int8`.
            pictures: how many are to come, if that is known: for many of them, `auto` prepares engines first.
            image_size: another shorter side of pictures, in pixels, and the largest longer side in proportion.

        Raises:
            UserError: there is no such model, device, engine or precision; the engine does not agree with PyTorch; or
                an option contradicts an exported file.
        """
        if is_exported(model):
            if image_size is not None:
                raise UserError(
                    f"{model} is an exported file, which keeps its own size of pictures: leave out --image-size, or "
                    f"export the model with it"
                )
            exported = load_exported(Path(model), engine)
            _require_no_contradiction(Path(model), exported.engine.precision, device, precision)
            return cls(exported.engine, exported.description, identity=exported.metadata["weights"])
        checkpoint = load_checkpoint(model, image_size=image_size)
        return cls(choose_engine(checkpoint, engine, precision, device, pictures), checkpoint.description, checkpoint)

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, device: str = "auto", precision: str = "fp32") -> "Detector":
        """A model that is in memory, run by PyTorch."""
        engine = TorchEngine.prepared(checkpoint.model, resolve_device(device), precision)
        return cls(engine, checkpoint.description, checkpoint)

    @property
    def identity(self) -> str:
        """A hash of weights, classes and preprocessing."""
        return self._identity or fingerprint(self.checkpoint)

    @property
    def checkpoint(self) -> Checkpoint:
        """The model itself.

        Raises:
            UserError: there is only an exported graph.
        """
        if self._checkpoint is None:
            raise UserError(NO_WEIGHTS)
        return self._checkpoint

    @property
    def model(self) -> DETR:
        """The module, on `device`."""
        return self.checkpoint.model

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return next(self.model.parameters()).device

    def predict(
        self,
        source: Picture | Sequence[Picture],
        threshold: float | None = None,
        batch_size: int = 4,
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> Detections | list[Detections]:
        """Detect objects.

        Args:
            source: a picture, or a list of pictures; a folder or a glob counts as the list of its pictures. A picture
                is a path, an `https` address, a PIL image, a uint8 array [H, W, 3], a tensor [3, H, W] (uint8 in
                0..255 or floats in 0..1, not normalised), the content of a file, or a file open in binary mode.
                Arrays and tensors of four dimensions are lists.
            threshold: the lowest score that is reported, 0..1, of all classes; None: the model's own thresholds,
                which training has fitted per class, else 0.5.
            batch_size: most pictures of equal shape in a batch; the result does not depend on it.
            channel_order: of arrays and tensors; OpenCV's are `bgr`.

        Returns:
            One `Detections` for one picture, a list for a list. They know where to read their picture, for `plot` and
            `crops`; pixels are not kept, except those that were given from memory.

        Raises:
            UserError: a picture is missing or cannot be read, a threshold not in 0..1, or a batch size below 1.
        """
        require_score("threshold", threshold)
        require_batch_size(batch_size)
        given: Any = expand_source(source) if isinstance(source, str | Path) and not is_address(source) else source
        if isinstance(given, np.ndarray | Tensor) and given.ndim == 4:
            given = list(given)
        pictures = given if isinstance(given, list | tuple) else [given]
        white_level = self.description.preprocessing.white_level
        readers: dict[int, tuple[Callable[[], Image.Image], str]] = {}

        def prepared(numbered: tuple[int, Picture]) -> Prepared:
            number, picture = numbered
            read, _ = readers[number] = picture_reader(picture, channel_order, white_level)
            return self.prepared(number, read())

        found = dict(self.detect(read_ahead(prepared, enumerate(pictures)), threshold, batch_size))
        detections = [
            replace(found[position], file_name=readers[position][1], picture=readers[position][0])
            for position in range(len(pictures))
        ]
        return detections if isinstance(given, list | tuple) else detections[0]

    def stream(
        self, images: Iterable[tuple[int, Image.Image]], threshold: float | None = None, batch_size: int = 4
    ) -> Iterator[tuple[int, Detections]]:
        """Number and detections of (number, RGB picture) pairs; pictures of one shape are batched together.

        The number is also the `image_id` of the detections, whose `plot` and `crops` need the picture.

        Raises:
            UserError: the threshold is not in 0..1, or the batch size is below 1.
        """
        require_score("threshold", threshold)
        require_batch_size(batch_size)
        return self.detect((self.prepared(number, image) for number, image in images), threshold, batch_size)

    def detect(
        self, pictures: Iterable[Prepared], threshold: Threshold | None, batch_size: int
    ) -> Iterator[tuple[int, Detections]]:
        """The same of prepared pictures, which threads may have prepared ahead (`read_ahead`).

        `threshold` may also be one per class.

        Raises:
            UserError: a score or a box is not finite.
        """
        least = self.description.threshold(threshold)
        for number, detections in detect(self.engine, self.description, pictures, batch_size):
            require_numbers(self.engine, detections.scores, detections.boxes_xyxy)
            yield number, detections.above(least)

    def prepared(self, number: int, image: Image.Image) -> Prepared:
        """An RGB picture as an input of `detect`."""
        return Prepared(number, self.prepare(image), (image.height, image.width), number)

    def prepare(self, image: Image.Image) -> Tensor:
        """The model's input [3, h, w] from an RGB picture, on the CPU."""
        tensor: Tensor = self.transform(tv_tensors.Image(v2.functional.pil_to_tensor(image)))
        return tensor.as_subclass(Tensor)


def require_numbers(engine: Engine, scores: Float[Tensor, "*L N"], boxes: Float[Tensor, "*L N 4"]) -> None:
    """Check what an engine has computed for a picture: no threshold would ever show what is no number.

    Raises:
        UserError: a score or a box is not finite.
    """
    wrong = ~(torch.isfinite(scores) & torch.isfinite(boxes).all(-1))
    if wrong.any():
        raise UserError(
            f"the engine {engine.name} in {engine.precision} gives {int(wrong.sum())} of {wrong.numel()} answers for a "
            f"picture that are no finite numbers (NaN or infinite): the model's weights are damaged or too large; use "
            f"another file of it, or where that is sound --engine torch in fp32"
        )


def _require_no_contradiction(path: Path, is_of: str, device: str, precision: str) -> None:
    """Check the options given with an exported file; `fp32` is the default and fits every file."""
    if precision not in ("fp32", is_of):
        raise UserError(
            f"{path} is {is_of}, not {precision}: leave out --precision, or export the model in {precision}"
        )
    if device not in ("auto", "cpu"):
        raise UserError(f"{path} runs on the CPU: leave out --device {device}, or give the model it was made from")


def computes_on(model: str | Path, engine: str, device: str) -> str:
    """The kind of device that an engine computes on; only PyTorch uses another than the CPU."""
    return "cpu" if engine in GRAPH_ENGINES or is_exported(model) else resolve_device(device).type
