"""The web application: its routes, and the files of the page."""

import json
import math
import mimetypes
from pathlib import Path
from typing import Annotated, Any

from opendetr.serving.answers import ExplainedPictures, Matching, ModelFacts, Status
from opendetr.serving.asking import refusals, while_connected
from opendetr.serving.data_routes import add_data
from opendetr.serving.guard import Guard
from opendetr.serving.label_studio import ROUTES, add_label_studio
from opendetr.serving.metrics import Metrics, Timed
from opendetr.serving.packages import (
    CONTENT_TYPE_LATEST,
    FastAPI,
    HTTPException,
    Match,
    Query,
    Request,
    RequestValidationError,
    Response,
    StaticFiles,
    TypeAdapter,
    ValidationError,
)
from opendetr.serving.process import Compute
from opendetr.serving.refusal import Plain, Refusal
from opendetr.serving.schemas import COMPUTING, Pictures, TrueObject, errors, form
from opendetr.serving.settings import ServeSettings
from opendetr.serving.uploads import Form, Gate
from opendetr.version import __version__

WEB = Path(__file__).parent / "web"
MOST_OBJECTS, MOST_POINTS, MOST_EXPLAINED = 1000, 16, 100  # of a request; detections of a picture
SCORE = {"type": "number", "minimum": 0, "maximum": 1, "description": "by default the model's own of each class"}
BINARY = {"type": "string", "format": "binary", "description": "a safetensors file"}
NEEDS_KEY = ("/v1/", "/metrics", *ROUTES)
ThresholdQuery = Annotated[
    float | None,
    Query(ge=0, le=1, description="the lowest score that is reported; by default the model's own of each class"),
]

CheckpointQuery = Annotated[str | None, Query(max_length=40, description="a kept checkpoint of the run, by its name")]


def create_app(settings: ServeSettings, compute: Compute) -> FastAPI:
    """The application, for uvicorn and for tests.

    Args:
        settings: of the web process.
        compute: started before, and stopped after.
    """
    app = FastAPI(
        title="opendetr", version=__version__, docs_url=None, redoc_url=None,  # their pages load from another host
        description="Detections of a DETR, and what it looked at. Errors are JSON with one sentence, `error`.",
    )  # fmt: skip
    app.state.settings, app.state.compute, app.state.is_stopping = settings, compute, False
    app.state.metrics = Metrics(compute)
    app.state.gate = Gate(settings.limits)
    app.add_middleware(Guard, settings=settings, needs_key=NEEDS_KEY)
    app.add_middleware(Timed, metrics=app.state.metrics)
    _say_errors(app)
    _add_state(app)
    _add_model(app)
    add_label_studio(app)
    add_data(app)
    _add_page(app)
    return app


