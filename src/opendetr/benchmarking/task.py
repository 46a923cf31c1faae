"""The input of every side of a benchmark: the same pictures, and the same normalised images."""

import math
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from opendetr.benchmarking.process_memory import make_pictures
from opendetr.checkpoints.native import Checkpoint
from opendetr.data.transforms import Preprocessing
from opendetr.errors import UserError

PICTURE = (480, 640)  # height, width: a picture of COCO


@dataclass(frozen=True)
class Task:
    """The input of every side."""

    preprocessing: Preprocessing
    pictures: list[Image.Image]
    images: Tensor  # the same, normalised, [B, 3, H, W]

    @classmethod
    def of(cls, checkpoint: Checkpoint, size: tuple[int, int] | None, batch: int) -> "Task":
        """Pictures that become an input of this size, or pictures of COCO's size where it is None.

        Raises:
            UserError: the model's input never has that size.
        """
        preprocessing, picture = checkpoint.preprocessing, PICTURE
        if size is not None:
            multiple = preprocessing.multiple_of
            if any(side < 1 or side % multiple for side in size):
                raise UserError(
                    f"--size {size[0]}x{size[1]}: expected height x width in multiples of {multiple} pixels"
                )
            preprocessing = replace(preprocessing, image_size=min(size), max_size=max(size))
            picture = _same_aspect(size)
        pictures, transform = make_pictures(batch, *picture), preprocessing.transform()
        images = torch.stack([transform(v2.functional.pil_to_tensor(one)) for one in pictures])
        return cls(preprocessing, pictures, images)

    @property
    def picture(self) -> tuple[int, int]:
        """Height and width of the decoded pictures."""
        return self.pictures[0].height, self.pictures[0].width


def _same_aspect(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture that becomes exactly this input: near COCO's size, but not the input's."""
    unit = math.gcd(*size)
    times = max(1, round(min(PICTURE) * unit / min(size)))
    times += times == unit  # a picture of the input's size would need no resizing
    return size[0] // unit * times, size[1] // unit * times
