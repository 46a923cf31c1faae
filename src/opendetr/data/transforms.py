"""From a picture and its boxes to the tensors of the model: torchvision transforms v2 on tv_tensors.

Between transforms a sample is `(tv_tensors.Image, {"boxes": tv_tensors.BoundingBoxes, "labels": Tensor})`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.boxes import xyxy_to_cxcywh
from opendetr.config import DataConfig
from opendetr.structures import Target


@dataclass(frozen=True)
class Preprocessing:
    """What evaluation and prediction do to a picture; stored with every model."""

    image_size: int  # the shorter side, unless the longer would exceed max_size
    max_size: int
    mean: tuple[float, float, float]  # of RGB in 0..1: the backbone's own
    std: tuple[float, float, float]

    def transform(self) -> v2.Transform:
        """Resize, scale to 0..1, normalise."""
        return v2.Compose([ResizeShorterSide((self.image_size,), self.max_size), *_normalise(self.mean, self.std)])

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "image_size": self.image_size, "max_size": self.max_size, "mean": list(self.mean), "std": list(self.std),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`."""
        return cls(values["image_size"], values["max_size"], tuple(values["mean"]), tuple(values["std"]))


def training_transform(config: DataConfig, preprocessing: Preprocessing) -> v2.Transform:
    """The paper's augmentation (section A.4): flip, resize to a random scale, half of the time after a random crop."""
    resize = ResizeShorterSide(config.train_sizes, config.max_size)
    crop = v2.Compose([ResizeShorterSide(config.crop_resize, None), RandomSizeCrop(config.crop_min, config.crop_max)])
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(config.horizontal_flip),
            v2.RandomApply([crop], p=config.crop_probability),
            resize,
            v2.ClampBoundingBoxes(),  # rounding leaves boxes at the border a hair outside
            *_normalise(preprocessing.mean, preprocessing.std),
        ]
    )


def _normalise(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def to_target(image: Tensor, objects: dict[str, Tensor]) -> Target:
    """The boxes as fractions of the transformed picture, without those of which a crop left nothing."""
    height, width = image.shape[-2:]
    boxes = xyxy_to_cxcywh(objects["boxes"].as_subclass(Tensor)) / torch.tensor([width, height, width, height])
    left = (boxes[:, 2:] > 0).all(1)
    return Target(objects["labels"][left], boxes[left])


class ResizeShorterSide(v2.Transform):  # type: ignore[misc]
    """Resize so that the shorter side has one of `sizes` (drawn at random) and the longer at most `max_size`."""

    def __init__(self, sizes: Sequence[int], max_size: int | None) -> None:
        super().__init__()
        self.sizes, self.max_size = tuple(sizes), max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a size; torch's generator, so that the loader's seed decides."""
        size = self.sizes[int(torch.randint(len(self.sizes), ()))] if len(self.sizes) > 1 else self.sizes[0]
        height, width = v2.query_size(flat_inputs)
        return {"size": resized_shape(height, width, size, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize a picture or its boxes."""
        return v2.functional.resize(inpt, list(params["size"]), antialias=True)


def resized_shape(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect ratio, rounded as the official code rounds."""
    shorter, longer = min(height, width), max(height, width)
    if max_size is not None and longer / shorter * size > max_size:
        size = round(max_size * shorter / longer)
    size = max(1, size)
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


class RandomSizeCrop(v2.Transform):  # type: ignore[misc]
    """Crop a region whose sides are each drawn from `smallest`..`largest`, as far as the picture allows."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.smallest, self.largest = smallest, largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the region."""
        height, width = v2.query_size(flat_inputs)
        crop_height, crop_width = self._draw_side(height), self._draw_side(width)
        top = int(torch.randint(height - crop_height + 1, ()))
        left = int(torch.randint(width - crop_width + 1, ()))
        return {"top": top, "left": left, "height": crop_height, "width": crop_width}

    def _draw_side(self, available: int) -> int:
        largest = min(available, self.largest)
        smallest = min(self.smallest, largest)
        return int(torch.randint(smallest, largest + 1, ()))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop a picture, or move its boxes and clip them to the region."""
        cropped = v2.functional.crop(inpt, **params)
        return v2.functional.clamp_bounding_boxes(cropped) if isinstance(inpt, tv_tensors.BoundingBoxes) else cropped
