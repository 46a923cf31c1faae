"""A request's work: computed while its client is there, and what went wrong as an answer."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from opendetr.serving.packages import Request
from opendetr.serving.process import ComputeGone, Late, QueueFull, WorkFailed, WrongInputError
from opendetr.serving.refusal import Refusal
from opendetr.serving.uploads import COME_AGAIN

T = TypeVar("T")
STARTING = "5"  # Retry-After, in seconds, while the model is loaded


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what `Compute.call` raises into answers.

    Raises:
        Refusal: instead.
    """
    try:
        yield
    except QueueFull:
        raise Refusal(429, "too many requests wait for the model; send again later", retry_after=COME_AGAIN) from None
    except Late:
        raise Refusal(504, "the answer was not ready in time; send again when the server has less to do") from None
    except ComputeGone:
        raise Refusal(
            503, "the model is being loaded or started again; send again in some seconds", retry_after=STARTING
        ) from None
    except WorkFailed as error:
        raise Refusal(500, f"the server has a fault ({error}); its console says more") from None
    except WrongInputError as error:
        raise Refusal(413 if error.kind == "TooLargeError" else 422, str(error).removeprefix("--")) from None


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled where the client goes away; the body must have been read.

    Raises:
        Refusal: the client is gone; nobody reads it.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(499, "the client has gone")
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
