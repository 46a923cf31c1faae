"""Where labels go, so that all are inside the picture and none covers another while there is room."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

WIDEST, WIDEST_IN_TEXT = 0.6, 12  # width of a label: a share of the picture's; in narrow ones, sizes of the font
_STEPS = 9  # places along a side of a box


def label_wordings(
    name: str, value: str, size: float, canvas_width: float, length: Callable[[str], float], margins: float
) -> list[str]:
    """The wordings of a label for `place_labels`: name and value, the name shortened where too wide; the value alone.

    Args:
        name: of the class.
        value: written behind it; '' for none.
        size: of the font, in the canvas's unit.
        canvas_width: of the whole picture.
        length: the width of a text.
        margins: left and right of it together.
    """
    widest = max(WIDEST * canvas_width, min(WIDEST_IN_TEXT * size, canvas_width)) - margins
    text, kept = f"{name} {value}".strip(), len(name)
    while kept and length(text) > widest:
        kept -= 1
        text = f"{name[:kept].rstrip()}… {value}".strip()
    return [text, value] if value else [text]


def best_first(count: int, scores: Sequence[float] | np.ndarray | None) -> list[int]:
    """The numbers of objects in the order in which their labels choose their places; without scores as they are."""
    return list(range(count)) if scores is None else np.argsort(-np.asarray(scores), kind="stable").tolist()


def place_labels(
    boxes_xyxy: Float[np.ndarray, "N 4"], sizes: Sequence[Sequence[tuple[int, int]]], canvas: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """Places labels at their boxes, one after the other: those placed first have the first choice.

    A label stands on its box at the left, or at the nearest of some 40 places around and in the box that covers no
    label placed before. Where there is none, its next shorter wording is tried; where there is none for the shortest
    either, it goes where it covers least.

    Args:
        boxes_xyxy: in pixels of the canvas, within it.
        sizes: of each label (width, height) in pixels, in each of its wordings, the longest first.
        canvas: width, height in pixels; every label is at most so large.

    Returns:
        Of each label the number of its wording and its left and top in pixels, inside the canvas.
    """
    placed = np.empty((0, 4))
    places: list[tuple[int, int, int]] = []
    for box, wordings in zip(boxes_xyxy, sizes):
        wording, place = _place(box, wordings, placed, canvas)
        placed = np.concatenate([placed, place[None]])
        places.append((wording, int(place[0]), int(place[1])))
    return places


def _place(
    box: Float[np.ndarray, "4"],
    wordings: Sequence[tuple[int, int]],
    placed: Float[np.ndarray, "M 4"],
    canvas: tuple[int, int],
) -> tuple[int, Float[np.ndarray, "4"]]:
    """The number of the wording of a label, given their sizes, and its rectangle."""
    for wording, size in enumerate(wordings):
        candidates = _around(box, size, canvas)
        covered = _overlap(candidates, placed).sum(1)
        best = int(covered.argmin())  # the first of equals
        if covered[best] == 0 or wording == len(wordings) - 1:
            return wording, candidates[best]
    raise ValueError("a label needs a wording")


def _around(
    box: Float[np.ndarray, "4"], size: tuple[int, int], canvas: tuple[int, int]
) -> Float[np.ndarray, "candidates 4"]:
    """Places of a label around and in a box, the best first, moved into the canvas."""
    (left, top, right, bottom), (width, height) = box, size
    along = left + np.linspace(0, 1, _STEPS) * (right - width - left)
    down = top + np.linspace(0, 1, _STEPS) * (bottom - height - top)
    rows = [(along, np.full(_STEPS, y)) for y in (top - height, top, bottom, bottom - height)]
    columns = [(np.full(_STEPS, x), down) for x in (left - width, right)]
    places = np.concatenate([np.stack(line, 1) for line in rows + columns])
    places = np.clip(np.round(places), 0, np.subtract(canvas, size))
    return np.concatenate([places, places + size], 1)


def _overlap(first: Float[np.ndarray, "N 4"], second: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """The area, in square pixels, that each of the first shares with each of the second."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared: np.ndarray = np.clip(high - low, 0, None).prod(-1)
    return shared
