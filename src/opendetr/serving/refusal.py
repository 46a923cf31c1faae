"""What a route refuses: a status of HTTP and one sentence."""

import json
from typing import Any

from opendetr.serving.packages import JSONResponse
from opendetr.wording import one_line


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(self) -> JSONResponse:
        """The sentence as JSON."""
        return Plain({"error": one_line(self.sentence)}, self.status, self.headers)


class Plain(JSONResponse):
    """JSON in ASCII: names of classes may hold what is no text, and every parser reads escapes alike."""

    def render(self, content: Any) -> bytes:
        """The content as bytes."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
