"""The origin of a model, and what was measured of it: `metrics.json` of a model folder."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

NAMES_ASSUMED: Literal["names assumed"] = "names assumed"
NO_HEAD: Literal["no head"] = "no head"
TENSOR_KINDS = ("float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_KINDS: dict[type, Any] = {str: str, tuple: list | tuple, dict: Mapping, bool: bool}  # of defaults and of values
IDS_ASSUMED: Literal["ids assumed"] = "ids assumed"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The origin of a model; what is not known is empty or None, and is not written."""

    format: str = ""  # of the file it was read from: official or huggingface; empty: our own
    version: str = ""  # of opendetr, that wrote the model folder; empty: an early one, which did not say
    source: str = ""  # the name that it was loaded by
    read: Sequence[str] = ()  # sentences: what was read from where
    labels: Literal["", "told", "names assumed", "ids assumed", "no head"] = ""  # what the file says about the classes
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the file's config: what nothing here uses
    kinds: Mapping[str, str] = field(default_factory=dict)  # types of the file's tensors that are not float32
    counters: Mapping[str, int] = field(default_factory=dict)  # batch norm's, which a frozen one does without
    timm_backbone: bool = True  # whether a Hugging Face folder had timm's names for the backbone
    data: str = ""  # the folder of the data set it was trained on
    train_split: str = ""
    backbone_weights: str = ""  # what training began with, in words
    created: str = ""  # when training began
    training: Mapping[str, Any] | None = None  # the last line of the training log
    val: Mapping[str, Any] | None = None  # COCO metrics of the split val, as `CocoMetrics.to_json` writes them
    thresholds: Sequence[float] = ()  # per class, fitted on val to these weights; empty: none were
    others: Mapping[str, Any] = field(default_factory=dict)  # values of other versions, kept as they are

    def to_json(self) -> dict[str, Any]:
        """Plain values of what is known."""
        unknown = asdict(Origin())
        known = {name: value for name, value in asdict(self).items() if value != unknown[name]}
        known.pop("others", None)
        return known | dict(self.others)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Origin":
        """The inverse of `to_json`; ValueError if a value is of another kind."""
        names = {item.name for item in fields(cls)} - {"others"}
        others = {name: value for name, value in values.items() if name not in names}
        known = {name: value for name, value in values.items() if name in names and value is not None}
        for name, value in known.items():
            default = getattr(cls(), name)
            if not isinstance(value, Mapping if default is None else _KINDS[type(default)]):
                raise ValueError(f"'{name}' is no {type(default or {}).__name__}: {value!r:.100}")
        if unknown := set(known.get("kinds", {}).values()) - set(TENSOR_KINDS):
            raise ValueError(f"'kinds' names no types of tensors: {unknown!r:.100}")
        return cls(**known, others=others)
