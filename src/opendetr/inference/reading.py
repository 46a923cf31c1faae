"""Reading ahead: while the engine computes, threads decode and resize the pictures that come next."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS, AHEAD = 2, 8  # decoding and resizing let go of Python's lock; so many results wait at most


def read_ahead(work: Callable[[Item], Result], items: Iterable[Item], ahead: int = AHEAD) -> Iterator[Result]:
    """`work` of every item, in their order, done by threads before it is asked for.

    An exception is raised where its result would have come.

    Args:
        work: done by threads.
        items: taken when there is room.
        ahead: so many results wait at most; 0 for items that come live, whose answers must not wait for later ones.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS, "opendetr-reading") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
