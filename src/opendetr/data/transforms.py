"""From a picture and its boxes to the tensors of the model: torchvision transforms v2 on tv_tensors.

The file is long because the preprocessing that is stored with a model stands beside the transforms it describes.

Between transforms a sample is `(tv_tensors.Image, {"boxes": tv_tensors.BoundingBoxes, "labels": Tensor})`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from opendetr.boxes import xyxy_to_cxcywh
from opendetr.config import LIMITS, MOST_PIXELS, DataConfig, require_image_size
from opendetr.data.sizes import Rounding, resized_shape, snapped_shape
from opendetr.errors import UserError
from opendetr.pixels import WHITE_LEVELS
from opendetr.structures import Target

Resampling = Literal["bilinear", "bicubic"]
Resizer = Literal["torchvision", "pillow"]
WITHOUT_PADDING = (
    "the model is one for pictures padded to one size (pad_size of its image processor), which predict, val and track "
    "know; fine-tune it with train --init for a model without padding"
)


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of evaluation and prediction; stored with every model."""

    image_size: int  # the shorter side, unless the longer would exceed max_size
    max_size: int
    mean: tuple[float, float, float]  # of RGB in 0..1: the backbone's own
    std: tuple[float, float, float]
    multiple_of: int = 1  # both sides are multiples of this
    white_level: int | None = None  # of the data set's 16-bit pictures (`opendetr.pixels`); None: that of each file
    rounding: Rounding = "official"  # of the resized sides, before `multiple_of`
    resampling: Resampling = "bilinear"  # with antialiasing
    resizer: Resizer = "torchvision"  # Pillow's pixels differ from it by at most one of 255 levels
    pad_size: tuple[int, int] | None = None  # height, width of the frame that pictures are padded to; boxes are in it

    def transform(self) -> v2.Transform:
        """Resize, scale to 0..1, normalise."""
        resize = ResizeShorterSide(
            (self.image_size,), self.max_size, self.multiple_of, self.rounding, self.resampling, self.resizer
        )
        return v2.Compose([resize, Normalise(self.mean, self.std)])

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture after `transform`."""
        resized = resized_shape(height, width, self.image_size, self.max_size, self.rounding)
        return snapped_shape(*resized, self.multiple_of)

    def with_shorter_side(self, most: int) -> "Preprocessing":
        """The same for pictures whose shorter side is at most that many pixels; the longer one in proportion."""
        return self if self.image_size <= most else self.resized(most)

    def resized(self, image_size: int) -> "Preprocessing":
        """The same with another shorter side, in pixels, and the largest longer one in proportion.

        Where both are equal, as of the Table Transformer, it is the longer side that has this size.
        """
        require_image_size(image_size)
        longer, *frame = (
            max(1, round(side * image_size / self.image_size)) for side in (self.max_size, *(self.pad_size or ()))
        )
        pad_size = (max(longer, frame[0]), max(longer, frame[1])) if frame else None
        if pad_size is not None and max(pad_size) > MOST_PIXELS:
            raise UserError(
                f"--image-size {image_size} makes the model's pad_size {max(pad_size)}, above {MOST_PIXELS}"
            )
        return replace(self, image_size=image_size, max_size=longer, pad_size=pad_size)

    def framed(self, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Transformed pictures of one shape as the model wants them: padded where it is one for padded pictures.

        Args:
            images: [B, 3, h, w].

        Returns:
            The pictures, padded with zeros at right and bottom; the padding mask, None without padding; and by what
            boxes [..., cxcywh] of the model are multiplied to be fractions of the picture.

        Raises:
            UserError: they do not fit, as very long pictures that no rule makes shorter.
        """
        if self.pad_size is None:
            return images, None, torch.ones(4)
        (height, width), (whole_height, whole_width) = images.shape[2:], self.pad_size
        if height > whole_height or width > whole_width:
            raise UserError(
                f"a picture of {height}x{width} pixels, after resizing, does not fit the model's pad_size of "
                f"{whole_height}x{whole_width}: its sides are too unequal; leave it out or cut it"
            )
        padded = images.new_zeros(*images.shape[:2], *self.pad_size)
        padded[:, :, :height, :width] = images
        mask = torch.ones(len(images), *self.pad_size, dtype=torch.bool)
        mask[:, :height, :width] = False
        return padded, mask, torch.tensor([whole_width / width, whole_height / height] * 2)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if self.pad_size is not None:
            values["pad_size"] = list(self.pad_size)
        # Not in files of earlier versions, nor in fingerprints, where they are as they were.
        for name in ("white_level", "rounding", "resampling", "resizer", "pad_size"):
            if values[name] == getattr(Preprocessing, name):
                del values[name]
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
                raise ValueError(f"{name} must be a whole number of pixels, at least 1, got {pixels!r:.100}")
            if pixels > LIMITS[name]:
                raise ValueError(f"{name} must be at most {LIMITS[name]} pixels, got {pixels}")
        for name, least, expected in (("mean", -math.inf, "three numbers"), ("std", 0, "three numbers above 0")):
            numbers = values[name]
            fits = isinstance(numbers, list | tuple) and len(numbers) == 3
            if not fits or not all(type(number) in (int, float) and least < number < math.inf for number in numbers):
                raise ValueError(f"{name} must be {expected}, of red, green and blue, got {numbers}")
        white_level = values.get("white_level")
        if white_level not in (None, *WHITE_LEVELS):
            raise ValueError(f"white_level must be one of {', '.join(map(str, WHITE_LEVELS))}, got {white_level!r}")
        rules = {"rounding": get_args(Rounding), "resampling": get_args(Resampling), "resizer": get_args(Resizer)}
        for name, known in rules.items():
            if values.get(name, known[0]) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {values[name]!r}")
        told: dict[str, Any] = {name: values.get(name, known[0]) for name, known in rules.items()}
        if (frame := values.get("pad_size")) is not None:
            fits = isinstance(frame, list | tuple) and len(frame) == 2 and all(type(side) is int for side in frame)
            if not fits or min(frame) < sizes["max_size"]:
                enough = f"at least the longer side, {sizes['max_size']}"
                raise ValueError(f"pad_size must be a height and a width of {enough}, got {frame!r:.100}")
            if max(frame) > MOST_PIXELS:
                raise ValueError(f"pad_size must be at most {MOST_PIXELS} pixels, got {frame!r:.100}")
            told["pad_size"] = tuple(frame)
        return cls(mean=tuple(values["mean"]), std=tuple(values["std"]), white_level=white_level, **sizes, **told)


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

    def __init__(
        self,
        sizes: Sequence[int],
        max_size: int | None,
        multiple_of: int = 1,
        rounding: Rounding = "official",
        resampling: Resampling = "bilinear",
        resizer: Resizer = "torchvision",
    ) -> None:
        super().__init__()
        self.sizes, self.max_size, self.multiple_of = tuple(sizes), max_size, multiple_of
        self.rounding: Rounding = rounding
        self.resizer = resizer
        self.interpolation = v2.InterpolationMode(resampling)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw a size from torch's generator, which the loader seeds."""
        size = self.sizes[int(torch.randint(len(self.sizes), ()))] if len(self.sizes) > 1 else self.sizes[0]
        height, width = v2.query_size(flat_inputs)
        resized = resized_shape(height, width, size, self.max_size, self.rounding)
        return {"size": snapped_shape(*resized, self.multiple_of)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize a picture or its boxes."""
        size, by_pillow = list(params["size"]), self.resizer == "pillow" and isinstance(inpt, tv_tensors.Image)
        if by_pillow:
            picture = v2.functional.to_pil_image(inpt)
            pixels = v2.functional.pil_to_tensor(v2.functional.resize(picture, size, self.interpolation))
            return tv_tensors.Image(pixels)
        resized = v2.functional.resize(inpt, size, self.interpolation, antialias=True)
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
