"""The routes of a machine-learning backend of Label Studio, whose tasks name pictures by address.

Pictures are fetched from the one Label Studio that the server was started with, and from nowhere else. Label Studio
gives rectangles in per cent of the picture.
"""

import asyncio
import http.client
import json
import math
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit
from xml.etree import ElementTree

from opendetr.errors import UserError, first_line
from opendetr.progress import warn
from opendetr.serving.asking import refusals, while_connected
from opendetr.serving.packages import FastAPI, Request, Response
from opendetr.serving.process import Compute, Late
from opendetr.serving.refusal import Plain, Refusal
from opendetr.serving.schemas import COMPUTING, errors, json_body
from opendetr.serving.settings import LabelStudio
from opendetr.serving.uploads import Gate, Upload
from opendetr.version import __version__
from opendetr.wording import one_line

ANSWER_SECONDS, ALL_SECONDS = 10.0, 60.0  # longest wait for the next bytes of a picture, and for all of them
CHUNK = 2**16
AT_ONCE = 4  # pictures of a request that are fetched and detected in at the same time
MOST_JSON, MOST_INTERFACE = 2 * 2**20, 100_000  # bytes of a body; letters of a labelling interface
MOST_TASKS = 1000  # of a request
MOST_REDIRECTS = 3
MOST_ADDRESS = 2000  # letters
EXAMPLE = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image"><Label value="RBC"/>'
    "</RectangleLabels></View>"
)
ROUTES = ("/health", "/setup", "/predict", "/webhook")


class Labelling(NamedTuple):
    """What of a project's labelling interface is about rectangles."""

    from_name: str  # of the tag RectangleLabels
    to_name: str  # of the tag Image
    key: str  # of a task's data: where its picture is
    label_of: dict[str, str]  # name of a class -> label of the project


class Region(NamedTuple):
    """A box in per cent of its picture."""

    x: float
    y: float
    width: float
    height: float


