"""The figures of one picture: results of `maps` and `matching`, drawn with matplotlib. Every function returns one."""

import textwrap
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor

from opendetr._matplotlib import Figure, matplotlib
from opendetr.boxes import clip_boxes
from opendetr.drawing.fonts import font_file, load_font
from opendetr.drawing.labelled_boxes import colour_of_class
from opendetr.drawing.placement import best_first, label_wordings, place_labels
from opendetr.explanation.false_alarms import ExplainedDetection, letter_of
from opendetr.explanation.look import Explained, Look
from opendetr.explanation.matching import ObjectMatch
from opendetr.explanation.readings import query_names
from opendetr.labels import LabelMap
from opendetr.wording import counted

INCHES, COLUMNS = 3.4, 3  # the width of one picture; pictures in a row: more could not be read in a window
LABEL, MARGIN = 8, 2  # points: the font of a label, and what is around its text
POINTS = 72  # in an inch
PICTURE = 0.94  # the least share of its panel's side that a picture has beside titles and gaps
LETTERS = 14  # of a title, in an inch of its figure
COLOURS = [matplotlib.colormaps[name](number)[:3] for name, of in (("tab10", 10), ("Dark2", 8)) for number in range(of)]
MOST_NAMED = 12  # boxes of a picture with the names of their classes


def colour_of(number: int) -> tuple[float, float, float]:
    """The colour of the detection with that number, the same in every figure."""
    return COLOURS[number % len(COLOURS)]


def encoder_figure(seen: Look, points: Sequence[tuple[float, float]], maps: Tensor, title: str) -> Figure:
    """The picture with its P points, in its pixels, and beside it the attention maps [P, h, w] of each."""
    figure, axes = _panels(seen, len(points) + 1)
    _show(axes[0], seen, "points")
    for number, (panel, (x, y), attention) in enumerate(zip(axes[1:], points, maps)):
        _heat(panel, seen, attention, f"the cell at {x:.0f}, {y:.0f}", colour_of(number))
        for where in (axes[0], panel):
            where.plot(x, y, "o", color=colour_of(number), markersize=7, markeredgecolor="white")
    title_figure(figure, title)
    return figure


def decoder_figure(seen: Look, explained: Explained, maps: Tensor, what: str) -> Figure:
    """All detections in one picture, each with its attention in its colour (figure 6), then each by itself."""
    figure, axes = _panels(seen, len(explained) + 1)
    _heat_background(axes[0], seen)
    strengths = np.stack([_strength(attention) for attention in maps])
    colours = np.array([colour_of(number) for number in range(len(maps))])
    strongest = strengths.argmax(0)  # every cell has the colour of the detection that attends to it most
    overlay = np.concatenate([colours[strongest], 0.9 * strengths.max(0)[..., None]], -1)
    axes[0].imshow(overlay, extent=_extent(seen.extent), interpolation="nearest")
    _panel_title(axes[0], "all, in their colours")
    boxes = seen.boxes_xyxy()[explained.queries]
    for number, (panel, title, attention, box) in enumerate(zip(axes[1:], explained.titles, maps, boxes)):
        _heat(panel, seen, attention, f"{title} (query {explained.queries[number]})", colour_of(number))
        for where in (axes[0], panel):
            _box(where, box, colour_of(number))
    for panel in axes:
        _frame(panel, seen)
    title_figure(figure, f"Decoder, {what}: which cells each detection attends to")
    return figure


def variants_figure(seen: Look, explained: Explained, variants: dict[str, Tensor], what: str) -> Figure:
    """A row per detection, a column per variant of attention [K, h, w]; `what` names layer and head of the first."""
    figure, axes = _panels(seen, len(explained) * len(variants), columns=len(variants))
    boxes = seen.boxes_xyxy()[explained.queries]
    for place, panel in enumerate(axes):
        number, (name, maps) = place // len(variants), list(variants.items())[place % len(variants)]
        _heat(panel, seen, maps[number], f"{explained.titles[number]}: {name}", colour_of(number))
        _box(panel, boxes[number], colour_of(number))
    title_figure(figure, f"Attention is that of {what}; rollout and by gradient go through all layers")
    return figure


