"""From a picture and its boxes to the tensors of the model: torchvision transforms v2 on tv_tensors.

Between transforms a sample is `(tv_tensors.Image, {"boxes": tv_tensors.BoundingBoxes, "labels": Tensor})`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.boxes import xyxy_to_cxcywh
from opendetr.config import DataConfig
from opendetr.pixels import WHITE_LEVELS
from opendetr.structures import Target


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of evaluation and prediction; stored with every model."""

    image_size: int  # the shorter side, unless the longer would exceed max_size
    max_size: int
    mean: tuple[float, float, float]  # of RGB in 0..1: the backbone's own
    std: tuple[float, float, float]
    multiple_of: int = 1  # both sides are multiples of this
    white_level: int | None = None  # of the data set's 16-bit pictures (`opendetr.pixels`); None: that of each file

    def transform(self) -> v2.Transform:
        """Resize, scale to 0..1, normalise."""
        resize = ResizeShorterSide((self.image_size,), self.max_size, self.multiple_of)
        return v2.Compose([resize, Normalise(self.mean, self.std)])

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture after `transform`."""
        return snapped_shape(*resized_shape(height, width, self.image_size, self.max_size), self.multiple_of)

    def with_shorter_side(self, most: int) -> "Preprocessing":
        """The same for pictures whose shorter side is at most that many pixels; the longer one in proportion."""
        if self.image_size <= most:
            return self
        return replace(self, image_size=most, max_size=max(1, round(self.max_size * most / self.image_size)))

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.white_level is None:  # as in files of earlier versions, of which fingerprints are made
            del values["white_level"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `to_json`; KeyError if a value is missing, ValueError if one is unknown or of another kind."""
        if unknown := sorted(map(str, values.keys() - {item.name for item in fields(cls)})):
            raise ValueError(f"{unknown[0]} is unknown here, and may change what the model sees")
        sizes = {"image_size": values["image_size"], "max_size": values["max_size"]}
        sizes["multiple_of"] = values.get("multiple_of", 1)
        for name, pixels in sizes.items():
            if type(pixels) is not int or pixels < 1:
                raise ValueError(f"{name} must be a whole number of pixels, at least 1, got {pixels!r}")
        for name, least, expected in (("mean", -math.inf, "three numbers"), ("std", 0, "three numbers above 0")):
            numbers = values[name]
            fits = isinstance(numbers, list | tuple) and len(numbers) == 3
            if not fits or not all(type(number) in (int, float) and least < number < math.inf for number in numbers):
                raise ValueError(f"{name} must be {expected}, of red, green and blue, got {numbers}")
        white_level = values.get("white_level")
        if white_level not in (None, *WHITE_LEVELS):
            raise ValueError(f"white_level must be one of {', '.join(map(str, WHITE_LEVELS))}, got {white_level!r}")
        return cls(mean=tuple(values["mean"]), std=tuple(values["std"]), white_level=white_level, **sizes)


def training_transform(config: DataConfig, preprocessing: Preprocessing, share: float = 1.0) -> v2.Transform:
    """The paper's flip, crop and random scale (section A.4), and zoom and colour where a recipe has them.

    `share` is a factor of the picture size.
    """
    sizes = [max(1, round(size * share)) for size in config.train_sizes or (config.image_size,)]
    resize = ResizeShorterSide(sizes, max(1, round(config.max_size * share)), config.multiple_of)
    crop = v2.Compose([ResizeShorterSide(config.crop_resize, None), RandomSizeCrop(config.crop_min, config.crop_max)])
    horizontal, vertical = (max(0.0, flip) for flip in (config.horizontal_flip, config.vertical_flip))  # -1: not yet
    colour = v2.ColorJitter(config.colour, config.colour, config.colour)
    steps = {
        v2.RandomHorizontalFlip(horizontal): horizontal,
        v2.RandomVerticalFlip(vertical): vertical,
        v2.RandomApply([crop], p=config.crop_probability): config.crop_probability,
        RandomZoom(config.zoom_in, config.zoom_out, config.zoom_probability): config.zoom_probability,
        resize: 1.0,
        v2.RandomApply([colour], p=0.5): config.colour,
        v2.ClampBoundingBoxes(): 1.0,  # rounding may put boxes slightly outside the border
    }
    used = [step for step, strength in steps.items() if strength]
    return v2.Compose([*used, Normalise(preprocessing.mean, preprocessing.std)])


def largest_look(config: DataConfig) -> int:
    """The largest shorter side of a picture that training needs, in pixels."""
    size = max((*config.train_sizes, config.image_size, *(config.crop_resize if config.crop_probability else ())))
    return round(size / min(1.0, config.zoom_in)) if config.zoom_probability else size


