"""Pictures through an engine to detections: the one loop of evaluation, prediction and serving."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from opendetr.checkpoints.description import Description
from opendetr.data.loader import group_equal_shapes
from opendetr.engines.engine import Engine
from opendetr.model.postprocess import postprocess
from opendetr.raw_values import RawId
from opendetr.structures import Batch, Detections, DetrOutput


class Prepared(NamedTuple):
    """A picture as the model's input, with its ids."""

    key: int
    image: Tensor  # [3, h, w], normalised
    size: tuple[int, int]  # height, width of the picture before any transform, in pixels
    image_id: RawId = 0


def detect(
    engine: Engine,
    description: Description,
    pictures: Iterable[Prepared],
    batch_size: int,
    before_batch: Callable[[], None] = lambda: None,
    observe: Callable[[Sequence[int], DetrOutput], None] = lambda keys, output: None,
) -> Iterator[tuple[int, Detections]]:
    """The key and all detections of every picture, which are read as they are needed.

    Pictures of one shape are batched together, up to `batch_size`; the result does not depend on it. `before_batch` is
    called before every batch, `observe` with the keys of a batch and what the engine answered to it.
    """
    for group in group_equal_shapes(pictures, lambda picture: tuple(picture.image.shape), batch_size):
        before_batch()
        images, mask, factors = description.preprocessing.framed(torch.stack([picture.image for picture in group]))
        sizes = torch.tensor([picture.size for picture in group])
        batch = Batch(images, mask, sizes, tuple(picture.image_id for picture in group))
        output = engine(images, mask)
        if mask is not None:
            output = replace(output, boxes_cxcywh=output.boxes_cxcywh * factors.to(output.boxes_cxcywh))
        observe([picture.key for picture in group], output)
        found = postprocess(output, batch, description.scoring, description.label_map)
        yield from zip((picture.key for picture in group), found)
