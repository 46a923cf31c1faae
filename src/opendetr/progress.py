"""The console and the progress bar of long work, with throughput and time left."""

import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")

# Only the first of several processes prints.
console = Console(soft_wrap=True, highlight=False, markup=False, quiet=os.environ.get("RANK", "0") != "0")


def progress_bar(*extra: TextColumn) -> Progress:
    """A bar that is shown in terminals and in notebooks, there if ipywidgets is installed, with which rich draws it."""
    shown = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), *extra,
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        console=console, transient=True, disable=not shown,
    )  # fmt: skip


def show_progress(items: Iterable[T], description: str, total: int, unit: str = "pictures") -> Iterator[T]:
    """Yield the items while a bar counts them, with items per second and the time left."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, rate="")
        for item in items:
            yield item
            bar.advance(task)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")