def to_target(image: Tensor, objects: dict[str, Tensor]) -> Target:
    """The boxes as fractions of the transformed picture, without those that a crop removed."""
    height, width = image.shape[-2:]
    boxes = xyxy_to_cxcywh(objects["boxes"].as_subclass(Tensor)) / torch.tensor([width, height, width, height])
    left = (boxes[:, 2:] > 0).all(1)
    return Target(objects["labels"][left], boxes[left])


class ResizeShorterSide(v2.Transform):
    """Resize so that the shorter side has one of `sizes` (drawn at random) and the longer at most `max_size`.

    Both then become the nearest multiples of `multiple_of`.
    """

    def __init__(self, sizes: Sequence[int], max_size: int | None, multiple_of: int = 1) -> None:
        super().__init__()
        self.sizes, self.max_size, self.multiple_of = tuple(sizes), max_size, multiple_of

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a size from torch's generator, which the loader seeds."""
        size = self.sizes[int(torch.randint(len(self.sizes), ()))] if len(self.sizes) > 1 else self.sizes[0]
        height, width = v2.query_size(flat_inputs)
        return {"size": snapped_shape(*resized_shape(height, width, size, self.max_size), self.multiple_of)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize a picture or its boxes."""
        resized = v2.functional.resize(inpt, list(params["size"]), antialias=True)
        # A decoder stores the colours of a pixel side by side; planes make the next steps three times as fast.
        return tv_tensors.wrap(resized.contiguous(), like=resized)


class Normalise(v2.Transform):
    """Scale pixels to 0..1 as float32, subtract the mean and divide by the standard deviation, in one new tensor."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Normalise a picture; boxes and other inputs stay unchanged."""
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            return inpt
        scaled = v2.functional.to_dtype(inpt, torch.float32, scale=True)
        is_new = inpt.dtype != torch.float32  # else it is the caller's
        return v2.functional.normalize(scaled, self.mean, self.std, inplace=is_new)


def resized_shape(height: int, width: int, size: int, max_size: int | None) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect ratio, rounded as the official code rounds."""
    shorter, longer = min(height, width), max(height, width)
    if max_size is not None and longer / shorter * size > max_size:
        size = round(max_size * shorter / longer)
    size = max(1, size)
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def snapped_shape(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Height and width as multiples, near the given ones and as nearly of their aspect ratio as that allows.

    So there are few different shapes, little padding, and no partial cells in any feature map.
    """
    if multiple == 1:
        return height, width
    around = [[max(1, side // multiple + step) * multiple for step in (-1, 0, 1, 2)] for side in (height, width)]

    def misfit(shape: tuple[int, int]) -> float:
        aspect = math.log(shape[1] / shape[0]) - math.log(width / height)
        area = math.log(shape[0] * shape[1]) - math.log(height * width)
        return abs(aspect) + 0.15 * abs(area)

    return min(itertools.product(around[0], around[1]), key=misfit)


class RandomZoom(v2.Transform):
    """Crop a part of the picture, or put it into a larger frame of its mean colour; the aspect is kept.

    The share of a side is drawn from `zoom_in` to `zoom_out`; above 1 the picture gets a frame. Objects with less than
    `VISIBLE` of their area left are removed; a region that would leave no object is not used.
    """

    VISIBLE = 0.3

    def __init__(self, zoom_in: float, zoom_out: float, probability: float) -> None:
        super().__init__()
        self.zoom_in, self.zoom_out, self.probability = zoom_in, zoom_out, probability

    def forward(self, image: tv_tensors.Image, objects: dict[str, Any]) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """The picture and the objects that remain in it."""
        if float(torch.rand(())) >= self.probability:
            return image, objects
        height, width = image.shape[-2:]
        share = self.zoom_in + (self.zoom_out - self.zoom_in) * float(torch.rand(()))
        new_height, new_width = max(1, round(height * share)), max(1, round(width * share))
        top, left = (
            int((old - new) * float(torch.rand(()))) for old, new in ((height, new_height), (width, new_width))
        )
        boxes = objects["boxes"].as_subclass(Tensor) - torch.tensor([left, top, left, top])
        limits = torch.tensor([new_width, new_height, new_width, new_height])
        visible = boxes.clamp(min=0).minimum(limits)
        keep = _areas(visible) >= self.VISIBLE * _areas(boxes)
        if len(keep) and not keep.any():
            return image, objects
        if share > 1:
            mean = [float(channel) for channel in image.float().mean((1, 2))]
            view = v2.functional.pad(image, [-left, -top, new_width - width + left, new_height - height + top], mean)
        else:
            view = v2.functional.crop(image, top, left, new_height, new_width)
        kept = tv_tensors.BoundingBoxes(visible[keep], format="XYXY", canvas_size=(new_height, new_width))
        return view, {**objects, "boxes": kept, "labels": objects["labels"][keep]}


def _areas(boxes_xyxy: Tensor) -> Tensor:
    return (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=0).prod(1)


class RandomSizeCrop(v2.Transform):
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
