"""The figures: results of `maps`, `matching` and `slots`, drawn with matplotlib. Every function returns one figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from opendetr._matplotlib import Figure, matplotlib
from opendetr.explanation.look import Explained, Look
from opendetr.explanation.matching import ObjectMatch
from opendetr.explanation.slots import Survey

INCHES = 3.2  # the width of one picture
COLOURS = [matplotlib.colormaps[name](number)[:3] for name, of in (("tab10", 10), ("Dark2", 8)) for number in range(of)]
MOST_SLOTS = 20  # shown, as in figure 7 of the paper


def colour_of(number: int) -> tuple[float, float, float]:
    """The colour of the detection with that number, the same in every figure."""
    return COLOURS[number % len(COLOURS)]


def encoder_figure(seen: Look, points: Sequence[tuple[float, float]], maps: Tensor, what: str) -> Figure:
    """The picture with its P points, and beside it the attention maps [P, h, w] of each (the paper's figure 3).

    `points` are in pixels of the picture; `what` names layer and head.
    """
    figure, axes = _panels(seen, len(points) + 1)
    _show(axes[0], seen, "points")
    for number, (panel, (x, y), attention) in enumerate(zip(axes[1:], points, maps)):
        _heat(panel, seen, attention, f"from {x:.0f}, {y:.0f}", colour_of(number))
        for where in (axes[0], panel):
            where.plot(x, y, "o", color=colour_of(number), markersize=7, markeredgecolor="white")
    figure.suptitle(f"Encoder self-attention, {what}: what the cell at a point attends to", fontsize=10)
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
    axes[0].set_title("all, in their colours", fontsize=8)
    boxes = seen.boxes_xyxy()[explained.queries]
    for number, (panel, title, attention, box) in enumerate(zip(axes[1:], explained.titles, maps, boxes)):
        _heat(panel, seen, attention, f"{title} (query {explained.queries[number]})", colour_of(number))
        for where in (axes[0], panel):
            _box(where, box, colour_of(number))
    for panel in axes:
        _frame(panel, seen)
    figure.suptitle(f"Decoder cross-attention, {what}: what each detection attends to", fontsize=10)
    return figure


def variants_figure(seen: Look, explained: Explained, variants: dict[str, Tensor]) -> Figure:
    """One row per detection, one column per variant of attention [K, h, w]."""
    figure, axes = _panels(seen, len(explained) * len(variants), columns=len(variants))
    boxes = seen.boxes_xyxy()[explained.queries]
    for place, panel in enumerate(axes):
        number, (name, maps) = place // len(variants), list(variants.items())[place % len(variants)]
        _heat(panel, seen, maps[number], f"{explained.titles[number]}: {name}", colour_of(number))
        _box(panel, boxes[number], colour_of(number))
    figure.suptitle("Three variants of the attention of each detection", fontsize=10)
    return figure


def queries_figure(seen: Look, explained: Explained, attention: Tensor, rivals: Sequence[int], what: str) -> Figure:
    """Self-attention [Q, Q] of detections and of rivals, the queries without a detection nearest to them.

    A row attends to columns; `what` names layer and head.
    """
    shown = [*explained.queries, *(query for query in dict.fromkeys(rivals) if query not in explained.queries)]
    names = [f"{title} (query {query})" for title, query in zip(explained.titles, explained.queries)]
    names += [f"silent query {query}" for query in shown[len(explained) :]]
    part = attention[shown][:, shown].numpy()
    side = 3.4 + 0.32 * len(shown)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(part, cmap="viridis", vmin=0)
    axes.set_xticks(range(len(shown)), names, rotation=60, ha="right", fontsize=7, parse_math=False)
    axes.set_yticks(range(len(shown)), names, fontsize=7, parse_math=False)
    for labels, line in ((axes.get_xticklabels(), axes.axvline), (axes.get_yticklabels(), axes.axhline)):
        for number, label in enumerate(labels[: len(explained)]):
            label.set_color(colour_of(number))
        line(len(explained) - 0.5, color="white", linewidth=1)
    axes.set_xlabel("attends to", fontsize=8)
    axes.set_ylabel("query", fontsize=8)
    figure.colorbar(drawn, shrink=0.7).ax.tick_params(labelsize=7)
    axes.set_title(f"Self-attention between queries, {what}", fontsize=9)
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
    for layer, panel in enumerate(axes[-num_layers:]):
        scores = seen.scores(layer)[queries, labels]
        _show(panel, seen, f"layer {layer + 1}: scores {float(scores.min()):.2f} to {float(scores.max()):.2f}")
        for number, (box, score) in enumerate(zip(seen.boxes_xyxy(layer)[queries], scores)):
            _box(panel, box, colour_of(number), f"{float(score):.2f}")
    figure.suptitle("Decoder layers: how the queries find their objects", fontsize=10)
    return figure


def matching_figure(seen: Look, matches: Sequence[ObjectMatch]) -> Figure:
    """True objects (dashed where missed) and the boxes of the queries matched to them."""
    figure, (panel,) = _panels(seen, 1, scale=2.5)
    _show(panel, seen, "true objects with their number; dashed: missed; thin: the matched query")
    boxes = seen.boxes_xyxy()
    for number, found in enumerate(matches):
        true = seen.in_pixels(boxes.new_tensor(found.box_cxcywh))
        missed = found.reason is not None
        _box(panel, true, colour_of(number), str(number + 1), linestyle="--" if missed else "-", linewidth=2)
        if found.taken_by is not None:
            _box(panel, boxes[found.taken_by.query], colour_of(number), linewidth=0.8)
    return figure


def slots_figure(survey: Survey) -> Figure:
    """The boxes each query predicts, as points in the unit square (figure 7): green small, red wide, blue tall."""
    num_queries = min(MOST_SLOTS, survey.boxes_cxcywh.shape[1])
    busiest = np.argsort(-survey.usage, kind="stable")[:num_queries]
    columns = min(10, num_queries)
    rows = -(-num_queries // columns)
    figure = Figure(figsize=(1.25 * columns, 1.45 * rows + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel in panels[num_queries:]:
        panel.axis("off")
    for panel, query in zip(panels, busiest):
        x, y, width, height = survey.boxes_cxcywh[:, query].T
        large = np.clip(np.sqrt(width * height) * 2.5, 0, 1)
        wide = (width > height)[:, None]
        shade = np.where(wide, np.array([0.85, 0.1, 0.1]), np.array([0.1, 0.2, 0.9]))
        colours = (1 - large[:, None]) * np.array([0.1, 0.65, 0.2]) + large[:, None] * shade
        panel.scatter(x, y, s=3, c=np.clip(colours, 0, 1), linewidths=0)
        panel.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        panel.set_title(f"{query}: {survey.usage[query]:.0%}", fontsize=7)
    figure.suptitle(
        "Boxes per query over the data set; green small, red large and wide, blue large and tall; "
        "% of pictures in which it detects something",
        fontsize=9,
    )
    return figure


def starts_figure(survey: Survey) -> Figure:
    """Where selected queries start (left) and how far their boxes' centres move (right)."""
    assert survey.starts_cxcywh is not None
    sure = survey.scores >= survey.threshold
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    starts = survey.starts_cxcywh
    left.scatter(*starts[~sure][:, :2].T, s=1, c="0.75", linewidths=0, label="silent")
    left.scatter(*starts[sure][:, :2].T, s=2, c="tab:red", linewidths=0, label="detects")
    left.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", title="where queries start")
    left.legend(fontsize=7, markerscale=4, loc="upper right")
    bins = np.linspace(0, max(1e-3, float(np.quantile(survey.moves, 0.98))), 40).tolist()
    for chosen, name, colour in ((~sure, "silent", "0.6"), (sure, "detects", "tab:red")):
        if chosen.any():
            right.hist(survey.moves[chosen], bins=bins, density=True, color=colour, alpha=0.6, label=name)
    right.set(title="how far their boxes move", xlabel="shares of the diagonal", yticks=[])
    right.legend(fontsize=7)
    return figure


def overlap_figure(survey: Survey) -> Figure:
    """How much the slots of every two queries overlap: dark off the diagonal where queries are specialists."""
    overlap = survey.specialisation
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(overlap, cmap="viridis", vmin=0, vmax=1), shrink=0.8)
    others = overlap[~np.eye(len(overlap), dtype=bool)]
    axes.set_title(f"overlap of slots, {others.mean():.2f} on average" if len(others) else "one slot", fontsize=9)
    axes.set(xlabel="query", ylabel="query")
    return figure


