"""The sizes of resized pictures: how each library rounds them, and multiples of a number."""

import itertools
import math
from typing import Literal

Rounding = Literal["official", "transformers", "nearest", "down"]
"""Whose rule gives the sides of a resized picture in whole pixels:

official: of the official code (and of transformers before 4.42): the longer side follows from the rounded shorter one
transformers: of `shortest_edge` and `longest_edge` since 4.42: where the longer side is the limit, from the exact one
nearest: both sides to the nearest pixel, as the authors of the Table Transformer do
down: both sides down, as `max_height` and `max_width` of transformers
"""


def resized_shape(
    height: int, width: int, size: int, max_size: int | None, rounding: Rounding = "official"
) -> tuple[int, int]:
    """Height and width after a resize that keeps the aspect: the shorter side `size`, the longer at most `max_size`.

    Every rule computes as its library does, operation by operation, so that floats round to the same pixels.
    """
    shorter, longer = min(height, width), max(height, width)
    if rounding in ("nearest", "down"):
        scale = size / shorter if max_size is None else min(size / shorter, max_size / longer)
        to_pixels = round if rounding == "nearest" else int
        return max(1, to_pixels(height * scale)), max(1, to_pixels(width * scale))
    exact: float = size
    if max_size is not None and longer / shorter * size > max_size:
        exact = max_size * shorter / longer
        size = round(exact)
    size = max(1, size)
    if rounding == "official" or shorter == size:  # transformers leaves such a picture as it is, and so does this
        exact = size
    other = max(1, int(exact * longer / shorter))
    return (size, other) if height <= width else (other, size)


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
