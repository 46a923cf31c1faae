"""Pictures through an engine to detections: the one loop of evaluation, prediction and serving."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from opendetr.checkpoints.description import Description
from opendetr.data.loader import group_equal_shapes
from opendetr.engines.engine import Engine
from opendetr.model.postprocess import postprocess
from opendetr.structures import Batch, Detections


class Prepared(NamedTuple):
    """A picture as the model sees it, and whose it is."""

    key: int
    image: Tensor  # [3, h, w], normalised
    size: tuple[int, int]  # height, width of the picture before any transform, in pixels
    image_id: int = 0


def detect(
    engine: Engine,
    description: Description,
    pictures: Iterable[Prepared],
    batch_size: int,
    before_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Detections]]:
    """Every answer about every picture, as they come; pictures of one shape come together.

    Args:
        engine: runs the model.
        description: of the model.
        pictures: read as they are needed.
        batch_size: pictures at once, as far as their shapes are equal; the result does not depend on it.
        before_batch: called before every batch; what it raises ends the work.
    """
    for group in group_equal_shapes(pictures, lambda picture: tuple(picture.image.shape), batch_size):
        before_batch()
        batch = Batch(
            torch.stack([picture.image for picture in group]), None,
            torch.tensor([picture.size for picture in group]), torch.tensor([picture.image_id for picture in group]),
        )  # fmt: skip
        found = postprocess(engine(batch.images, None), batch, description.scoring, description.label_map)
        yield from zip((picture.key for picture in group), found)
