"""The shapes of requests and answers, as the OpenAPI description says them."""

from typing import Annotated, Any

from opendetr.serving.packages import BaseModel, ConfigDict, Field

FOUR = Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels of the upright picture")
Box = Annotated[list[float], FOUR]
FARTHEST = 1e6  # pixels: larger than any picture, and far below what float32 cannot hold
TrueBox = Annotated[list[Annotated[float, Field(ge=-FARTHEST, le=FARTHEST)]], FOUR]


class Error(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


class FoundObject(BaseModel):
    """A detection."""

    name: str
    category_id: int | str | None = Field(description="as the training data wrote it")
    score: float = Field(ge=0, le=1)
    box_xyxy: Box
    label: int = Field(ge=0, description="class index")
    query: int = Field(ge=0, description="the object query that gave it")


class FoundPicture(BaseModel):
    """What was found in a picture, as the model orders it."""

    width: int
    height: int
    detections: list[FoundObject]


class Pictures(BaseModel):
    """One entry per picture, in the order in which they were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "pictures": [
                    {
                        "width": 640,
                        "height": 480,
                        "detections": [
                            {
                                "name": "RBC", "category_id": 1, "score": 0.93,
                                "box_xyxy": [12.5, 30.1, 118.0, 131.9], "label": 0, "query": 17,
                            }
                        ],
                    }
                ]
            }
        }
    )  # fmt: skip
    pictures: list[FoundPicture]


class TrueObject(BaseModel):
    """A true object of a picture: its class by one of three names, and its box."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    label: int | None = None
    name: str | None = None
    category_id: int | str | None = None
    box_xyxy: TrueBox

    def model_post_init(self, context: Any) -> None:
        """Check what the fields alone do not say."""
        if (self.label, self.name, self.category_id) == (None, None, None):
            raise ValueError("a true object needs one of label, name and category_id")
        x1, y1, x2, y2 = self.box_xyxy
        if not (x1 < x2 and y1 < y2):
            raise ValueError("a box needs x1 < x2 and y1 < y2")


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of a route beside the one that was asked for."""
    return {status: {"model": Error, "description": SAID[status]} for status in statuses}


SAID = {
    400: "the body is broken",
    401: "the API key is missing or wrong",
    403: "asked by a page of another host, or under another name of this one",
    404: "there is no such thing",
    408: "the body did not arrive in time",
    409: "somebody else has decided meanwhile, or the labels cannot be reviewed",
    413: "too many bytes, pixels or pictures",
    415: "the body is of another kind",
    422: "a field or a picture cannot be used",
    429: "the queue is full: send again after Retry-After seconds",
    500: "a fault of the server, which its console describes",
    502: "Label Studio, from which a picture is fetched, does not answer",
    503: "the model is being loaded, or started again",
    504: "the deadline has passed",
}
COMPUTING = errors(400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)


def form(fields: dict[str, Any] | None = None, most: str = "several") -> dict[str, Any]:
    """How a request with pictures is described."""
    images: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "format": "binary"},
        "description": f"{most}: the content of picture files, such as JPEG or PNG",
    }
    if most == "one":
        images["maxItems"] = 1
    schema = {
        "type": "object",
        "required": ["images"],
        "additionalProperties": False,
        "properties": {"images": images, **(fields or {})},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def json_body(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """How a request with a JSON object is described; it may hold more."""
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
