"""Pictures with boxes for pages: a small JPEG, with boxes and names as SVG over it, sharp at any size."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from opendetr.drawing.labelled_boxes import Colour, class_colour, text_colour
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
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=82)
        return cls(buffer.getvalue(), image.width, image.height, key)

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

        Args:
            boxes_xyxy: in pixels of the picture; drawn as far as they lie in it.
            labels: class indices.
            label_map: its names are written, its category ids choose the colours.
            scores: 0..1, written behind the names; None for true objects.
            with_names: write them where they do not cover the picture; they are shown under the mouse in any case.
            is_repeated: the page has the picture already, and it is shown again.
        """
        scale, drawn = self._width / self.width, ""
        for number, (box, label) in enumerate(zip(boxes_xyxy.tolist(), labels.tolist())):
            name = label_map.names[label] + ("" if scores is None else f" {scores[number]:.2f}")
            x1, y1, x2, y2 = (min(max(0.0, value * scale), most) for value, most in zip(box, (*self._sides,) * 2))
            red_green_blue = class_colour(label_map.category_ids[label] or 0)
            colour = _for_html(red_green_blue)
            place = f'x="{x1:.1f}" y="{y1:.1f}" width="{max(1, x2 - x1):.1f}" height="{max(1, y2 - y1):.1f}"'
            look = f'fill="transparent" stroke="{colour}" stroke-width="2.5"'
            drawn += f"<rect {place} {look}><title>{escape(name)}</title></rect>"
            if with_names and len(labels) <= MOST_NAMES:
                drawn += self._name(name, x1, y1, red_green_blue)
        shown = f'<use href="#{self.key}"/>' if is_repeated else self.alone()
        size = f'viewBox="0 0 {self._width:.1f} {self._height:.1f}"'
        return f'<svg {size} font-family="system-ui,sans-serif" font-size="{FONT}">{shown}{drawn}</svg>'

    def _name(self, name: str, x: float, y: float, ground: Colour) -> str:
        """The name on a ground of its class's colour, over the upper left corner of a box, or in it, in the picture."""
        width, height = LETTER * FONT * len(name) + 2 * MARGIN, FONT + 2 * MARGIN
        x, y = max(0.0, min(x, self._width - width)), max(0.0, y - height)
        behind = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{_for_html(ground)}"/>'
        written = _for_html(text_colour(ground))
        fitted = f'textLength="{width - 2 * MARGIN:.1f}" lengthAdjust="spacingAndGlyphs" fill="{written}"'
        return f'{behind}<text x="{x + MARGIN:.1f}" y="{y + FONT:.1f}" {fitted}>{escape(name)}</text>'

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


def legend(labels: Sequence[int], label_map: LabelMap) -> str:
    """The names of some classes on their colours, as HTML."""
    names = []
    for label in labels:
        ground = class_colour(label_map.category_ids[label] or 0)
        style = f"background:{_for_html(ground)};color:{_for_html(text_colour(ground))}"
        names.append(f'<span class=name style="{style}">{escape(label_map.names[label])}</span>')
    return f"<p>{' '.join(names)}</p>"


def _for_html(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
