"""What is needed beside a model's weights to use it, in any engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opendetr.data.transforms import Preprocessing
from opendetr.detections import Threshold
from opendetr.labels import LabelMap
from opendetr.scoring import FocalScoring, Scoring, SoftmaxScoring

USUAL_THRESHOLD = 0.5  # of a model that has none of its own


@dataclass(frozen=True)
class Description:
    """How pictures are prepared, how classes are scored, and what they are called."""

    preprocessing: Preprocessing
    scoring: Scoring
    label_map: LabelMap
    thresholds: Sequence[float] = ()  # per class, the model's own; empty: it has none

    def threshold(self, asked: Threshold | None) -> Threshold:
        """What is asked for; else the model's own thresholds, or 0.5."""
        return asked if asked is not None else self.thresholds or USUAL_THRESHOLD

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "preprocessing": self.preprocessing.to_json(),
            "scoring": "focal" if isinstance(self.scoring, FocalScoring) else "softmax",
            "labels": self.label_map.to_json(),
            **({"thresholds": list(self.thresholds)} if self.thresholds else {}),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Description":
        """The inverse of `to_json`, as far as prediction goes: the weights of losses are not kept."""
        scorings: dict[str, Scoring] = {"focal": FocalScoring(), "softmax": SoftmaxScoring()}
        scoring = scorings[values["scoring"]]
        label_map = LabelMap.from_json(values["labels"])
        thresholds = checked_thresholds(values.get("thresholds", ()), label_map.num_classes)
        return cls(Preprocessing.from_json(values["preprocessing"]), scoring, label_map, thresholds)


def checked_thresholds(values: Any, num_classes: int) -> tuple[float, ...]:
    """Stored thresholds, empty where there are none; ValueError unless they are numbers in 0..1, one per class."""
    are_numbers = isinstance(values, list | tuple) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 for value in values
    )
    if not are_numbers or len(values) not in (0, num_classes):
        raise ValueError(f"'thresholds': expected {num_classes} numbers in 0..1, one per class; got {values!r:.100}")
    return tuple(map(float, values))