def _add_page(app: FastAPI) -> None:
    """The files of the page, after all other routes."""
    mimetypes.add_type("text/javascript", ".js")  # which some systems call otherwise, and browsers then refuse
    files = StaticFiles(directory=WEB, html=True, check_dir=False)

    @app.api_route("/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        for route in app.router.routes:  # a route that is there for another method
            if route.matches(request.scope)[0] is Match.PARTIAL:
                raise HTTPException(405, headers={"Allow": ", ".join(sorted(getattr(route, "methods", ())))})
        return await files.get_response(files.get_path(request.scope), request.scope)


def _say_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence."""

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        return refusal.answer()

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        return Refusal(422, in_words(error.errors()[0])).answer()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        answer = Refusal(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}").answer()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return Refusal(500, f"the server has a fault ({type(error).__name__}); its console says more").answer()


def in_words(error: Any) -> str:
    """An error of pydantic as a sentence that names the field."""
    where = error["loc"][1:] if error["loc"][:1] in (("query",), ("path",), ("body",)) else error["loc"]
    said = str(error["msg"]).removeprefix("Value error, ")
    return ": ".join(filter(None, (".".join(map(str, where)), f"{said[:1].lower()}{said[1:]}")))


def _add_state(app: FastAPI) -> None:
    compute: Compute = app.state.compute

    @app.get("/healthz", response_model=Status)
    async def health() -> Response:
        """Whether the web process answers."""
        return Plain({"status": "ok"})

    @app.get("/readyz", response_model=Status, responses=errors(503))
    async def ready() -> Response:
        """Whether the model is loaded, and the server takes requests."""
        if app.state.is_stopping:
            raise Refusal(503, "the server is stopping")
        if not compute.is_ready:
            raise Refusal(503, "the model is being loaded or started again", retry_after="5")
        return Plain({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **errors(401)})
    async def metrics() -> Response:
        """Metrics in Prometheus's format."""
        return Response(app.state.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", response_model=ModelFacts, responses=errors(401, 503))
    async def model() -> Response:
        """The model: classes, thresholds, how pictures are prepared, engine, and the engine's certificate."""
        if not compute.facts:
            raise Refusal(503, "the model is being loaded or started again", retry_after="5")
        return Plain(compute.facts)


def _add_model(app: FastAPI) -> None:
    compute: Compute = app.state.compute
    gate: Gate = app.state.gate
    deadline = app.state.settings.limits.deadline

    @app.post("/v1/detect", response_model=Pictures, responses=COMPUTING, openapi_extra=form())
    async def detect(request: Request, threshold: ThresholdQuery = None) -> Response:
        """Detections of one or several pictures."""
        async with gate.form(request) as sent:
            found = await compute_each(request, "detect", sent, threshold=threshold)
        return Plain({"pictures": found})

    @app.post(
        "/v1/explain", response_model=ExplainedPictures, responses=COMPUTING,
        openapi_extra=form(
            {
                "points": {
                    "type": "string", "example": "120,80 40,30",
                    "description": "x,y in pixels, with a space between two",
                },
                "layer": {"type": "integer", "minimum": 0, "default": 0, "description": "from 1; 0 is the last"},
                "head": {"type": "integer", "minimum": 0, "default": 0, "description": "from 1; 0 is the mean"},
                "at_most": {
                    "type": "integer", "minimum": 1, "maximum": MOST_EXPLAINED, "default": 12,
                    "description": "detections of a picture",
                },
                "threshold": SCORE,
            }
        ),
    )  # fmt: skip
    async def explain(request: Request) -> Response:
        """What each detection looked at, and what the encoder sees from some points, as maps over the picture."""
        async with gate.form(request, ("points", "layer", "head", "at_most", "threshold")) as sent:
            numbers = {
                name: read_whole(sent, name, usual) for name, usual in (("layer", 0), ("head", 0), ("at_most", 12))
            }
            if not 1 <= numbers["at_most"] <= MOST_EXPLAINED:
                raise Refusal(422, f"at_most: expected 1 to {MOST_EXPLAINED}")
            asked = {"threshold": read_score(sent), "points": read_points(sent), **numbers}
            found = await compute_each(request, "explain", sent, **asked)
        return Plain({"pictures": found})

    @app.post(
        "/v1/look", response_class=Response, openapi_extra=form(most="one"),
        responses=COMPUTING | {200: {"content": {"application/octet-stream": {"schema": BINARY}}}},
    )  # fmt: skip
    async def look(request: Request, checkpoint: CheckpointQuery = None) -> Response:
        """What the page shows inside the model: logits, boxes, and queries and keys of its attention (safetensors)."""
        async with gate.form(request, most=1) as sent:
            (found,) = await compute_each(request, "look", sent, checkpoint=checkpoint)
        return Response(found, media_type="application/octet-stream")

    @app.post(
        "/v1/match", response_model=Matching, responses=COMPUTING,
        openapi_extra=form(
            {
                "truth": {
                    "type": "string", "contentMediaType": "application/json",
                    "description": "a list of true objects: box_xyxy, and one of name, label and category_id",
                    "example": '[{"name": "RBC", "box_xyxy": [12, 30, 118, 132]}]',
                },
                "threshold": SCORE,
            },
            most="one",
        ),
    )  # fmt: skip
    async def match(request: Request) -> Response:
        """Which query is matched to which true object, why objects were missed, and what false alarms are."""
        async with gate.form(request, ("truth", "threshold"), most=1) as sent:
            asked = {"threshold": read_score(sent), "truth": read_truth(sent)}
            (found,) = await compute_each(request, "match", sent, **asked)
        return Plain(found)

    async def compute_each(request: Request, work: str, sent: Form, **arguments: Any) -> list[Any]:
        jobs = [{"picture": one.content, "name": one.name, **arguments} for one in sent.pictures]
        with refusals():
            return await while_connected(request, compute.call_all(work, jobs, deadline=deadline))


def read_whole(sent: Form, name: str, usual: int) -> int:
    """A field with a whole number.

    Raises:
        Refusal: it holds something else.
    """
    text = sent.fields.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise Refusal(422, f"{name}: expected a whole number, got {text[:20]!r}")
    return int(text)


def read_score(sent: Form) -> float | None:
    """The field `threshold`, 0..1; None where it is not there.

    Raises:
        Refusal: it holds something else.
    """
    text = sent.fields.get("threshold")
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise Refusal(422, f"threshold: expected a number from 0 to 1, got {text[:20]!r}")
    return number


def read_points(sent: Form) -> list[tuple[float, float]]:
    """The field `points`: x,y in pixels, with a space between two.

    Raises:
        Refusal: it holds something else, or too many.
    """
    points = []
    for text in sent.fields.get("points", "").split():
        try:
            x, y = map(float, text.split(","))
        except ValueError:
            raise Refusal(422, f"points: expected x,y in pixels, got {text[:20]!r}") from None
        if not (math.isfinite(x) and math.isfinite(y)):
            raise Refusal(422, f"points: expected x,y in pixels, got {text[:20]!r}")
        points.append((x, y))
    if len(points) > MOST_POINTS:
        raise Refusal(422, f"points: expected {MOST_POINTS} at most, got {len(points)}")
    return points


_TRUTH = TypeAdapter(list[TrueObject])


def read_truth(sent: Form) -> list[dict[str, Any]]:
    """The field `truth`, a JSON list of true objects.

    Raises:
        Refusal: it is missing, or is no such list.
    """
    if "truth" not in sent.fields:
        raise Refusal(422, "the field 'truth' is missing; expected a JSON list of true objects")
    try:
        objects = _TRUTH.validate_python(json.loads(sent.fields["truth"]))
    except ValidationError as error:
        raise Refusal(422, f"truth: {in_words(error.errors()[0])}") from None
    except (ValueError, RecursionError):
        raise Refusal(422, "truth: this is no JSON; expected a list of true objects") from None
    if len(objects) > MOST_OBJECTS:
        raise Refusal(422, f"truth: expected {MOST_OBJECTS} objects at most, got {len(objects)}")
    return [one.model_dump() for one in objects]
