"""What is needed beside a model's weights to use it, in any engine."""

from dataclasses import dataclass
from typing import Any

from opendetr.data.transforms import Preprocessing
from opendetr.labels import LabelMap
from opendetr.scoring import FocalScoring, Scoring, SoftmaxScoring


@dataclass(frozen=True)
class Description:
    """How pictures are prepared, how classes are scored, and what they are called."""

    preprocessing: Preprocessing
    scoring: Scoring
    label_map: LabelMap

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        return {
            "preprocessing": self.preprocessing.to_json(),
            "scoring": "focal" if isinstance(self.scoring, FocalScoring) else "softmax",
            "labels": self.label_map.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Description":
        """The inverse of `to_json`, as far as prediction goes: the weights of losses are not kept."""
        scorings: dict[str, Scoring] = {"focal": FocalScoring(), "softmax": SoftmaxScoring()}
        scoring = scorings[values["scoring"]]
        return cls(Preprocessing.from_json(values["preprocessing"]), scoring, LabelMap.from_json(values["labels"]))
