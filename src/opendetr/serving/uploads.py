"""Pictures and fields of a request (multipart/form-data), read with limits that hold while they arrive."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opendetr.serving.packages import ClientDisconnect, MultiPartException, MultiPartParser, Request, UploadFile
from opendetr.serving.refusal import Refusal
from opendetr.serving.settings import Limits

MOST_FIELDS, MOST_FIELD_BYTES = 16, 2**20
MOST_NAME = 80  # letters of a file's name in a message
COME_AGAIN = "1"  # Retry-After, in seconds


class Upload(NamedTuple):
    """A picture as it was sent."""

    name: str  # for messages only
    content: bytes


@dataclass
class Form:
    """What a request holds."""

    pictures: list[Upload] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


class Gate:
    """Lets bodies in while there is room for their bytes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0  # bytes of all requests that are being read or answered

    @asynccontextmanager
    async def body(self, request: Request, most: int | None = None) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The body of a request in pieces, which counts as held until the context ends.

        Args:
            request: its body was not read yet.
            most: bytes, where that is less than the server's limit.

        Raises:
            Refusal: 413 for too many bytes, 429 where all requests together are too large, 408 where it takes too long.
        """
        taken, most = 0, min(most or self.limits.body_bytes, self.limits.body_bytes)

        async def pieces() -> AsyncGenerator[bytes, None]:
            nonlocal taken
            size = 0
            async for piece in request.stream():
                size += len(piece)
                if size > 2 * most:
                    break  # what is a little too large is read and thrown away, so that its client reads the answer
                if size <= most:
                    self._require_room(len(piece))
                    self.held, taken = self.held + len(piece), taken + len(piece)
                    yield piece
            if size > most:
                raise too_large(most)

        try:
            declared = request.headers.get("content-length", "")
            if declared.isdigit() and int(declared) > 2 * most:
                raise too_large(most)
            async with asyncio.timeout(self.limits.reading):
                yield pieces()
        except TimeoutError:
            raise Refusal(408, f"the request did not arrive within {self.limits.reading:g} seconds") from None
        except ClientDisconnect:
            raise Refusal(400, "the request ended before its body was complete") from None
        finally:
            self.held -= taken

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count bytes that are here for another reason until the context ends.

        Raises:
            Refusal: 429, all requests together are too large.
        """
        self._require_room(size)
        self.held += size
        try:
            yield
        finally:
            self.held -= size

    def _require_room(self, size: int) -> None:
        if self.held + size > self.limits.bytes_at_once:
            raise Refusal(
                429, "the server holds as many pictures as it can; send again later", retry_after=COME_AGAIN
            )  # fmt: skip

    async def json(self, request: Request, most: int | None = None) -> dict[str, Any]:
        """The JSON object in the body of a request, of at most so many bytes where that is less than the limit.

        Raises:
            Refusal: as of `body`; or it is none.
        """
        content = bytearray()
        async with self.body(request, most) as pieces:
            async for piece in pieces:
                content += piece
        try:
            found = await asyncio.to_thread(json.loads, content)  # beside the requests of others
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is no JSON") from None
        if not isinstance(found, dict):
            raise Refusal(422, "the body: expected a JSON object")
        return found

    @asynccontextmanager
    async def form(
        self, request: Request, fields: tuple[str, ...] = (), most: int | None = None
    ) -> AsyncIterator[Form]:
        """The pictures (field `images`) and other fields of a request.

        Args:
            request: its body was not read yet.
            fields: names of the other fields that it may have.
            most: pictures, where that is less than the server's limit.

        Raises:
            Refusal: as of `body`; 415 for another kind of body, 400 for a broken one, 422 for a field that is not known
                or is missing, 413 for too many pictures.
        """
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refusal(415, "expected multipart/form-data with the field 'images'")
        most = min(most or self.limits.pictures, self.limits.pictures)
        held = 0
        try:
            async with self.body(request) as pieces:
                form = await _parsed(request, pieces, fields, most)
                held = sum(len(picture.content) for picture in form.pictures)
            self.held += held
            yield form
        finally:
            self.held -= held


def too_large(most: int) -> Refusal:
    """413, for more bytes than that."""
    return Refusal(413, f"the request is too large; this server takes {most / 2**20:g} MB at most")


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # nothing is written to disk: the limits are those of the body


async def _parsed(request: Request, pieces: AsyncGenerator[bytes, None], fields: tuple[str, ...], most: int) -> Form:
    parser = _InMemory(
        request.headers,
        pieces,
        max_files=most + 1,
        max_fields=MOST_FIELDS,
        max_part_size=MOST_FIELD_BYTES,
    )
    too_many = Refusal(413, f"too many pictures; expected {most} at most in a request")
    try:
        data = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many from None
        raise Refusal(400, f"the body is no multipart/form-data ({error.message.rstrip('.')})") from None
    except (KeyError, ValueError, UnicodeError) as error:  # of headers that name no boundary, or a strange charset
        raise Refusal(400, f"the body is no multipart/form-data ({type(error).__name__})") from None
    form = Form()
    for name, value in data.multi_items():
        if isinstance(value, UploadFile) and name == "images":
            called = (value.filename or f"picture {len(form.pictures) + 1}")[:MOST_NAME]
            form.pictures.append(Upload(called, await value.read()))
            await value.close()
        elif name == "images":
            raise Refusal(422, "the field 'images' must be a file: send the picture itself, with a file name")
        elif isinstance(value, str) and name in fields:
            form.fields[name] = value
        else:
            known = ", ".join(("images", *fields))
            raise Refusal(422, f"the field '{name[:MOST_NAME]}' is not known here; expected {known}")
    if len(form.pictures) > most:
        raise too_many
    if not form.pictures:
        raise Refusal(422, "no picture was sent; expected a file in the field 'images'")
    return form