def queries_figure(explained: Explained, attention: Tensor, shown: Sequence[int], what: str) -> Figure:
    """Self-attention [Q, Q] of the queries shown, those of the detections first; a row attends to columns.

    `what` names layer and head.
    """
    names = [_shortened(name) for name in query_names(explained, shown)]
    part = attention[list(shown)][:, list(shown)].numpy()
    side = 5.0 + 0.34 * len(shown)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(part, cmap="viridis", vmin=0)
    axes.set_xticks(range(len(shown)), names, rotation=60, ha="right", fontsize=9, parse_math=False)
    axes.set_yticks(range(len(shown)), names, fontsize=9, parse_math=False)
    for labels, line in ((axes.get_xticklabels(), axes.axvline), (axes.get_yticklabels(), axes.axhline)):
        for number, label in enumerate(labels[: len(explained)]):
            label.set_color(colour_of(number))
        line(len(explained) - 0.5, color="white", linewidth=1)
    axes.set_xlabel("attends to", fontsize=9)
    axes.set_ylabel("query", fontsize=9)
    bar = figure.colorbar(drawn, shrink=0.7)
    bar.set_label("share of the row's attention", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    title_figure(figure, f"Self-attention between queries, {what}")
    return figure


def layers_figure(seen: Look, explained: Explained) -> Figure:
    """Box and score of each detection after every decoder layer."""
    num_layers, starts = len(seen.output.logits), seen.starts_cxcywh
    figure, axes = _panels(seen, num_layers + (starts is not None))
    queries, labels = explained.queries, explained.labels
    if starts is not None:
        _show(axes[0], seen, "where the queries start")
        for number, box in enumerate(seen.in_pixels(starts)[queries]):
            _box(axes[0], box, colour_of(number))
    colours = [colour_of(number) for number in range(len(queries))]
    for layer, panel in enumerate(axes[-num_layers:]):
        scores = seen.scores(layer)[queries, labels]
        _show(panel, seen, f"layer {layer + 1}: scores {float(scores.min()):.2f} to {float(scores.max()):.2f}")
        boxes, values = seen.boxes_xyxy(layer)[queries], scores.tolist()
        for number in reversed(best_first(len(values), values)):
            _box(panel, boxes[number], colours[number])
        _labels(panel, seen, boxes, [("", f"{value:.2f}") for value in values], colours, values)
    title_figure(figure, "Decoder layers: how the queries find their objects")
    return figure


def matching_figure(
    seen: Look,
    label_map: LabelMap,
    labels: Sequence[int],
    matches: Sequence[ObjectMatch],
    detections: Sequence[ExplainedDetection],
) -> Figure:
    """Left the true objects, with class indices `labels` (dashed where missed), right all detections.

    The thin boxes on the left are those of the matched queries; false alarms are dashed and have letters.
    """
    figure, (left, right) = _panels(seen, 2, scale=1.6)
    missed = sum(found.reason is not None for found in matches)
    wrong = sum(found.alarm is not None for found in detections)
    objects, false_alarms = counted(len(matches), "true object"), counted(wrong, "false alarm")
    _show(left, seen, f"{objects}; dashed: {missed} missed; thin: the matched queries")
    _show(right, seen, f"{counted(len(detections), 'detection')}; dashed: {false_alarms}")
    boxes = seen.boxes_xyxy()
    colours = [_colour_of_label(label_map, label) for label in labels]
    true = seen.in_pixels(boxes.new_tensor([match.box_cxcywh for match in matches]).reshape(-1, 4))
    for match, box, colour in zip(matches, true, colours):
        if match.taken_by is not None:
            _box(left, boxes[match.taken_by.query], colour, linewidth=0.8)
        _box(left, box, colour, linestyle="-" if match.reason is None else "--", linewidth=2)
    names = [match.name if len(matches) <= MOST_NAMED else "" for match in matches]
    _labels(left, seen, true, [(f"{number}: {name}".rstrip(": "), "") for number, name in enumerate(names, 1)], colours)
    _show_found(right, seen, label_map, detections)
    return figure


def _show_found(panel: Any, seen: Look, label_map: LabelMap, detections: Sequence[ExplainedDetection]) -> None:
    """All detections, best first; the best are on top."""
    boxes = seen.boxes_xyxy()
    found = seen.in_pixels(boxes.new_tensor([one.box_cxcywh for one in detections]).reshape(-1, 4))
    colours = [_colour_of_label(label_map, one.label) for one in detections]
    letters = count()
    signs = [str(one.finds + 1) if one.finds is not None else letter_of(next(letters)) for one in detections]
    for one, box, colour in reversed(list(zip(detections, found, colours))):
        _box(panel, box, colour, linestyle="-" if one.alarm is None else "--", linewidth=2)
    texts = [
        (f"{sign}: {one.name}", f"{one.score:.2f}") if len(detections) <= MOST_NAMED else (sign, "")
        for sign, one in zip(signs, detections)
    ]
    _labels(panel, seen, found, texts, colours)


def _colour_of_label(label_map: LabelMap, label: int) -> tuple[float, float, float]:
    red, green, blue = colour_of_class(label_map, label)
    return red / 255, green / 255, blue / 255


def title_figure(figure: Figure, text: str) -> None:
    """A title above the figure, in as many lines as fit into its width."""
    lines = textwrap.fill(text, int(LETTERS * figure.get_figwidth()))
    figure.suptitle(lines, fontsize=10, parse_math=False)


def _panel_title(panel: Any, text: str, colour: Any = "black") -> None:
    """A title above a picture, shortened where it is wider."""
    width = panel.get_figure().get_figwidth() / panel.get_subplotspec().get_gridspec().ncols
    panel.set_title(_shortened(text, int(LETTERS * width)), fontsize=9, color=colour, parse_math=False)


def _shortened(text: str, letters: int = 40) -> str:
    """The text without its middle where it is longer: names begin it, scores and numbers of queries end it."""
    return text if len(text) <= letters else f"{text[: letters - 24]}…{text[-23:]}"


def _panels(seen: Look, number: int, columns: int = COLUMNS, scale: float = 1.0) -> tuple[Figure, list[Any]]:
    """A figure with that many pictures, in rows."""
    columns = min(columns, number)
    rows = -(-number // columns)
    height = INCHES * scale * min(4.0, seen.image.height / seen.image.width) + 0.35
    figure = Figure(figsize=(INCHES * scale * columns, height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in axes:
        panel.axis("off")
    return figure, list(axes[:number])


def _show(panel: Any, seen: Look, title: str) -> None:
    panel.imshow(np.asarray(seen.image), extent=_extent(seen.image.size))
    _panel_title(panel, title)
    _frame(panel, seen)


def _extent(size: tuple[float, float]) -> tuple[float, float, float, float]:
    return (0, size[0], size[1], 0)


def _frame(panel: Any, seen: Look) -> None:
    panel.set(xlim=(0, seen.image.width), ylim=(seen.image.height, 0))


def _heat(panel: Any, seen: Look, attention: Tensor, title: str, colour: tuple[float, float, float]) -> None:
    """A map over the dimmed picture; the number in the corner is its maximum over its mean."""
    _heat_background(panel, seen)
    strength = _strength(attention)
    where = {"extent": _extent(seen.extent), "interpolation": "bilinear"}
    panel.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.3 + 0.6 * strength, **where)
    _panel_title(panel, title, colour)
    peak = float(attention.max() / attention.mean().clamp(min=1e-12))
    corner = {"transform": panel.transAxes, "ha": "right", "va": "bottom", "fontsize": 8, "color": "white"}
    panel.text(0.99, 0.01, f"{peak:.1f} x mean", backgroundcolor=(0, 0, 0, 0.6), **corner)
    _frame(panel, seen)


def _heat_background(panel: Any, seen: Look) -> None:
    """The picture in dimmed grey."""
    panel.imshow(np.asarray(seen.image.convert("L")), cmap="gray", vmin=0, vmax=330, extent=_extent(seen.image.size))


def _strength(attention: Tensor) -> np.ndarray:
    """A map relative to its maximum."""
    relative: np.ndarray = (attention / attention.max().clamp(min=1e-12)).numpy()
    return relative


def _box(panel: Any, box: Tensor, colour: Any, linestyle: str = "-", linewidth: float = 1.5) -> None:
    x1, y1, x2, y2 = box.tolist()
    style = {"fill": False, "color": colour, "linewidth": linewidth, "linestyle": linestyle}
    panel.add_patch(matplotlib.patches.Rectangle((x1, y1), x2 - x1, y2 - y1, **style))


def _labels(
    panel: Any,
    seen: Look,
    boxes_xyxy: Tensor,
    texts: Sequence[tuple[str, str]],
    colours: Sequence[tuple[float, float, float]],
    scores: Sequence[float] | None = None,
) -> None:
    """Names with values at boxes, on their colours; none covers another while there is room; the best on top."""
    grid = panel.get_subplotspec().get_gridspec()
    inches = panel.get_figure().get_figwidth() / grid.ncols, panel.get_figure().get_figheight() / grid.nrows
    scale = PICTURE * POINTS * min(inches[0] / seen.image.width, inches[1] / seen.image.height)  # points in a pixel
    canvas = int(seen.image.width * scale), int(seen.image.height * scale)
    clipped, visible = clip_boxes(boxes_xyxy.double(), (seen.image.height, seen.image.width))
    order = [number for number in best_first(len(texts), scores) if visible[number]]
    wordings = []
    sizes = []
    for name, value in (texts[number] for number in order):
        font = load_font(font_file(name + value), LABEL)  # matplotlib's own
        of = label_wordings(name, value, LABEL, canvas[0], font.getlength, 2 * MARGIN)
        wordings.append(of)
        height = sum(font.getmetrics()) + 2 * MARGIN
        sizes.append(
            [(min(int(font.getlength(text)) + 2 * MARGIN + 1, canvas[0]), min(height, canvas[1])) for text in of]
        )
    places = place_labels(clipped.cpu().numpy()[order] * scale, sizes, canvas)
    for (wording, left, top), of, number in reversed(list(zip(places, wordings, order))):
        colour = colours[number]
        ground = {"facecolor": colour, "edgecolor": "none", "pad": MARGIN, "alpha": 0.85}
        ink = "white" if np.dot(colour, (0.3, 0.6, 0.1)) < 0.6 else "black"
        where = (left + MARGIN) / scale, (top + MARGIN) / scale
        panel.text(*where, of[wording], fontsize=LABEL, color=ink, va="top", bbox=ground, parse_math=False)
