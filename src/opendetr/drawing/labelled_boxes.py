"""Pictures with labelled boxes drawn on them, of detections or true objects; lines and text grow with the picture."""

import colorsys
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from opendetr.boxes import clip_boxes
from opendetr.drawing.fonts import font_file, load_font
from opendetr.drawing.placement import best_first, label_wordings, place_labels
from opendetr.labels import LabelMap
from opendetr.progress import warn
from opendetr.wording import one_line

Colour = tuple[int, int, int]

# The side of a picture is that of a square of its area, so that long strips have neither huge nor tiny text.
SIDE, LARGEST_SIDE = 400, 4096  # pixels: a smaller picture is enlarged, but no side beyond the larger
TEXT, SMALLEST_TEXT = 1 / 55, 14  # size of the font: a share of the side; pixels
LINE, THINNEST_LINE = 1 / 350, 2  # width of a box's lines: a share of the side; pixels
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
SHADES = ((1.0, 0.7), (0.85, 1.0), (0.45, 1.0), (0.6, 0.6))  # saturation and brightness
FIRST_HUE, HUE_STEP = 0.37, 0.28  # of those tried, the steps with the most distinct first 20 colours; id 1 is blue


class _Label(NamedTuple):
    wordings: list[str]  # the longest first
    font: ImageFont.FreeTypeFont
    ground: Colour


def draw_boxes(
    image: Image.Image,
    boxes_xyxy: Float[Tensor, "N 4"],
    labels: Int[Tensor, " N"],
    label_map: LabelMap,
    scores: Float[Tensor, " N"] | None = None,
) -> Image.Image:
    """A copy of the RGB picture with a box and a label per object, and a colour per class.

    A small picture comes back enlarged by a whole number, so that labels can be read. Objects with better scores
    (without scores: earlier ones) are on top, and their labels have the first choice of a place.

    Args:
        image: stays as it is.
        boxes_xyxy: in pixels of the picture; drawn as far as they lie in it, left out where nothing does.
        labels: class indices.
        label_map: its names are written, its raw category ids choose the colours.
        scores: 0..1, written behind the names; None for true objects.
    """
    canvas, factor = enlarged(image)
    clipped, visible = clip_boxes(boxes_xyxy.double() * factor, (canvas.height, canvas.width))
    ranked = best_first(len(labels), None if scores is None else scores.numpy())
    order = [number for number in ranked if visible[number]]
    boxes, classes = clipped.numpy()[order], labels.numpy()[order].tolist()
    values = ["" if scores is None else f"{scores[number]:.2f}" for number in order]
    written = [_label(label_map, label, value, canvas.size) for label, value in zip(classes, values)]
    pen = ImageDraw.Draw(canvas)
    for box, label in reversed(list(zip(boxes, written))):  # the best last, on top
        _draw_box(pen, box, label.ground, line_width(canvas.size))
    sizes = [[_size(text, label.font, canvas.size) for text in label.wordings] for label in written]
    places = place_labels(boxes, sizes, canvas.size)
    for place, label in reversed(list(zip(places, written))):
        _draw_label(pen, place, label, canvas.size)
    return canvas


def enlargement(size: tuple[int, int]) -> int:
    """How many times larger a picture of `size` (width, height, or the reverse) is drawn; 1 for all but small ones."""
    return max(1, min(math.ceil(SIDE / _side(size)), LARGEST_SIDE // max(size)))


def enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """A copy to draw on, and how many times larger it is."""
    factor = enlargement(image.size)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS), factor


def line_width(size: tuple[int, int]) -> int:
    """The width of lines on a canvas of `size`, in pixels."""
    return max(THINNEST_LINE, round(LINE * _side(size)))


def _side(size: tuple[int, int]) -> float:
    return math.sqrt(size[0] * size[1])


@lru_cache(maxsize=1024)
def class_colour(category_id: int) -> Colour:
    """The colour (red, green, blue, 0..255) of a class by its raw id: the same in all pictures and runs.

    Four neighbouring ids differ in hue and shade. The hue of the next four is turned by the golden ratio, so that no
    number of classes uses the hues up.
    """
    turn, shade = divmod(category_id, len(SHADES))
    hue = (FIRST_HUE + turn * GOLDEN_RATIO + shade * HUE_STEP) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, *SHADES[shade])
    return round(255 * red), round(255 * green), round(255 * blue)


def colour_of_class(label_map: LabelMap, label: int) -> Colour:
    """The colour of the class with index `label`."""
    category_id = label_map.category_ids[label] or 0
    return class_colour(category_id if isinstance(category_id, int) and 0 <= category_id < 2**31 else label)


def text_colour(ground: Colour) -> Colour:
    """Black or white, whichever has more contrast with the ground: at least 4.5 (WCAG 2.2, success criterion 1.4.3)."""
    return (0, 0, 0) if luminance(ground) > 0.179 else (255, 255, 255)


def luminance(colour: Colour) -> float:
    """The relative luminance, 0 (black) to 1 (white), of an sRGB colour, as WCAG 2.2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _label(label_map: LabelMap, label: int, value: str, canvas: tuple[int, int]) -> _Label:
    """The wordings of a label: name and value, shortened where too wide; the value alone."""
    name, file = _written_name(label_map.names[label], label_map.category_ids[label])
    size = max(SMALLEST_TEXT, round(TEXT * _side(canvas)))
    font = load_font(file, size)
    wordings = label_wordings(name, value, size, canvas[0], font.getlength, 2 * _margin(font))
    return _Label(wordings, font, colour_of_class(label_map, label))


@lru_cache(maxsize=1024)
def _written_name(name: str, category_id: int | None) -> tuple[str, str | None]:
    """The name on one line and the file of a font for it, or the category's id where no font here can write it."""
    name = one_line(" ".join(name.split()))
    file = font_file(name + "0123456789.… ")
    if file is not None or name.isascii():
        return name, file
    warn(
        f"no font of this machine can write {name}: drawn pictures say 'id {category_id}' instead. "
        "Install a font that has these characters, such as one of Google's Noto fonts."
    )
    return f"id {category_id}", font_file("id 0123456789.…")


def _size(text: str, font: ImageFont.FreeTypeFont, canvas: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a label in pixels, at most those of the canvas."""
    width, height = math.ceil(font.getlength(text)) + 2 * _margin(font), sum(font.getmetrics())
    return min(width, canvas[0]), min(height, canvas[1])


def _margin(font: ImageFont.FreeTypeFont) -> int:
    """Pixels left and right of a label's text."""
    return round(font.size / 4)


def _draw_box(pen: ImageDraw.ImageDraw, box_xyxy: Float[np.ndarray, "4"], colour: Colour, line: int) -> None:
    """A box whose lines lie inside it, between thinner lines that set it off from a ground of its own colour."""
    left, top, right, bottom = box_xyxy.round().astype(int).tolist()
    right, bottom = max(right - 1, left), max(bottom - 1, top)
    edge = max(1, line // 4)
    around = (left - edge, top - edge, right + edge, bottom + edge)
    pen.rectangle(around, outline=text_colour(colour), width=line + 2 * edge)
    pen.rectangle((left, top, right, bottom), outline=colour, width=line)


def _draw_label(pen: ImageDraw.ImageDraw, place: tuple[int, int, int], label: _Label, canvas: tuple[int, int]) -> None:
    wording, left, top = place
    text = label.wordings[wording]
    width, height = _size(text, label.font, canvas)
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=label.ground)
    pen.text((left + _margin(label.font), top), text, text_colour(label.ground), label.font)
