"""`data-stats.html`: what a data set holds, in numbers and charts."""

from collections.abc import Mapping

import numpy as np

from opendetr.data.check import describe
from opendetr.data.index import DatasetIndex
from opendetr.data.transforms import Preprocessing
from opendetr.evaluation.run_page import class_table, distributions
from opendetr.pages.page import figure, page, paragraph

CELLS = 16  # of the map of positions, on each side
SIDE = 280  # of the map, in its own units


def statistics_page(title: str, splits: Mapping[str, DatasetIndex], preprocessing: Preprocessing) -> str:
    """Counts by class and split, and for each split the sizes of boxes, objects per picture and positions.

    Args:
        title: of the page.
        splits: by name, with the class indices of one label map; at least one.
        preprocessing: of training, which says how large objects are there.
    """
    label_map = next(iter(splits.values())).label_map
    body = "".join(paragraph(f"{name}: {describe(index)}.") for name, index in splits.items())
    body += f"<h2>Classes</h2>{class_table(splits, label_map, None)}"
    for name, index in splits.items():
        body += f"<h2>{name}</h2>{distributions(index, preprocessing)}"
        if len(index.labels):
            body += figure(
                positions_map(index),
                "Where the centres of the boxes lie, in shares of the picture's sides: the darker, the more. Where a "
                "part of the pictures has none, objects there will be found worse.",
                kind="narrow",
            )
    return page(title, body)


def positions_map(index: DatasetIndex) -> str:
    """A grid over the picture, each cell as dark as its share of box centres, as SVG."""
    sizes = np.repeat(index.sizes, index.counts, axis=0)
    centres = (index.boxes_xyxy[:, :2] + index.boxes_xyxy[:, 2:]) / 2 / sizes
    counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], CELLS, range=[[0, 1], [0, 1]])
    side = SIDE / CELLS
    cells = "".join(
        f'<rect x="{column * side:.1f}" y="{row * side:.1f}" width="{side:.1f}" height="{side:.1f}" fill="#1f4e79" '
        f'fill-opacity="{counts[row, column] / counts.max():.2f}"><title>{int(counts[row, column]):,}</title></rect>'
        for row in range(CELLS)
        for column in range(CELLS)
    )
    frame = f'<rect width="{SIDE}" height="{SIDE}" fill="none" stroke="#888"/>'
    return f'<svg viewBox="0 0 {SIDE} {SIDE}" style="max-width:{SIDE}px">{cells}{frame}</svg>'
