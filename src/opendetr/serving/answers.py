"""What the routes about a model answer, as the OpenAPI description says it."""

from typing import Annotated, Any

from opendetr.explanation.verdicts import SENTENCES
from opendetr.serving.packages import BaseModel, ConfigDict, Field
from opendetr.serving.schemas import Box

Map = Annotated[list[list[float]], Field(description="rows from top to bottom, over `extent`")]
CategoryId = Annotated[int | str | None, Field(description="as the training data wrote it; null: no class of its own")]
# The weighted terms of a candidate's cost.
TERMS: dict[str, Any] = {"class_cost": -1.86, "l1_cost": 0.04, "giou_cost": -1.7, "cost": -3.52}
BOX: Any = [12.5, 30.1, 118.0, 131.9]


class Status(BaseModel):
    """That the server is there."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ok"}})
    status: str


class Class(BaseModel):
    """A class of the model."""

    label: int
    name: str
    category_id: CategoryId


class ModelFacts(BaseModel):
    """The model; what an exported file does not tell is null."""

    name: str
    identity: str = Field(description="another one for another model")
    version: str = Field(description="of opendetr")
    classes: list[Class]
    thresholds: list[float] = Field(description="of each class, where a request names none")
    scoring: Any = Field(description="how logits become scores")
    preprocessing: dict[str, Any] = Field(description="how pictures are prepared")
    engine: str
    precision: str
    certificate: dict[str, Any] | None = Field(description="that the engine agrees with PyTorch; null where it is that")
    can_look: bool = Field(description="whether attention can be shown")
    data: dict[str, Any] | None = Field(description="the open data set: name, splits, whether it is the run's own")
    run: dict[str, Any] | None = Field(description="the run that the model is of: name and kept checkpoints")
    parameters: int | None
    num_queries: int | None
    encoder_layers: int | None
    decoder_layers: int | None
    heads: int | None
    focus: Any
    query_source: str | None
    strides: list[int] | None
    costs: dict[str, float] | None = Field(description="weights of the matching cost")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "cells", "identity": "0123456789abcdef", "version": "0.1.0",
                "classes": [{"label": 0, "name": "RBC", "category_id": 1}], "thresholds": [0.5], "scoring": "sigmoid",
                "preprocessing": {"image_size": 320, "max_size": 533}, "engine": "torch", "precision": "fp32",
                "certificate": None, "can_look": True, "data": None, "run": None, "parameters": 4000000,
                "num_queries": 100, "encoder_layers": 3, "decoder_layers": 3, "heads": 8, "focus": None,
                "query_source": "learned", "strides": [16], "costs": {"class": 2.0, "l1": 5.0, "giou": 2.0},
            }
        }
    )  # fmt: skip


class ExplainedObject(BaseModel):
    """A detection, and what its query looked at."""

    query: int
    label: int
    name: str
    score: float
    box_xyxy: Box
    attention: Map
    rollout: Map


class ExplainedPoint(BaseModel):
    """A point of the picture in the encoder."""

    point: list[float] = Field(min_length=2, max_length=2, description="x, y in pixels")
    reads: Map
    readers: Map


class ExplainedPicture(BaseModel):
    """What was looked at in a picture."""

    width: int
    height: int
    extent: list[float] = Field(min_length=2, max_length=2, description="width and height of a map, in pixels")
    maps: str = Field(description="which layer and head `attention` is of")
    found: int = Field(description="detections before `at_most`")
    detections: list[ExplainedObject]
    points: list[ExplainedPoint]


class ExplainedPictures(BaseModel):
    """One entry per picture, in the order in which they were sent."""

    pictures: list[ExplainedPicture]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "pictures": [
                    {
                        "width": 640, "height": 480, "extent": [640, 480], "maps": "decoder layer 3, mean of 8 heads",
                        "found": 1,
                        "detections": [
                            {
                                "query": 17, "label": 0, "name": "RBC", "score": 0.93, "box_xyxy": BOX,
                                "attention": [[0.7, 0.1], [0.1, 0.1]], "rollout": [[0.4, 0.2], [0.2, 0.2]],
                            }
                        ],
                        "points": [
                            {
                                "point": [120, 80], "reads": [[0.7, 0.1], [0.1, 0.1]],
                                "readers": [[0.6, 0.2], [0.1, 0.1]],
                            }
                        ],
                    }
                ]
            }
        }
    )  # fmt: skip


class MatchCandidate(BaseModel):
    """A query as a candidate for a true object."""

    query: int
    class_cost: float = Field(description="the weighted terms of the matching cost; lower fits better")
    l1_cost: float
    giou_cost: float
    cost: float = Field(description="their sum, which the matcher minimises")
    iou: float
    answer: str = Field(description="its best class")
    score: float


class MatchVerdict(BaseModel):
    """What became of an object or a detection, for sentences in other languages."""

    case: str = Field(description=f"one of {', '.join(SENTENCES)}")
    facts: dict[str, str] = Field(description="what `sentence` names, as it is written there")


class MatchedObject(BaseModel):
    """A true object, and what became of it."""

    name: str
    label: int
    box_xyxy: Box
    taken_by: MatchCandidate | None = Field(description="the query that was matched to it")
    runners_up: list[MatchCandidate]
    found_by: int | None = Field(description="the query of the detection that found it; null: it was missed")
    reason: str | None = Field(description="why it was missed")
    sentence: str = Field(description="what became of it")
    verdict: MatchVerdict


class WrongDetection(BaseModel):
    """A false alarm."""

    query: int
    name: str
    score: float
    box_xyxy: Box
    kind: str
    sentence: str = Field(description="what it is")
    verdict: MatchVerdict


class Matching(BaseModel):
    """True objects and false alarms of a picture."""

    width: int
    height: int
    objects: list[MatchedObject]
    false_alarms: list[WrongDetection]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "width": 640, "height": 480,
                "objects": [
                    {
                        "name": "RBC", "label": 0, "box_xyxy": BOX, "runners_up": [], "found_by": 17, "reason": None,
                        "taken_by": {"query": 17, **TERMS, "iou": 0.91, "answer": "RBC", "score": 0.93},
                        "sentence": "found by query 17: 'RBC' with score 0.93, IoU 0.91",
                        "verdict": {
                            "case": "found", "facts": {"query": "17", "name": "RBC", "score": "0.93", "iou": "0.91"},
                        },
                    }
                ],
                "false_alarms": [
                    {
                        "query": 4, "name": "RBC", "score": 0.6, "box_xyxy": [300, 200, 360, 260],
                        "kind": "background",
                        "sentence": "background: no object overlaps it with IoU 0.1 or more",
                        "verdict": {"case": "background", "facts": {"least": "0.1"}},
                    }
                ],
            }
        }
    )  # fmt: skip
