"""How to read each figure, and a sentence about this picture or split, made from the numbers that the figure shows."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opendetr.boxes import box_iou
from opendetr.evaluation.report import metric_in_words
from opendetr.explanation.look import Explained, Look
from opendetr.explanation.slots import Survey

PEAK = (
    "Every map is scaled to its own brightest cell. The number in the corner says how much brighter that cell is than "
    "the mean of the map: 1 x would be attention that is spread evenly, large numbers are sharp attention."
)
READERS = (
    "Every panel belongs to one of the points in the first picture. Bright cells take information from the cell at the "
    "point: this is a column of the attention matrix, and what the authors' notebook plots for the paper's figure 3. "
    f"Look whether the bright cells stay on the object of the point or spread over its neighbours. {PEAK}"
)
READS = (
    "The same points, seen from the other side: bright cells are those from which the cell at the point takes "
    "information (a row of the attention matrix). The two need not be alike: a cell may read where nobody reads it. "
    f"{PEAK}"
)
DECODER = (
    "The first picture shows all detections at once: every cell has the colour of the detection that attends to it "
    "most. The other panels show one detection each, with its box. Attention often lies on the parts that tell an "
    f"object's class and borders: the ends of a digit, heads and feet of an animal. {PEAK}"
)
VARIANTS = (
    "A row per detection. The first column is the attention of one layer. Rollout follows attention back through all "
    "layers (Abnar and Zuidema 2020). By gradient counts only attention that raises the detection's class score "
    "(Chefer et al. 2021). Attention shows where a layer looked, not why it answered: trust what all three agree on."
)
QUERIES = (
    "A row is a query, and its colours say how much it attends to the query of each column; a row sums to 1 over all "
    "queries, also those not shown. A query without a detection is one whose scores all stay below the threshold; "
    "shown are those whose boxes are nearest to the detections. They often look at the detection beside them: that is "
    "how queries agree that only one of them answers, without non-maximum suppression."
)
LAYERS = (
    "The same queries after each decoder layer, with the score of their final class. Boxes that jump between layers, "
    "or scores that rise late, mean that the later layers are needed."
)
MATCHING = (
    "Left the truth, right every detection with at least the threshold's score; a colour per class. Left, a number "
    "names an object, a dashed box was missed, and the thin line is the box of the query that training would match to "
    "the object. Right, a number says which object a detection finds; dashed boxes with a letter are false alarms. "
    "What lies in a region that the data set marks as a crowd (iscrowd) counts as neither and is left out."
)
SLOTS = (
    "A panel per query, the busiest first; a point is the centre of its box in one picture of the split. The title has "
    "the share of pictures in which it detects something. Points that lie together mean a specialist for that place."
)
OVERLAP = (
    "The overlap of the places of two queries' boxes, 0 to 1: dark where they look after different places, bright "
    "where they are alike. The diagonal is each query with itself."
)
STARTS = (
    "Left, where in the picture queries start; right, how far the centre of their box moves in the decoder. Red "
    "queries detect something, grey ones do not. Good proposals need not move far."
)
DECODER_LAYERS = (
    "AP if the decoder ended after a layer. Dashed lines: after non-maximum suppression, for comparison only. It "
    "helps in layers where several queries still answer for the same object."
)


def of_points(
    seen: Look, points: Sequence[tuple[float, float]], maps: Tensor, explained: Explained, *, from_outside: bool
) -> str:
    """How much of the attention to (or of) the cells at points lies in the box of the detection that each lies on."""
    boxes, parts, alone = seen.boxes_xyxy()[explained.queries], list[str](), list[str]()
    for (x, y), attention in zip(points, maps):
        over = [n for n, (x1, y1, x2, y2) in enumerate(boxes.tolist()) if x1 <= x <= x2 and y1 <= y <= y2]
        if over:
            share, area = share_inside(seen, attention, boxes[over[0]]), area_share(seen, boxes[over[0]])
            parts.append(f"{share:.0%} at {x:.0f}, {y:.0f} ({explained.titles[over[0]]}, {area:.0%} of the picture)")
        else:
            alone.append(f"{_brightest(seen, attention)} (for the point at {x:.0f}, {y:.0f})")
    what = "comes from" if from_outside else "goes to"
    of_boxes = (
        f"Of the attention, this much {what} the box of the detection on which the point lies: {', '.join(parts)}."
    )
    of_others = f"Points on no detection: the brightest cell is at {', '.join(alone)}."
    return " ".join([of_boxes] * bool(parts) + [of_others] * bool(alone))


def _brightest(seen: Look, attention: Tensor) -> str:
    """Where the middle of the brightest cell is, in pixels of the picture."""
    row, column = divmod(int(attention.argmax()), attention.shape[1])
    x, y = (column + 0.5) / attention.shape[1] * seen.extent[0], (row + 0.5) / attention.shape[0] * seen.extent[1]
    return f"{min(x, seen.image.width - 1):.0f}, {min(y, seen.image.height - 1):.0f}"


def of_decoder(seen: Look, explained: Explained, maps: Tensor) -> str:
    """How much of each detection's attention lies in its box."""
    boxes = seen.boxes_xyxy()[explained.queries]
    shares = [share_inside(seen, attention, box) for attention, box in zip(maps, boxes)]
    areas = [area_share(seen, box) for box in boxes]
    least = int(np.argmin(shares))
    return (
        f"{np.median(shares):.0%} of a detection's attention lies in its own box, which covers {np.median(areas):.0%} "
        f"of the picture (medians); least in that of {explained.titles[least]}, {shares[least]:.0%}."
    )


