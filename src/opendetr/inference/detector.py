"""Detector: pictures in, detections out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.checkpoints.loading import load_checkpoint
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.images import Picture, read_image
from opendetr.data.loader import group_equal_shapes
from opendetr.devices import autocast, place, resolve_device
from opendetr.inference.sources import expand_source
from opendetr.model.postprocess import postprocess
from opendetr.model.precision import fit_precision
from opendetr.structures import Batch, Detections


class Detector:
    """A model ready to look at pictures.

    Example:
        >>> detector = Detector.load("runs/cells")
        >>> detections = detector.predict("cell.jpg", threshold=0.5)
        >>> detections.boxes_xyxy, detections.scores, detections.names
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "auto", precision: Literal["fp32", "bf16"] = "fp32"
    ) -> None:
        self.checkpoint, self.precision = checkpoint, precision
        self.device = resolve_device(device)
        self.model = place(checkpoint.model.eval(), self.device)
        fit_precision(self.model, self.device, precision)  # bf16 stops at a backbone that would be slower in it
        self.transform = checkpoint.preprocessing.transform()

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        *,
        dc5: bool | None = None,
    ) -> "Detector":
        """Load any model: a run or model folder, an official `.pth` or released name, a Hugging Face folder or id.

        An official `.pth` does not tell in its weights whether its backbone is dilated: `dc5` says it where its
        arguments and its name do not.

        Raises:
            UserError: there is no such model, or no such device.
        """
        return cls(load_checkpoint(model, dc5=dc5), device, precision)

    def predict(
        self,
        source: Picture | list[Picture],
        threshold: float = 0.5,
        batch_size: int = 4,
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> Detections | list[Detections]:
        """Detect objects.

        Args:
            source: a picture (path, PIL image, or uint8 array [H, W, 3]), or a list of pictures; a folder or a glob
                counts as the list of its pictures.
            threshold: the lowest score that is reported.
            batch_size: pictures at once, as far as they have the same shape; the result does not depend on it.
            channel_order: of arrays; OpenCV's are `bgr`.

        Returns:
            One `Detections` for one picture, a list for a list.

        Raises:
            UserError: a picture is missing or cannot be read.
        """
        pictures = expand_source(source) if isinstance(source, str | Path) else source
        if not isinstance(pictures, list):
            return self.predict([pictures], threshold, batch_size, channel_order)[0]  # type: ignore[index]
        images = (read_image(picture, channel_order) for picture in pictures)
        found = dict(self.stream(enumerate(images), threshold, batch_size))
        names = (str(picture) if isinstance(picture, str | Path) else "" for picture in pictures)
        return [replace(found[position], file_name=name) for position, name in enumerate(names)]

    def stream(
        self, images: Iterable[tuple[int, Image.Image]], threshold: float = 0.5, batch_size: int = 4
    ) -> Iterator[tuple[int, Detections]]:
        """Detections of (number, RGB picture) pairs as they come; pictures of one shape come together.

        The number returns with its detections, as their `image_id`.
        """
        waiting = ((number, self.prepare(image), (image.height, image.width)) for number, image in images)
        for group in group_equal_shapes(waiting, lambda item: tuple(item[1].shape), batch_size):
            numbers, tensors, sizes = zip(*group)
            batch = Batch(torch.stack(tensors), None, torch.tensor(sizes), torch.tensor(numbers))
            with torch.inference_mode(), autocast(self.device, self.precision):
                output = self.model(batch.to(self.device).images, None)
            found = postprocess(output, batch, self.model.scoring, self.checkpoint.label_map)
            for number, detections in zip(numbers, found):
                yield number, detections.above(threshold)

    def prepare(self, image: Image.Image) -> Tensor:
        """The model's input [3, h, w] from an RGB picture, on the CPU."""
        tensor: Tensor = self.transform(tv_tensors.Image(v2.functional.pil_to_tensor(image)))
        return tensor.as_subclass(Tensor)
