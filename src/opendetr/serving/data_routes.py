"""The routes of a data set, its gallery and its label review, and of a run. Pictures are asked for by numbers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

from opendetr.data.label_log import Conflict
from opendetr.errors import UserError
from opendetr.serving.asking import refusals, while_connected
from opendetr.serving.packages import FastAPI, PathParameter, Query, Request, Response
from opendetr.serving.process import Compute
from opendetr.serving.refusal import Plain, Refusal
from opendetr.serving.review import LabelReview
from opendetr.serving.run_files import described_run, log_lines, run_of
from opendetr.serving.schemas import COMPUTING, errors, form
from opendetr.serving.settings import ServeSettings
from opendetr.serving.survey import SORTS, SplitSurvey
from opendetr.serving.uploads import COME_AGAIN

MOST_LISTED = 500  # pictures or entries of an answer
MOST_BYTES = 16384  # of a decision

SplitName = Annotated[str, PathParameter(max_length=200)]
Number = Annotated[int, PathParameter(ge=0, le=10**9, description="of the picture in its split, from 0")]
Offset = Annotated[int, Query(ge=0, le=10**9)]
Limit = Annotated[int, Query(ge=1, le=MOST_LISTED)]
CheckpointName = Annotated[
    str | None, Query(max_length=40, description="a kept model of the run; by default the model")
]


_SEEN = {"type": "integer", "minimum": 0, "description": "`version` of the review that was seen", "example": 3}
_VERSION = {"type": "object", "required": ["version"], "properties": {"version": _SEEN}}
_ID = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_DECISION = {
    "type": "object", "required": ["version", "decision"],
    "properties": {
        "version": _SEEN,
        "decision": {
            "type": "object", "required": ["edit", "image_id"],
            "properties": {
                "edit": {"enum": ["add", "move", "class", "delete", "keep"]}, "image_id": _ID, "annotation": _ID,
                "category_id": _ID, "accepted": {"type": "boolean"},
                "bbox": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
            },
            "example": {"edit": "class", "image_id": 12, "annotation": 40, "category_id": 2},
        },
    },
}  # fmt: skip


_PROGRESS = {
    "state": "running", "done": 120, "pictures": 364, "objects": 1810, "detections": 1795,
    "missed": {"no query near it": 31}, "false_alarms": {"background": 24, "another class": 3},
    "confusions": [{"true": 0, "found": 1, "count": 3}], "problems": [],
}  # fmt: skip
_SURVEYED = {
    "objects": 14, "detections": 14, "missed": {"no query near it": 1}, "false_alarms": {"background": 1},
    "confusions": [], "error": 0.0714,
}  # fmt: skip
_SIZE = {"image_id": 12, "width": 640, "height": 480}
_PICTURES = {
    "total": 364,
    "pictures": [{"number": 0, "name": "BloodImage_00003.jpg", **_SIZE, "objects": 14, "survey": _SURVEYED}],
}
_PICTURE = {
    "number": 0, "name": "BloodImage_00003.jpg", **_SIZE,
    "truth": [{"label": 0, "name": "RBC", "category_id": 1, "box_xyxy": [12, 30, 118, 132], "used": True}],
}  # fmt: skip
_DETECTED = {
    "width": 640, "height": 480,
    "detections": [
        {"query": 17, "label": 0, "name": "RBC", "category_id": 1, "score": 0.93, "box_xyxy": [12.5, 30.1, 118, 131.9]}
    ],
}  # fmt: skip
_DECIDED = {
    "number": 3, "at": "2026-11-29T13:35:51+0000", "live": True, "edit": "class", "image_id": 12, "annotation": 40,
    "category_id": 2, "accepted": True,
}  # fmt: skip
_REVIEW = {
    "version": 4, "file": "train.corrected.json", "beside": True, "problem": None,
    "classes": [{"category_id": 1, "name": "RBC"}, {"category_id": 2, "name": "WBC"}], "survey": _PROGRESS,
    "total": 41, "left_out": 0, "decided": 4, "edits": 3, "live": 4,
    "queue": [{
        "key": "0-40", "picture": 0, "name": "BloodImage_00003.jpg", **_SIZE, "fault": "wrong class", "edit": "class",
        "suspicion": 0.81, "annotation": 40, "iou": 0.9, "score": 0.88, "given_score": 0.07, "category_id": 2,
        "class": "WBC", "given": "RBC", "bbox": [12.5, 30.1, 105.5, 101.8], "decisions": [3],
    }],
}  # fmt: skip
_LABELS = {
    "number": 0, "name": "BloodImage_00003.jpg", **_SIZE,
    "objects": [{"annotation": 40, "category_id": 2, "name": "WBC", "box_xyxy": [12, 30, 118, 132]}],
}  # fmt: skip
_DATA = {"name": "bccd", "own": False, "splits": [{"name": "train", "pictures": 205}, {"name": "val", "pictures": 87}]}


def _example(answer: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """How a route answers when all is well."""
    return {200: {"content": {"application/json": {"example": answer}}}}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_DECIDING, _UNDOING = _body(_DECISION), _body(_VERSION)


class DataRoom:
    """What the web process knows of the data set: a survey and a review of each split that was asked for."""

    def __init__(self, settings: ServeSettings, compute: Compute) -> None:
        self.settings, self.compute = settings, compute
        self._surveys: dict[str, SplitSurvey] = {}
        self._reviews: dict[str, LabelReview] = {}
        self._opening = asyncio.Lock()
        self._writing: dict[str, asyncio.Task[None]] = {}

    async def ask(self, work: str, **arguments: Any) -> Any:
        """What a function of `data_work` returns, as an answer to a client that waits."""
        with refusals():
            return await self.compute.call(work, arguments, deadline=self.settings.limits.deadline)

    async def survey(self, split: str) -> SplitSurvey:
        """The survey of a split, begun or not.

        Raises:
            Refusal: there is no such split.
        """
        self.require_split(split)
        async with self._opening:
            if split not in self._surveys:
                pictures = await self.ask("split_pictures", split=split)
                self._surveys[split] = SplitSurvey(self.compute, split, pictures)
        return self._surveys[split]

    async def review(self, split: str) -> LabelReview:
        """The review of a split.

        Raises:
            Refusal: there is no such split, or its labels cannot be reviewed, in a sentence.
        """
        survey = await self.survey(split)
        async with self._opening:
            if split not in self._reviews:
                labels = await self.ask("split_labels", split=split)
                try:
                    self._reviews[split] = await asyncio.to_thread(LabelReview, survey, labels, self.settings.review)
                except UserError as error:
                    raise Refusal(409, str(error)) from None
                except OSError as error:
                    reason = error.strerror or type(error).__name__
                    raise Refusal(409, f"the decisions about split '{split}' cannot be read ({reason})") from None
        return self._reviews[split]

    def require_split(self, split: str) -> None:
        """Check that there is a data set with that split; Refusal otherwise."""
        data = self.compute.facts.get("data")
        if data is None:
            raise Refusal(404, "no data set is open: start the server with --data DIR")
        if split not in [one["name"] for one in data["splits"]]:
            raise Refusal(404, f"the data set has no split '{split[:80]}'")

    def write_soon(self, split: str) -> None:
        """Write the corrected file of a split; while it is written, later decisions wait for one more writing."""
        if split in self._writing and not self._writing[split].done():
            return
        self._writing[split] = asyncio.create_task(self._write(self._reviews[split]))

    async def _write(self, review: LabelReview) -> None:
        """Write until the file holds all decisions; what hinders it is said in the review's state."""
        try:
            while await asyncio.to_thread(review.log.write_corrected) != review.log.version:
                pass
            review.problem = None
        except (OSError, UserError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            review.problem = f"{review.log.corrected.name} cannot be written ({reason}); the decisions are kept"

    async def close(self) -> None:
        """End the surveys, and write what is not written yet, also what a program that was killed could not."""
        for survey in self._surveys.values():
            await survey.stop()
        await asyncio.gather(*self._writing.values(), return_exceptions=True)
        for review in self._reviews.values():
            with suppress(OSError):
                if await asyncio.to_thread(review.log.is_behind):
                    await self._write(review)


def add_data(app: FastAPI) -> None:
    """Add the routes to an application whose state has `settings`, `compute` and `gate`."""
    room = app.state.data = DataRoom(app.state.settings, app.state.compute)
    _add_pictures(app, room)
    _add_review(app, room)
    _add_run(app, room)


def _add_pictures(app: FastAPI, room: DataRoom) -> None:
    wrong = errors(401, 404, 422, 429, 500, 503, 504)
    same_or_wrong = wrong | {304: {"description": "it is what If-None-Match names"}}

    @app.get("/v1/data", responses=errors(401, 404) | _example(_DATA))
    async def data() -> Response:
        """The data set: its name, and its splits with their numbers of pictures."""
        found = room.compute.facts.get("data")
        if found is None:
            raise Refusal(404, "no data set is open: start the server with --data DIR")
        return Plain(found)

    @app.get("/v1/data/{split}/pictures", responses=wrong | _example(_PICTURES))
    async def pictures(
        split: SplitName, offset: Offset = 0, limit: Limit = 60,
        sort: Annotated[str, Query(json_schema_extra={"enum": list(SORTS)})] = "name",
        true: Annotated[int | None, Query(ge=0, le=10**6, description="a label, for the sort by confusion")] = None,
        found: Annotated[int | None, Query(ge=0, le=10**6, description="the label that it is taken for")] = None,
    ) -> Response:  # fmt: skip
        """Pictures of a split, sorted by name or by what the survey says of them."""
        if sort not in SORTS:
            raise Refusal(422, f"sort: expected one of {', '.join(SORTS)}")
        survey = await room.survey(split)
        confusion = None if true is None or found is None else (true, found)
        chosen = await asyncio.to_thread(survey.sorted, sort, confusion)
        listed = [survey.listed(number) for number in chosen[offset : offset + limit]]
        return Plain({"total": len(chosen), "pictures": listed})

    @app.get("/v1/data/{split}/pictures/{number}", responses=wrong | _example(_PICTURE))
    async def picture(request: Request, split: SplitName, number: Number) -> Response:
        """A picture's name, size and true objects."""
        room.require_split(split)
        return Plain(await while_connected(request, room.ask("data_picture", split=split, number=number)))

    async def pixels(request: Request, split: str, number: int, *, small: bool) -> Response:
        """The browser keeps a picture, and asks each time whether it is still the same."""
        known = request.headers.get("if-none-match")
        asked = room.ask("data_image", split=split, number=number, known=known, small=small)
        tag, kind, content = await while_connected(request, asked)
        headers = {"cache-control": "private, no-cache", "etag": tag}
        return Response(content, media_type=kind, headers=headers) if content else Response(None, 304, headers)

    @app.get("/v1/data/{split}/pictures/{number}/image", responses=same_or_wrong, response_class=Response)
    async def image(request: Request, split: SplitName, number: Number) -> Response:
        """The pixels of a picture, encoded anew as PNG or JPEG."""
        room.require_split(split)
        return await pixels(request, split, number, small=False)

    @app.get("/v1/data/{split}/pictures/{number}/thumbnail", responses=same_or_wrong, response_class=Response)
    async def thumbnail(request: Request, split: SplitName, number: Number) -> Response:
        """The same, at most 256 pixels wide and high, as JPEG."""
        room.require_split(split)
        return await pixels(request, split, number, small=True)

    @app.get("/v1/data/{split}/pictures/{number}/detections", responses=wrong | _example(_DETECTED))
    async def detections(
        request: Request, split: SplitName, number: Number, checkpoint: CheckpointName = None
    ) -> Response:
        """What the model, or a checkpoint of its run, finds in a picture, from score 0.05 on."""
        room.require_split(split)
        asked = room.ask("data_detections", split=split, number=number, checkpoint=checkpoint)
        return Plain(await while_connected(request, asked))

    @app.post("/v1/data/{split}/survey", responses=wrong | _example(_PROGRESS))
    async def begin_survey(split: SplitName) -> Response:
        """Begin to pass every picture of a split through the model, while it has nothing else to do."""
        survey = await room.survey(split)
        survey.start()
        return Plain(await asyncio.to_thread(survey.progress))

    @app.get("/v1/data/{split}/survey", responses=wrong | _example(_PROGRESS))
    async def survey(split: SplitName) -> Response:
        """How far that is; objects missed and false alarms by kind, and confusions of classes."""
        return Plain(await asyncio.to_thread((await room.survey(split)).progress))


def _add_review(app: FastAPI, room: DataRoom) -> None:
    wrong = errors(400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 504)

    @app.get("/v1/review/{split}", responses=wrong | _example(_REVIEW))
    async def review(split: SplitName, offset: Offset = 0, limit: Limit = 200) -> Response:
        """Labels that may be wrong, the likeliest first, with what is proposed and what is decided."""
        found = await room.review(split)
        with _failures():
            return Plain(await asyncio.to_thread(found.state, offset, limit))

    @app.get("/v1/review/{split}/pictures/{number}", responses=wrong | _example(_LABELS))
    async def labels(split: SplitName, number: Number) -> Response:
        """The labels of a picture, with the decisions made."""
        found = await room.review(split)
        if number >= len(found.survey.names):
            raise Refusal(404, f"split '{split}' has the pictures 0 to {len(found.survey.names) - 1}")
        with _failures():
            return Plain(await asyncio.to_thread(found.picture, number))

    @app.post(
        "/v1/review/{split}/decisions", openapi_extra=_DECIDING,
        responses=wrong | _example({"version": 4, "decision": _DECIDED}),
    )  # fmt: skip
    async def decide(request: Request, split: SplitName) -> Response:
        """Decide about a label; when this answers, the decision is on the disk."""
        body = await app.state.gate.json(request, MOST_BYTES)
        found = await room.review(split)
        with _failures():
            made = await asyncio.to_thread(found.log.decide, _object_in(body, "decision"), _version_in(body))
        room.write_soon(split)
        return Plain({"version": found.log.version, "decision": made.to_json()})

    @app.post(
        "/v1/review/{split}/undo", openapi_extra=_UNDOING,
        responses=wrong | _example({"version": 5, "undone": _DECIDED}),
    )  # fmt: skip
    async def undo(request: Request, split: SplitName) -> Response:
        """Undo the latest decision that counts."""
        body = await app.state.gate.json(request, MOST_BYTES)
        found = await room.review(split)
        with _failures():
            undone = await asyncio.to_thread(found.log.undo, _version_in(body))
        room.write_soon(split)
        return Plain({"version": found.log.version, "undone": undone and undone.to_json()})


def _add_run(app: FastAPI, room: DataRoom) -> None:
    run = run_of(room.settings.model.model)

    @app.get("/v1/run", responses=errors(401, 404))
    async def described() -> Response:
        """The run that the model is of: its name, its kept models, and whether there is a model that is served yet."""
        found = await asyncio.to_thread(described_run, run)
        if found is None:
            raise Refusal(404, "the model is not that of a run folder")
        return Plain(found | {"ready": bool(room.compute.facts)})

    @app.get("/v1/run/log", responses=errors(401, 404, 422))
    async def log(after: Offset = 0) -> Response:
        """The lines of the run's log after the first `after`: its curves, also while it is trained."""
        if await asyncio.to_thread(described_run, run) is None:
            raise Refusal(404, "the model is not that of a run folder")
        return Plain(await asyncio.to_thread(log_lines, run, after))

    @app.post("/v1/run/detect", responses=COMPUTING | errors(404), openapi_extra=form(most="one"))
    async def detect(request: Request, checkpoint: CheckpointName = None) -> Response:
        """What the model, or a checkpoint of its run, finds in a picture, from score 0.05 on."""
        async with app.state.gate.form(request, most=1) as sent:
            (one,) = sent.pictures
            asked = room.ask("checkpoint_detections", picture=one.content, name=one.name, checkpoint=checkpoint)
            found = await while_connected(request, asked)
        return Plain(found)


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what a log raises into answers.

    Raises:
        Refusal: instead.
    """
    try:
        yield
    except Conflict as error:
        raise Refusal(409, str(error)) from None
    except UserError as error:
        raise Refusal(422, str(error)) from None
    except TimeoutError:  # of the lock
        raise Refusal(503, "another program writes the decisions; send again", retry_after=COME_AGAIN) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Refusal(500, f"the decisions cannot be read or written ({reason})") from None


def _object_in(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    if not isinstance(found, dict):
        raise Refusal(422, f"{name}: expected a JSON object")
    return found


def _version_in(values: dict[str, Any]) -> int:
    found = values.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 10**9:
        raise Refusal(422, "version: expected the number of lines of the log that the page has seen")
    return found