def layers_ap_figure(survey: Survey) -> Figure:
    """AP and AP50 after every decoder layer, without and with NMS (figure 4)."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    layers = range(1, len(survey.layers) + 1)
    for name, colour in (("AP", "tab:blue"), ("AP50", "tab:orange")):
        for place, (label, style) in enumerate((("", "-o"), (" with NMS", "--x"))):
            values = [max(0.0, of_layer[place].summary[name]) for of_layer in survey.layers]
            axes.plot(layers, values, style, color=colour, label=name + label, markersize=5)
    axes.set(xlabel="decoder layer", xticks=list(layers), ylim=(0, 1), title="average precision by decoder layer")
    axes.legend(fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _panels(seen: Look, number: int, columns: int = 5, scale: float = 1.0) -> tuple[Figure, list[Any]]:
    """A figure with that many pictures, in rows."""
    columns = min(columns, number)
    rows = -(-number // columns)
    height = INCHES * scale * min(4.0, seen.image.height / seen.image.width) + 0.3
    figure = Figure(figsize=(INCHES * scale * columns, height * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in axes:
        panel.axis("off")
    return figure, list(axes[:number])


def _show(panel: Any, seen: Look, title: str) -> None:
    panel.imshow(np.asarray(seen.image), extent=_extent(seen.image.size))
    panel.set_title(title, fontsize=8, parse_math=False)
    _frame(panel, seen)


def _extent(size: tuple[float, float]) -> tuple[float, float, float, float]:
    return (0, size[0], size[1], 0)


def _frame(panel: Any, seen: Look) -> None:
    panel.set(xlim=(0, seen.image.width), ylim=(seen.image.height, 0))


def _heat(panel: Any, seen: Look, attention: Tensor, title: str, colour: tuple[float, float, float]) -> None:
    """A map over the dimmed picture; the number in the corner is its maximum over evenly spread attention."""
    _heat_background(panel, seen)
    strength = _strength(attention)
    where = {"extent": _extent(seen.extent), "interpolation": "bilinear"}
    panel.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.3 + 0.6 * strength, **where)
    panel.set_title(title, fontsize=8, color=colour, parse_math=False)
    peak = float(attention.max() / attention.mean().clamp(min=1e-12))
    corner = {"transform": panel.transAxes, "ha": "right", "va": "bottom", "fontsize": 6, "color": "white"}
    panel.text(0.99, 0.01, f"max {peak:.1f} x even", backgroundcolor=(0, 0, 0, 0.6), **corner)
    _frame(panel, seen)


def _heat_background(panel: Any, seen: Look) -> None:
    """The picture in dimmed grey."""
    panel.imshow(np.asarray(seen.image.convert("L")), cmap="gray", vmin=0, vmax=330, extent=_extent(seen.image.size))


def _strength(attention: Tensor) -> np.ndarray:
    """A map relative to its maximum."""
    relative: np.ndarray = (attention / attention.max().clamp(min=1e-12)).numpy()
    return relative


def _box(panel: Any, box: Tensor, colour: Any, label: str = "", linestyle: str = "-", linewidth: float = 1.5) -> None:
    x1, y1, x2, y2 = box.tolist()
    style = {"fill": False, "color": colour, "linewidth": linewidth, "linestyle": linestyle}
    panel.add_patch(matplotlib.patches.Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
    if label:
        top, bottom = sorted(panel.get_ylim())
        fits = y1 - top > 0.05 * (bottom - top)  # above the box; else in it
        style = {"fontsize": 6, "color": "white", "backgroundcolor": (*colour, 0.8), "clip_on": True}
        panel.text(max(x1, 0), y1 if fits else max(y1, top), label, va="bottom" if fits else "top", **style)
