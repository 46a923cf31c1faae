"""Objects with an id and the line they came along, drawn on a frame of a video."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from opendetr.drawing.labelled_boxes import class_colour, draw_boxes, enlarged, line_width, text_colour
from opendetr.labels import LabelMap

Point = tuple[float, float]


def draw_tracks(
    image: Image.Image,
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    names: Sequence[str],
    track_ids: Sequence[int],
    traces: Mapping[int, Sequence[Point]],
) -> Image.Image:
    """A copy of the RGB picture with a box, `name #id` and a colour per track, and lines along the points of `traces`.

    A small picture comes back enlarged, as in `draw_boxes`. Boxes and points are in pixels of the picture.
    """
    canvas, factor = enlarged(image)
    pen, width = ImageDraw.Draw(canvas), line_width(canvas.size)
    for track_id, points in traces.items():
        line = [(x * factor, y * factor) for x, y in points]
        if len(line) > 1:
            colour = class_colour(track_id)
            for fill, wide in ((text_colour(colour), width + 2 * max(1, width // 4)), (colour, width)):
                pen.line(line, fill, wide, joint="curve")
    if not track_ids:
        return canvas
    # The colours and names of tracks instead of those of classes.
    label_map = LabelMap(tuple(track_ids), tuple(f"{name} #{number}" for name, number in zip(names, track_ids)))
    return draw_boxes(canvas, boxes_xyxy * factor, torch.arange(len(track_ids)), label_map, scores)