def add_label_studio(app: FastAPI) -> None:
    """Add the four routes."""
    compute: Compute = app.state.compute
    gate: Gate = app.state.gate
    settings = app.state.settings
    store = None if settings.label_studio is None else PictureStore(settings.label_studio, settings.limits.body_bytes)

    @app.get("/health", tags=["Label Studio"], responses=errors(401, 503))
    async def health() -> Response:
        """Whether the model is loaded, as Label Studio asks."""
        if not compute.is_ready:
            raise Refusal(503, "the model is being loaded or started again", retry_after="5")
        return Plain({"status": "UP", "model_class": compute.facts["name"]})

    interface = {"type": "string", "description": "the labelling interface, XML", "example": EXAMPLE}

    @app.post("/setup", tags=["Label Studio"], responses=COMPUTING, openapi_extra=json_body({"schema": interface}, []))
    async def setup(request: Request) -> Response:
        """The version of the model, for a project whose labelling interface has RectangleLabels on an Image."""
        asked = await gate.json(request, MOST_JSON)
        if asked.get("schema"):
            await asyncio.to_thread(labelling_of, asked["schema"], names_of(compute))
        return Plain({"model_version": version_of(compute)})

    tasks_of = {"type": "array", "items": {"type": "object"}, "example": [{"id": 1, "data": {"image": "/data/a.png"}}]}

    @app.post(
        "/predict", tags=["Label Studio"], responses=COMPUTING | errors(502),
        openapi_extra=json_body({"tasks": tasks_of, "label_config": interface}, ["tasks", "label_config"]),
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        """Rectangles for every task."""
        asked = await gate.json(request, MOST_JSON)
        tasks = asked.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise Refusal(422, "tasks: expected a list of Label Studio's tasks")
        if len(tasks) > MOST_TASKS:
            raise Refusal(413, f"tasks: expected {MOST_TASKS} at most, got {len(tasks)}")
        labelling = await asyncio.to_thread(labelling_of, asked.get("label_config"), names_of(compute))
        with refusals():
            return Plain({"results": await while_connected(request, predictions(tasks, labelling))})

    @app.post(
        "/webhook", tags=["Label Studio"], responses=errors(400, 401, 403, 408, 413, 422, 429),
        openapi_extra=json_body({}, []),
    )  # fmt: skip
    async def webhook(request: Request) -> Response:
        """Takes note of nothing: models are trained by `opendetr train`, not while people label."""
        await gate.json(request, MOST_JSON)
        return Plain({})

    async def predictions(tasks: Sequence[dict[str, Any]], labelling: Labelling) -> list[dict[str, Any]]:
        """The results of all tasks; a picture that cannot be had is said on the console, and has none.

        Raises:
            Refusal: no task had a picture, or Label Studio does not answer.
            Late: the deadline, which counts for all of them, has passed.
        """
        at_once, refused = asyncio.Semaphore(AT_ONCE), list[Refusal]()
        until = time.monotonic() + settings.limits.deadline

        async def one(task: dict[str, Any]) -> dict[str, Any]:
            async with at_once:
                try:
                    picture = await fetch(store, address_of(task, labelling), until)
                    given = {"picture": picture.content, "name": picture.name, "threshold": None}
                    with refusals(), gate.hold(len(picture.content)):
                        found = await compute.call("detect", given, deadline=until - time.monotonic())
                except Refusal as refusal:
                    if refusal.status not in (413, 422):
                        raise
                    warn(f"Label Studio's task {str(task.get('id', ''))[:20]}: {one_line(refusal.sentence)}")
                    refused.append(refusal)
                    found = {"width": 1, "height": 1, "detections": []}
                return prediction(found, labelling, version_of(compute))

        running = [asyncio.ensure_future(one(task)) for task in tasks]
        try:
            async with asyncio.timeout(settings.limits.deadline):
                results = [await task for task in running]
        except TimeoutError:
            raise Late from None
        finally:
            for task in running:
                task.cancel()
        if refused and len(refused) == len(tasks):
            raise refused[0]
        return results


def names_of(compute: Compute) -> list[str]:
    """The names of the model's classes.

    Raises:
        Refusal: the model was never loaded.
    """
    if not compute.facts:
        raise Refusal(503, "the model is being loaded", retry_after="5")
    return [one["name"] for one in compute.facts["classes"] if one["category_id"] is not None]


def version_of(compute: Compute) -> str:
    """Another text for another model, by which Label Studio tells predictions apart."""
    return f"{compute.facts['name']} {compute.facts['identity'][:8]}"


def labelling_of(config: Any, names: Sequence[str]) -> Labelling:
    """What a labelling interface (XML) says of rectangles; labels are the model's classes by their names.

    A label's `predicted_values` lists the names of classes that it stands for. Classes that no label stands for are
    left out.

    Raises:
        Refusal: it has no RectangleLabels on an Image.
    """
    expected = "expected a labelling interface with RectangleLabels on an Image"
    if not isinstance(config, str) or "<!" in config.replace("<!--", ""):  # a comment is all that may be declared
        raise Refusal(422, expected)
    if len(config) > MOST_INTERFACE:
        raise Refusal(422, f"{expected}, of {MOST_INTERFACE // 1000} kB at most")
    try:
        tags = list(ElementTree.fromstring(config).iter())
    except (ElementTree.ParseError, RecursionError, ValueError):
        raise Refusal(422, f"{expected}; this is no XML") from None
    images = {tag.get("name"): tag.get("value", "") for tag in tags if tag.tag == "Image"}
    for tag in tags:
        if tag.tag == "RectangleLabels" and tag.get("toName") in images:
            to_name, from_name = tag.get("toName") or "", tag.get("name") or ""
            labels = [(label.get("value") or "", label.get("predicted_values")) for label in tag.iter("Label")]
            label_of = {name.strip(): label for label, others in labels for name in (others or label).split(",")}
            label_of |= {label: label for label, others in labels if others is None}
            known = {name: label_of[name] for name in names if name in label_of}
            return Labelling(from_name, to_name, images[to_name].strip().removeprefix("$"), known)
    raise Refusal(422, expected)


def address_of(task: dict[str, Any], labelling: Labelling) -> str:
    """Where a task's picture is.

    Raises:
        Refusal: the task does not say it.
    """
    data = task.get("data")
    address = data.get(labelling.key) if isinstance(data, dict) else None
    if not isinstance(address, str) or not address or len(address) > MOST_ADDRESS:
        raise Refusal(422, f"a task has no picture under '{labelling.key[:40]}'")
    return address


def prediction(found: dict[str, Any], labelling: Labelling, version: str) -> dict[str, Any]:
    """Detections as Label Studio reads them; those of classes that the project does not have are left out."""
    width, height = found["width"], found["height"]
    result = []
    for number, one in enumerate(found["detections"]):
        region = region_of(one["box_xyxy"], width, height)
        if one["name"] not in labelling.label_of or region is None:
            continue
        result.append(
            {
                "id": f"opendetr-{number}",
                "from_name": labelling.from_name,
                "to_name": labelling.to_name,
                "type": "rectanglelabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": one["score"],
                "value": {
                    **region._asdict(),
                    "rotation": 0,
                    "rectanglelabels": [labelling.label_of[one["name"]]],
                },
            }
        )
    scores = [region["score"] for region in result]
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0, "model_version": version}


def region_of(box_xyxy: Sequence[float], width: int, height: int) -> Region | None:
    """A box in per cent of its picture, cut off at the edges; None where nothing is left."""
    x1, y1, x2, y2 = (
        min(max(value / side, 0.0), 1.0) * 100 for value, side in zip(box_xyxy, (width, height, width, height))
    )
    return Region(x1, y1, x2 - x1, y2 - y1) if x1 < x2 and y1 < y2 else None


