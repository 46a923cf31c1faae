"""Detections: what a model finds in one picture, and how it is counted, chosen, drawn, cut out and written."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from opendetr.boxes import clip_boxes
from opendetr.drawing.labelled_boxes import draw_boxes
from opendetr.errors import UserError, first_line
from opendetr.files import write_bytes
from opendetr.images import Picture, encode_image, read_image
from opendetr.labels import LabelMap
from opendetr.options import require_score
from opendetr.raw_values import RawId

SHOWN_ROWS, SHOWN_SIDE = 20, 1024  # the most of a table that is printed; of a picture in a notebook, in pixels

Threshold = float | Sequence[float]  # on scores: one for all classes, or one per class index

Rows = slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor


class Detection(NamedTuple):
    """One detection, in Python's own numbers."""

    name: str
    score: float  # 0..1
    box_xyxy: tuple[float, float, float, float]  # pixels of the original picture, not clipped
    label: int  # class index 0..C-1
    category_id: RawId | None  # as the training data wrote it


@dataclass(frozen=True, repr=False, eq=False)
class Detections:
    """The detections of one picture, as the scoring orders them; tensors live on the CPU.

    `len` counts them. Iterating yields a `Detection` (a named tuple) each, and an integer index gives one. A slice, a
    mask or a list of integers gives `Detections` with those rows.

    Example:
        >>> for name, score, box_xyxy, *_ in detections: ...
        >>> detections[0].name, detections[:5], detections[detections.scores > 0.8]
    """

    boxes_xyxy: Float[Tensor, "N 4"]  # pixels of the original picture, not clipped
    scores: Float[Tensor, " N"]  # 0..1
    labels: Int[Tensor, " N"]  # class index 0..C-1
    label_map: LabelMap
    image_size: tuple[int, int]  # height, width of the original picture
    image_id: RawId = 0
    file_name: str = ""
    picture: Callable[[], Image.Image] | None = None  # reads the upright RGB picture

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        boxes: list[tuple[float, float, float, float]] = list(map(tuple, self.boxes_xyxy.tolist()))
        yield from map(
            Detection, self.names, self.scores.tolist(), boxes, self.labels.tolist(), self.category_ids
        )  # fmt: skip

    @overload
    def __getitem__(self, rows: int | np.integer) -> Detection: ...
    @overload
    def __getitem__(self, rows: Rows) -> "Detections": ...
    def __getitem__(self, rows: int | np.integer | Rows) -> "Detection | Detections":
        if isinstance(rows, int | np.integer) or getattr(rows, "ndim", 1) == 0:
            if isinstance(rows, bool) or getattr(rows, "dtype", None) in (torch.bool, np.bool_):
                raise TypeError("one truth value chooses no row; expected a number, or a mask with a value per row")
            row = range(len(self))[operator.index(rows)]  # type: ignore[arg-type]
            return next(iter(self[row : row + 1]))
        if isinstance(rows, slice):
            rows = range(len(self))[rows]  # tensors know no steps backwards
        chosen = torch.as_tensor(np.array(rows) if isinstance(rows, np.ndarray) else rows)
        if not len(chosen):  # an empty list is a float tensor
            chosen = chosen.long()
        return replace(self, boxes_xyxy=self.boxes_xyxy[chosen], scores=self.scores[chosen], labels=self.labels[chosen])

    def __repr__(self) -> str:
        height, width = self.image_size
        rows = [
            [one.name, f"{one.score:.3f}", *(f"{value:.1f}" for value in one.box_xyxy)] for one in self[:SHOWN_ROWS]
        ]
        columns = list(zip(("name", "score", "x1", "y1", "x2", "y2"), *rows))
        widths = [max(map(len, column)) for column in columns] if rows else []
        lines = [f"Detections: {len(self)} in {self.file_name or 'a picture'} of {width}x{height} pixels"]
        for row in zip(*columns) if rows else ():
            lines.append("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
        if len(self) > SHOWN_ROWS:
            lines.append(f"... and {len(self) - SHOWN_ROWS} more")
        return "\n".join(lines)

    @property
    def names(self) -> list[str]:
        """The class name of every detection."""
        return [self.label_map.names[label] for label in self.labels.tolist()]

    @property
    def category_ids(self) -> list[RawId | None]:
        """The raw category id of every detection, as the training data wrote it; None where the class has none."""
        return [self.label_map.category_ids[label] for label in self.labels.tolist()]

    def above(self, threshold: Threshold) -> "Detections":
        """The detections whose score is at least `threshold`; those of classes without a category are left out.

        Args:
            threshold: a number for all classes, or one per class index.
        """
        return self[self.reaching(threshold)]

    def reaching(self, threshold: Threshold) -> Bool[Tensor, " N"]:
        """Which detections `above` keeps."""
        used = torch.tensor([category_id is not None for category_id in self.label_map.category_ids])
        return reaches(self.scores, self.labels, threshold) & used[self.labels]

    def filter(self, classes: str | int | Iterable[str | int] | None = None, score: float = 0.0) -> "Detections":
        """The detections of some classes, with a score of at least `score`.

        Args:
            classes: names or raw category ids; None for all.
            score: 0..1.

        Raises:
            UserError: a class that the model does not have, or a score outside 0..1.
        """
        require_score("score", score)
        keep = self.scores >= score
        if classes is not None:
            keep &= torch.isin(self.labels, torch.tensor(sorted(self.label_map.indices_of(classes))))
        return self[keep]

    def clipped(self) -> "Detections":
        """The same with boxes cut off at the edges of the picture; one outside of it is empty, and stays in its row."""
        return replace(self, boxes_xyxy=clip_boxes(self.boxes_xyxy, self.image_size)[0])

    def visible(self) -> "Detections":
        """The detections whose box has an area in the picture, clipped: those that drawings, crops and files show."""
        boxes, inside = clip_boxes(self.boxes_xyxy, self.image_size)
        return replace(self, boxes_xyxy=boxes)[inside]

    def plot(self, image: Picture | None = None) -> Image.Image:
        """The picture with boxes, names and scores drawn on a copy, RGB; a small picture comes back enlarged.

        Args:
            image: the picture, as `predict` takes it, but no address; by default the one that was detected in. It is
                read again: only its path is kept, or what was given to `predict` from memory.

        Raises:
            UserError: there is no picture, it can no longer be read, or it has another size.
        """
        return draw_boxes(self._image(image), self.boxes_xyxy, self.labels, self.label_map, self.scores)

    def save(self, path: str | Path, image: Picture | None = None) -> Path:
        """Write the drawn picture (see `plot`) to a file, whose suffix names the format; returns its path.

        Raises:
            UserError: as in `plot`; the suffix names no format that can be written; or the file cannot be written.
        """
        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind not in Image.SAVE:
            raise UserError(f"{path} names no kind of picture by its suffix; expected e.g. {path.stem}.jpg")
        drawn = self.plot(image)
        try:
            content = encode_image(drawn, kind, quality=95)
        except (OSError, ValueError) as error:  # some formats need another program
            said = f"{path} cannot be written as {kind} ({first_line(error)})"
            raise UserError(f"{said}; give e.g. {path.stem}.jpg") from None
        try:
            write_bytes(path, content)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({first_line(error)}); give another path") from None
        return path

    def crops(self, image: Picture | None = None) -> list[Image.Image]:
        """The part of the picture in each box of `visible()`, rounded outwards to whole pixels.

        Raises:
            UserError: as in `plot`.
        """
        whole, boxes = self._image(image), self.visible().boxes_xyxy
        corners = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], dim=1).int().tolist()
        return [whole.crop((x1, y1, x2, y2)) for x1, y1, x2, y2 in corners]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON: the picture's name, id, height and width, and a dict per detection."""
        height, width = self.image_size
        found = [{**one._asdict(), "box_xyxy": list(one.box_xyxy)} for one in self]
        about = {"file_name": self.file_name, "image_id": self.image_id, "height": height, "width": width}
        return {**about, "detections": found}

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row per detection: file_name, image_id, name, category_id, score, x1, y1, x2, y2.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas; install it with pip install pandas") from None
        columns = {
            "file_name": [self.file_name] * len(self), "image_id": [self.image_id] * len(self), "name": self.names,
            "category_id": self.category_ids, "score": self.scores.numpy(),
        }  # fmt: skip
        return pandas.DataFrame(columns | dict(zip(("x1", "y1", "x2", "y2"), self.boxes_xyxy.numpy().T)))

    def to_coco(self) -> list[dict[str, Any]]:
        """COCO result entries (`bbox` is x, y, width, height in pixels), with `file_name` and `name` added.

        Classes without a category (N/A) have no raw id and are left out.
        """
        found = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.category_ids, self.names)
        about = {"image_id": self.image_id, "file_name": self.file_name}
        return [
            {**about, "category_id": number, "name": name, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score, number, name in found
            if number is not None
        ]

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with the names under `data["class_name"]`."""
        from opendetr._supervision import supervision

        return supervision.Detections(
            xyxy=self.boxes_xyxy.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def _repr_png_(self) -> bytes | None:
        """The drawn picture, for notebooks; without a picture they show the table instead."""
        try:
            drawn = self.plot()
        except UserError:
            return None
        drawn.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return encode_image(drawn, "PNG")

    def _image(self, image: Picture | None) -> Image.Image:
        if image is None and self.picture is None:
            raise UserError("these detections do not know their picture; give it, e.g. plot(image)")
        found = read_image(image) if image is not None else self.picture()  # type: ignore[misc]
        if (found.height, found.width) != self.image_size:
            height, width = self.image_size
            raise UserError(
                f"{self.file_name or 'the picture'} has {found.width}x{found.height} pixels, the one that was detected "
                f"in had {width}x{height}; give that one"
            )
        return found


def reaches(scores: Float[Tensor, "*N"], labels: Int[Tensor, "*#N"], threshold: Threshold) -> Bool[Tensor, "*N"]:
    """Whether scores are at least the threshold, which may be one per class; `labels` are their class indices."""
    if isinstance(threshold, int | float):
        return scores >= threshold
    # In double precision, since fitted thresholds lie between scores that may be neighbours in single precision.
    return scores >= torch.tensor(threshold, dtype=torch.float64, device=labels.device)[labels]


def threshold_in_words(threshold: Threshold) -> str:
    """`the threshold of 0.5`, or `the model's threshold of its class (0.31 to 0.62)`."""
    low, high = (threshold, threshold) if isinstance(threshold, int | float) else (min(threshold), max(threshold))
    if low == high:
        return f"the threshold of {low:g}"
    return f"the model's threshold of its class ({low:.2g} to {high:.2g})"
