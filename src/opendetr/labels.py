"""LabelMap: raw category id <-> class index 0..C-1 <-> name. No other code converts between the three."""

import difflib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opendetr.errors import UserError
from opendetr.raw_values import RawId, raw_id
from opendetr.wording import one_line

UNUSED = "N/A"

# The categories of COCO by raw id, 0 to 90: 80 in use (Lin et al. 2014). Official checkpoints have a class for each.
COCO_CLASSES = (
    "N/A", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "N/A", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "N/A", "backpack", "umbrella", "N/A", "N/A", "handbag", "tie", "suitcase",
    "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "N/A", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana",
    "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "N/A", "dining table", "N/A", "N/A", "toilet", "N/A", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "N/A", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


@dataclass(frozen=True)
class LabelMap:
    """The classes of a model.

    `category_ids[index]` is the raw id, a number or a text, that the data set uses for class `index`, `names[index]` is
    its name. An index may have no category (id None, name N/A): of the 91 classes of official checkpoints 11 have none.
    """

    category_ids: tuple[RawId | None, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        used = [category_id for category_id in self.category_ids if category_id is not None]
        if len(used) != len(set(used)) or len(self.category_ids) != len(self.names) or not used:
            raise ValueError("a LabelMap needs at least one category, one name per index, and no category id twice")

    @classmethod
    def from_categories(cls, categories: Iterable[Any], source: str) -> "LabelMap":
        """A class per category (`id` and `name`, as the file `source` lists it), used or not, in the order of the ids.

        Ids that are texts come after those that are numbers.

        Raises:
            UserError: no categories, an id that is neither a whole number nor a text, or an id listed twice.
        """
        names: dict[RawId, str] = {}
        for category in categories:
            try:
                category_id, name = raw_id(category["id"]), category["name"]
                if not isinstance(name, str | int) or isinstance(name, bool):
                    raise TypeError
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{source}: every category needs a whole number or a text as 'id', and a 'name', got {category}"
                ) from None
            if category_id in names:
                raise UserError(f"{source}: category id {category_id} is listed twice; ids must be unique")
            names[category_id] = str(name).encode("utf-8", "replace").decode()  # half a pair of surrogates is no text
        if not names:
            raise UserError(f"{source}: the list 'categories' is empty; at least one class is needed")
        in_order = sorted(names, key=lambda one: (isinstance(one, str), one))
        return cls(tuple(in_order), tuple(names[category_id] for category_id in in_order))

    @property
    def num_classes(self) -> int:
        """C: foreground classes. The no-object class of a softmax model is not among them."""
        return len(self.names)

    @cached_property
    def index_of(self) -> dict[RawId, int]:
        """Raw category id -> class index."""
        return {category_id: index for index, category_id in enumerate(self.category_ids) if category_id is not None}

    def indices_of(self, classes: str | int | Iterable[str | int]) -> set[int]:
        """The class indices of names, of raw category ids, or of several of them with commas between in one text.

        Raises:
            UserError: a class that is not here; lists those that are.
        """
        found: set[int] = set()
        for wanted in [classes] if isinstance(classes, str | int) else classes:
            one = self._indices_of_one(wanted)
            if not one and isinstance(wanted, str) and "," in wanted:
                one = self.indices_of([part.strip() for part in wanted.split(",") if part.strip()])
            if not one:
                used = (self.names[at] for at in self.index_of.values())
                lower = {name.lower(): name for name in used}
                near = difflib.get_close_matches(str(wanted).lower(), lower, n=1)
                raise UserError(
                    f"the model has no class '{wanted}'{f' (did you mean {lower[near[0]]}?)' if near else ''}; "
                    f"its classes are {self.describe(limit=100)}"
                )
            found |= one
        return found

    def _indices_of_one(self, wanted: str | int) -> set[int]:
        """Of a name, which several categories may have, or else of a raw id."""
        named = {at for at, name in enumerate(self.names) if name == wanted and self.category_ids[at] is not None}
        with suppress(ValueError):
            if not named and (category_id := raw_id(wanted)) in self.index_of:
                return {self.index_of[category_id]}
        return named

    def require_same_categories(self, other: "LabelMap", source: str) -> None:
        """Check that every category of `other` (the labels of `source`) is one of ours, under the same id and name.

        Raises:
            UserError: names the first category that is not.
        """
        for category_id, name in zip(other.category_ids, other.names):
            if category_id is None:
                continue
            index = self.index_of.get(category_id)
            if index is None:
                raise UserError(
                    f"{source}: category {category_id} '{name}' is not among the categories that the model is trained "
                    f"on ({self.describe()}); list it in the model's training data, or leave it out here by --classes"
                )
            if self.names[index] != name:
                raise UserError(
                    f"{source}: category {category_id} is called '{name}' here and '{self.names[index]}' in the data "
                    f"that the model is trained on; give both the same ids and names, by --rename or in the files"
                )

    def describe(self, limit: int = 12) -> str:
        """The categories in words, at most `limit` of them."""
        pairs = [f"{i} '{one_line(name)}'" for i, name in zip(self.category_ids, self.names) if i is not None]
        return ", ".join(pairs[:limit]) + (f" and {len(pairs) - limit} more" if len(pairs) > limit else "")

    def to_json(self) -> list[dict[str, Any]]:
        """One entry `{id, name}` per class index, in order."""
        return [{"id": category_id, "name": name} for category_id, name in zip(self.category_ids, self.names)]

    @classmethod
    def from_json(cls, entries: list[dict[str, Any]]) -> "LabelMap":
        """The inverse of `to_json`; KeyError, TypeError or ValueError if it is something else."""
        for entry in entries:
            if not isinstance(entry["name"], str) or type(entry["id"]) not in (int, str, type(None)):
                raise ValueError(
                    f"a class needs a text as 'name' and a whole number or a text as 'id', got {entry!r:.100}"
                )
        if not entries:
            raise ValueError("the list of classes is empty")
        return cls(tuple(entry["id"] for entry in entries), tuple(entry["name"] for entry in entries))
