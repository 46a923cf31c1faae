"""Reading ahead: while the engine computes, threads decode and resize the pictures that come next."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS, AHEAD = 2, 8  # decoding and resizing release the GIL; most results that wait


def read_ahead(work: Callable[[Item], Result], items: Iterable[Item], ahead: int = AHEAD) -> Iterator[Result]:
    """`work` of every item, in their order, done by threads ahead of the caller; exceptions are raised in their turn.

    At most `ahead` results wait; 0 is for live items, whose results must not wait for later ones.
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
