"""The figures of a split: what its queries do, drawn with matplotlib. Every function returns one figure."""

import numpy as np

from opendetr._matplotlib import Figure
from opendetr.explanation.figures import title_figure
from opendetr.explanation.slots import Survey

MOST_SLOTS = 20  # shown, as in figure 7 of the paper


def slots_figure(survey: Survey) -> Figure:
    """The boxes each query predicts, as points in the unit square (figure 7): green small, red wide, blue tall."""
    num_queries = min(MOST_SLOTS, survey.boxes_cxcywh.shape[1])
    busiest = np.argsort(-survey.usage, kind="stable")[:num_queries]
    columns = min(10, num_queries)
    rows = -(-num_queries // columns)
    figure = Figure(figsize=(max(4.0, 1.25 * columns), 1.45 * rows + 0.9), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel in panels[num_queries:]:
        panel.axis("off")
    for panel, query in zip(panels, busiest):
        x, y, width, height = survey.boxes_cxcywh[:, query].T
        large = np.clip(np.sqrt(width * height) * 2.5, 0, 1)
        wide = (width > height)[:, None]
        shade = np.where(wide, np.array([0.85, 0.1, 0.1]), np.array([0.1, 0.2, 0.9]))
        colours = (1 - large[:, None]) * np.array([0.1, 0.65, 0.2]) + large[:, None] * shade
        panel.scatter(x, y, s=_dot(len(x)), c=np.clip(colours, 0, 1), linewidths=0)
        panel.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect="equal")
        panel.set_title(f"{query}: {survey.usage[query]:.0%}", fontsize=8)
    title_figure(
        figure,
        "Boxes per query over the data set; green small, red large and wide, blue large and tall; % of pictures in "
        "which it detects something",
    )
    return figure


def starts_figure(survey: Survey) -> Figure:
    """Where selected queries start (left) and how far their boxes' centres move (right)."""
    assert survey.starts_cxcywh is not None
    sure = survey.sure
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    kinds = ((~sure, "no detection", "0.65"), (sure, "detection", "tab:red"))
    bins = np.linspace(0, max(1e-3, 100 * float(np.quantile(survey.moves, 0.98))), 30)
    for chosen, name, colour in kinds:
        if not chosen.any():
            continue
        x, y = survey.starts_cxcywh[chosen][:, :2].T
        left.scatter(x, y, s=_dot(sure.size), c=colour, linewidths=0, label=name)
        moves = 100 * survey.moves[chosen]
        shares = np.full(len(moves), 100 / len(moves))
        right.hist(moves, bins=bins.tolist(), weights=shares, color=colour, alpha=0.65, label=name)
    left.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", title="where in the picture queries start")
    left.set(xlabel="share of the width", ylabel="share of the height")
    right.set(title="how far their boxes move", xlabel="% of the picture's diagonal", ylabel="% of the queries")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(fontsize=9)
    return figure


def _dot(number: int) -> float:
    """The area of a dot, in square points, where so many are drawn."""
    return float(np.clip(20000 / max(1, number), 5, 25))


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
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    layers = range(1, len(survey.layers) + 1)
    for name, colour in (("AP", "tab:blue"), ("AP50", "tab:orange")):
        for place, (label, style) in enumerate((("", "-o"), (" with NMS", "--x"))):
            values = [max(0.0, of_layer[place].summary[name]) for of_layer in survey.layers]
            axes.plot(layers, values, style, color=colour, label=name + label, markersize=5)
    axes.set(xlabel="decoder layer", xticks=list(layers), ylim=(0, 1), title="average precision by decoder layer")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