async def fetch(store: "PictureStore | None", address: str, until: float) -> Upload:
    """The picture at an address of a task.

    Raises:
        Refusal: the server was started without a Label Studio, the address is elsewhere, or there is no such picture;
            502 where Label Studio does not answer.
    """
    if store is None:
        raise Refusal(
            422, "tasks name pictures by address, and this server fetches none: start it with --label-studio URL and "
            "--label-studio-token-file FILE",
        )  # fmt: skip
    try:
        return await asyncio.get_running_loop().run_in_executor(store.pool, store.fetch, address, until)
    except UserError as error:
        raise Refusal(502 if isinstance(error, UnreachableError) else 422, str(error)) from None


class UnreachableError(UserError):
    """Label Studio is not there, or has a fault."""


def origin_of(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address; ValueError where it has none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("no address")
    return parts.scheme, parts.hostname.lower(), parts.port or {"http": 80, "https": 443}[parts.scheme]


class _SameOrigin(urllib.request.HTTPRedirectHandler):
    max_redirections = MOST_REDIRECTS

    def __init__(self, origin: tuple[str, str, int]) -> None:
        self.origin = origin

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if origin_of(newurl) != self.origin:
            raise ValueError("it leads to another server, from which nothing is fetched")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class PictureStore:
    """The pictures of one Label Studio."""

    def __init__(self, label_studio: LabelStudio, most_bytes: int) -> None:
        self.address, self.token, self.most_bytes = label_studio.origin, label_studio.token, most_bytes
        self.origin = origin_of(self.address)
        self.pool = ThreadPoolExecutor(AT_ONCE, "opendetr-fetching")  # of all requests together
        self.opener = urllib.request.build_opener(_SameOrigin(self.origin))
        self._access, self._access_until = "", 0.0
        self._lock = threading.Lock()

    def fetch(self, address: str, until: float = math.inf) -> Upload:
        """The picture at an address of this Label Studio, which may be a path there.

        Args:
            address: of the picture.
            until: when it must be here, on the clock of time.monotonic.

        Raises:
            UserError: the address is elsewhere or leads elsewhere; there is no such picture; or it is too large.
            UnreachableError: it does not answer, or has a fault.
        """
        try:
            whole = urljoin(self.address + "/", address)
            is_there = origin_of(whole) == self.origin
        except ValueError:
            is_there = False
        if not is_there:
            raise UserError(
                f"a task's picture is not at {self.address}, from which alone pictures are fetched (--label-studio)"
            )
        name = urlsplit(whole).path.rpartition("/")[2][:80] or "the picture"
        try:
            return Upload(name, self._read(urllib.request.Request(whole, headers=self._headers()), until))
        except urllib.error.HTTPError as error:
            kind = UnreachableError if error.code >= 500 else UserError
            raise kind(f"{name}: Label Studio answers {error.code}; check the token and the task") from None
        except ValueError as error:
            raise UserError(f"{name} cannot be fetched from Label Studio ({first_line(error)})") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or first_line(error)
            raise UnreachableError(
                f"{name} cannot be fetched: Label Studio at {self.address} does not answer ({reason}); start it, or "
                f"check --label-studio"
            ) from None

    def _headers(self) -> dict[str, str]:
        agent = {"User-Agent": f"opendetr/{__version__}"}
        if self.token.count(".") != 2:  # a legacy token
            return agent | {"Authorization": f"Token {self.token}"}
        with self._lock:  # a personal access token buys one that is valid for some minutes
            if time.monotonic() > self._access_until:
                body = json.dumps({"refresh": self.token}).encode()
                headers = agent | {"Content-Type": "application/json"}
                request = urllib.request.Request(f"{self.address}/api/token/refresh", body, headers)
                answer = json.loads(self._read(request, math.inf))
                if not isinstance(answer, dict) or not isinstance(answer.get("access"), str):
                    raise ValueError("it does not take the token")
                self._access, self._access_until = answer["access"], time.monotonic() + ALL_SECONDS
            return agent | {"Authorization": f"Bearer {self._access}"}

    def _read(self, request: urllib.request.Request, until: float) -> bytes:
        until, content = min(until, time.monotonic() + ALL_SECONDS), bytearray()
        with self.opener.open(request, timeout=ANSWER_SECONDS) as answer:
            while piece := answer.read(CHUNK):
                content += piece
                if len(content) > self.most_bytes:
                    raise ValueError(f"it has more than {self.most_bytes / 2**20:g} MB")
                if time.monotonic() > until:
                    raise ValueError("it is not here in time")
        return bytes(content)