def of_variants(seen: Look, explained: Explained, variants: dict[str, Tensor]) -> str:
    """How much of each variant lies in the boxes."""
    boxes = seen.boxes_xyxy()[explained.queries]
    medians = [
        f"{np.median([share_inside(seen, attention, box) for attention, box in zip(maps, boxes)]):.0%} ({name})"
        for name, maps in variants.items()
    ]
    return f"In the detections' own boxes lies a median of {', '.join(medians)}."


def of_queries(explained: Explained, attention: Tensor, shown: Sequence[int]) -> str:
    """Which query attends most to another, and what detections get from queries without a detection."""
    part = attention[list(shown)][:, list(shown)].clone().fill_diagonal_(-1)
    if len(shown) < 2:
        return "Only one query is shown."
    row, column = divmod(int(part.argmax()), len(shown))
    names = query_names(explained, shown)
    most = f"The strongest between two of them: {names[row]} gives {float(part.max()):.0%} to {names[column]}."
    silent = list(shown[len(explained) :])
    if not silent:
        return most
    to_detections = float(attention[silent][:, explained.queries].sum(1).mean())
    return f"{most} Queries without a detection give {to_detections:.0%} of their attention to the detections shown."


def query_names(explained: Explained, shown: Sequence[int]) -> list[str]:
    """Names of the detections' queries, then of the other ones shown."""
    names = [f"{title} (query {query})" for title, query in zip(explained.titles, explained.queries)]
    return [*names, *(f"query {query} (no detection)" for query in shown[len(explained) :])]


def of_layers(seen: Look, explained: Explained) -> str:
    """How scores and boxes change from layer to layer."""
    layers, queries, labels = len(seen.output.logits), explained.queries, explained.labels
    final = seen.boxes_xyxy()[queries]
    first, last = (float(seen.scores(layer)[queries, labels].mean()) for layer in (0, layers - 1))
    nearness = float(box_iou(seen.boxes_xyxy(0)[queries], final).median())
    text = (
        f"The mean score goes from {first:.2f} after layer 1 to {last:.2f} after layer {layers}; the boxes after layer "
        f"1 overlap the final ones with a median IoU of {nearness:.2f}"
    )
    if seen.starts_cxcywh is None:
        return f"{text}."
    starts = float(box_iou(seen.in_pixels(seen.starts_cxcywh)[queries], final).median())
    return f"{text}, the boxes at which the queries start with {starts:.2f}."


def of_slots(found: Survey) -> str:
    """Which query is busiest, and how many never detect anything."""
    busiest, idle = int(found.usage.argmax()), int((found.usage == 0).sum())
    return (
        f"Query {busiest} is busiest: it detects something in {found.usage[busiest]:.0%} of the pictures. {idle} of "
        f"{len(found.usage)} queries detect nothing in any."
    )


def of_overlap(found: Survey) -> str:
    """How much two queries overlap, beside chance."""
    others = found.specialisation[~np.eye(len(found.usage), dtype=bool)]
    mean = f"{others.mean():.2f}" if len(others) else "-"
    return (
        f"Two queries overlap by {mean} on average. Two equal ones would show {found.chance_overlap:.2f} over so many "
        "pictures, perfect specialists 0."
    )


def of_starts(found: Survey) -> str:
    """How many queries detect something, and how far they move."""
    sure = found.sure
    moves = [f"{np.median(found.moves[chosen]):.1%}" if chosen.any() else "-" for chosen in (sure, ~sure)]
    return (
        f"{sure.sum(1).mean():.1f} of {sure.shape[1]} queries detect something in a typical picture. Their boxes move "
        f"by {moves[0]} of the picture's diagonal, those of the others by {moves[1]} (medians)."
    )


def of_decoder_layers(found: Survey) -> str:
    """How AP grows over the layers, and what NMS would add at the end."""
    first, last = (layer[0].summary["AP"] for layer in (found.layers[0], found.layers[-1]))
    gain = found.layers[-1][1].summary["AP"] - last
    return (
        f"AP is {metric_in_words(first)} after layer 1 and {metric_in_words(last)} after layer {len(found.layers)}, "
        f"where suppression changes it by {gain:+.3f}."
    )


def share_inside(seen: Look, attention: Tensor, box_xyxy: Tensor) -> float:
    """The share 0..1 of a map [h, w] that lies in a box, which is in pixels of the picture."""
    height, width = attention.shape
    x1, y1, x2, y2 = box_xyxy.tolist()
    across = _covered(x1 / seen.extent[0], x2 / seen.extent[0], width)
    down = _covered(y1 / seen.extent[1], y2 / seen.extent[1], height)
    return float(down @ attention.float() @ across) / max(1e-12, float(attention.sum()))


def _covered(start: float, end: float, cells: int) -> Tensor:
    """The share of every cell along a side that lies between two places, both 0..1 of the side."""
    edges = torch.arange(cells + 1) / cells
    return ((edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)) * cells).clamp(min=0)


def area_share(seen: Look, box_xyxy: Tensor) -> float:
    """The share 0..1 of the picture that a box covers."""
    width, height = seen.image.size
    x1, y1, x2, y2 = box_xyxy.tolist()
    inside: float = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    return float(inside / (width * height))
