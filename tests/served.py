"""A stand-in for the process that computes, and a small picture, for tests of the server."""

import asyncio
import io
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from PIL import Image

from opendetr.serving.answers import ExplainedPictures, Matching, ModelFacts
from opendetr.serving.app import create_app
from opendetr.serving.process import Compute
from opendetr.serving.settings import LabelStudio, Limits, ModelSettings, ServeSettings

FACTS = ModelFacts.model_config["json_schema_extra"]["example"] | {
    "classes": [{"label": 0, "name": "RBC", "category_id": 1}, {"label": 1, "name": "N/A", "category_id": None}],
}
FOUND = {
    "width": 40, "height": 20,
    "detections": [
        {"name": "RBC", "category_id": 1, "score": 0.9, "box_xyxy": [4.0, 2.0, 20.0, 12.0], "label": 0, "query": 3}
    ],
}  # fmt: skip

ANSWERS: dict[str, Any] = {
    "detect": FOUND, "look": b"", "match": Matching.model_config["json_schema_extra"]["example"],
    "explain": ExplainedPictures.model_config["json_schema_extra"]["example"]["pictures"][0],
}  # fmt: skip


class Standing(Compute):
    """Answers at once, by a function of the name and the arguments of a work."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any] | None = None) -> None:
        super().__init__(ModelSettings("cells"))
        self.answer = answer or (lambda name, _: ANSWERS.get(name, FOUND))
        self.asked = list[tuple[str, dict[str, Any]]]()
        self.facts, self._is_ready = FACTS, True

    async def call_all(self, name: str, arguments: Sequence[dict[str, Any]], **options: Any) -> list[Any]:
        self.asked += [(name, given) for given in arguments]
        await asyncio.sleep(0)
        return [self.answer(name, given) for given in arguments]


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


def settings(
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    key: str | None = None,
    labels: LabelStudio | None = None,
    public: str | None = None,
) -> ServeSettings:
    return ServeSettings(ModelSettings("cells"), host, 8000, limits or Limits(), key, labels, public)


def ask(
    method: str,
    path: str,
    *,
    compute: Compute | None = None,
    asked_of: ServeSettings | None = None,
    base: str = "http://127.0.0.1:8000",
    **options: Any,
) -> httpx.Response:
    """The answer of an application to one request."""

    async def once() -> httpx.Response:
        app = create_app(asked_of or settings(), compute or Standing())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def images(*contents: bytes, name: str = "a.png") -> dict[str, Any]:
    return {"files": [("images", (name, content, "image/png")) for content in contents]}
