"""`opendetr serve` as users start it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = (sys.executable, "-m", "opendetr", "serve")


@contextmanager
def started(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process and its address; it is ended."""
    process = subprocess.Popen(
        [*PROGRAM, str(model), "--port", "0", "--threads", "1", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        lines = iter(process.stdout.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        yield process, address
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
