"""Pictures with boxes for pages: a small JPEG, with boxes and names as SVG over it, sharp at any size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from opendetr.boxes import clip_boxes
from opendetr.drawing.labelled_boxes import Colour, colour_of_class, text_colour
from opendetr.drawing.placement import best_first, label_wordings, place_labels
from opendetr.images import encode_image
from opendetr.labels import LabelMap
from opendetr.pages.page import data_address

LONGER_SIDE = 480  # pixels, of the JPEG; a smaller picture keeps its size
DRAWN_SIDE = 400  # of the longer side in the SVG's own units
FONT, MARGIN, LETTER = 16, 3, 0.58  # in these units; the mean width of a letter, in sizes of the font
MOST_NAMES = 12  # boxes of a picture with names: more would cover it


@dataclass(frozen=True)
class Thumbnail:
    """A picture for a page. Nothing but the pixels is kept of its file: no EXIF, no comments."""

    jpeg: bytes
    width: int  # of the picture itself, whose pixels boxes are given in
    height: int
    key: str  # of the picture in its page

    @classmethod
    def of(cls, image: Image.Image, key: str) -> "Thumbnail":
        """A smaller copy of an RGB picture; `key` must be unique in the page."""
        small = image.copy()
        small.thumbnail((LONGER_SIDE, LONGER_SIDE), reducing_gap=2.0)
        small.info = {}  # Pillow would write a JPEG's comment again
        return cls(encode_image(small, "JPEG", quality=82), image.width, image.height, key)

    def alone(self) -> str:
        """The picture itself, as SVG that `boxed` can refer to."""
        address = data_address(self.jpeg, "image/jpeg")
        return f'<image id="{self.key}" href="{address}" width="{self._width:.1f}" height="{self._height:.1f}"/>'

    def boxed(
        self,
        boxes_xyxy: Float[np.ndarray, "N 4"],
        labels: Int[np.ndarray, " N"],
        label_map: LabelMap,
        scores: Sequence[float] | None = None,
        *,
        with_names: bool = True,
        is_repeated: bool = False,
    ) -> str:
        """The picture with a box and a name per object, in the colour of its class.

        Objects with better scores (without scores: earlier ones) are on top, and their names choose their places first.

        Args:
            boxes_xyxy: in pixels of the picture; drawn as far as they lie in it, left out where nothing does.
            labels: class indices.
            label_map: its names are written, its category ids choose the colours.
            scores: 0..1, written behind the names; None for true objects.
            with_names: write them where they do not cover the picture; they are shown under the mouse in any case.
            is_repeated: the page has the picture already, and it is shown again.
        """
        clipped, visible = clip_boxes(torch.from_numpy(np.asarray(boxes_xyxy, np.float64)), (self.height, self.width))
        boxes = clipped.numpy() * (self._width / self.width)
        order = [number for number in best_first(len(labels), scores) if visible[number]]
        values = ["" if scores is None else f"{scores[number]:.2f}" for number in order]
        classes = [int(labels[number]) for number in order]
        objects = list(zip(boxes[order], classes, values))
        drawn = "".join(_rectangle(box, label_map, label, value) for box, label, value in reversed(objects))
        if with_names and len(labels) <= MOST_NAMES:
            drawn += self._names(boxes[order], classes, values, label_map)
        shown = f'<use href="#{self.key}"/>' if is_repeated else self.alone()
        size = f'viewBox="0 0 {self._width:.1f} {self._height:.1f}"'
        return f'<svg {size} font-family="system-ui,sans-serif" font-size="{FONT}">{shown}{drawn}</svg>'

    def _names(
        self, boxes: Float[np.ndarray, "N 4"], classes: Sequence[int], values: Sequence[str], label_map: LabelMap
    ) -> str:
        """The names of classes with values, each on a ground of its colour at its box; the first on top."""
        canvas = math.floor(self._width), math.floor(self._height)
        wordings = [
            label_wordings(label_map.names[label], value, FONT, canvas[0], _length, 2 * MARGIN)
            for label, value in zip(classes, values)
        ]
        height = min(FONT + 2 * MARGIN, canvas[1])
        sizes = [[(min(math.ceil(_length(text)) + 2 * MARGIN, canvas[0]), height) for text in of] for of in wordings]
        written = []
        for (wording, x, y), texts, of, label in zip(place_labels(boxes, sizes, canvas), wordings, sizes, classes):
            ground, width = colour_of_class(label_map, label), of[wording][0]
            behind = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{_for_html(ground)}"/>'
            fitted = f'textLength="{max(1, width - 2 * MARGIN)}" lengthAdjust="spacingAndGlyphs"'
            ink = _for_html(text_colour(ground))
            text = f'<text x="{x + MARGIN}" y="{y + FONT}" {fitted} fill="{ink}">{escape(texts[wording])}</text>'
            written.append(behind + text)
        return f'<g pointer-events="none">{"".join(reversed(written))}</g>'  # the mouse reaches the boxes below

    @property
    def _sides(self) -> tuple[float, float]:
        scale = DRAWN_SIDE / max(self.width, self.height)
        return self.width * scale, self.height * scale

    @property
    def _width(self) -> float:
        return self._sides[0]

    @property
    def _height(self) -> float:
        return self._sides[1]


def _length(text: str) -> float:
    return LETTER * FONT * len(text)


def _rectangle(box: Float[np.ndarray, "4"], label_map: LabelMap, label: int, value: str) -> str:
    """A box with its name and value under the mouse."""
    x1, y1, x2, y2 = box.tolist()
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    look = f'fill="transparent" stroke="{_for_html(colour_of_class(label_map, label))}" stroke-width="2.5"'
    return f"<rect {place} {look}><title>{escape(f'{label_map.names[label]} {value}'.strip())}</title></rect>"


def legend(labels: Sequence[int], label_map: LabelMap) -> str:
    """The names of some classes on their colours, as HTML."""
    names = []
    for label in labels:
        ground = colour_of_class(label_map, label)
        style = f"background:{_for_html(ground)};color:{_for_html(text_colour(ground))}"
        names.append(f'<span class=name style="{style}">{escape(label_map.names[label])}</span>')
    return f"<p>{' '.join(names)}</p>"


def _for_html(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
