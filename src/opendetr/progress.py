"""What commands print: sentences, warnings, bars of long work; in a terminal, a notebook or a file."""

import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from opendetr.errors import first_line
from opendetr.wording import visible

T = TypeVar("T")

LEAST_BAR, MOST_BAR = 8, 30  # columns
SPOKEN_EVERY = 60.0  # seconds between two lines on long work, where no bar is shown
IS_FIRST = os.environ.get("RANK", "0") == "0"  # of several processes


class Output(Console):
    """A console: in a terminal sentences are wrapped between words, in a file each is one line.

    Text that is to be copied, such as a command, is printed with `soft_wrap=True`: it gets no line breaks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, quiet=not IS_FIRST, **options)

    def print(self, *objects: Any, soft_wrap: bool | None = None, **options: Any) -> None:
        """Print as rich does; tables always fit the width."""
        if soft_wrap is None:
            soft_wrap = not self.is_terminal and all(isinstance(one, str) for one in objects)
        super().print(*objects, soft_wrap=soft_wrap, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, for a text that is measured before it is shown, such as a table's cell."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich's; whatever is shown, bars and tables too, passes here, and names in it do not steer the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


console = Output()
_errors = Output(stderr=True)
_live: Progress | None = None  # the bars on the screen
_above: Output | None = None  # prints above the bar of `waiting`, where nothing else is printed


def warn(sentence: str, command: Iterable[object] = ()) -> None:
    """Print a warning, and a command that helps; where nothing else is printed (`--quiet`), on standard error."""
    shown = _above or (_errors if console.quiet else console)
    text = sentence.encode("utf-8", "replace").decode()  # names of files may be no text
    shown.print(f"Warning: {text}", style="yellow")
    if command:
        _print_command(shown, command)


def print_command(*words: object) -> None:
    """Print a command on a line of its own, without line breaks and quoted for a shell, so that it can be copied."""
    _print_command(console, words)


def _print_command(shown: Output, words: Iterable[object]) -> None:
    shown.print(f"  {shlex.join(map(str, words))}", soft_wrap=True)


@contextmanager
def warning_instead(what: str) -> Iterator[None]:
    """Turn any error into a warning that begins with `what`: for work beside a training, which must not end by it."""
    try:
        yield
    except Exception as error:
        warn(f"{what} ({first_line(error)}).")


@contextmanager
def silence() -> Iterator[None]:
    """Print warnings and errors only."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


class _Figures(ProgressColumn):
    """The texts in a task's field `figures`, the most important first: as many as there is room for."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))  # so that the bar shrinks instead

    def render(self, task: Task) -> Text:
        """Two spaces before each."""
        room = console.width - len(task.description) - len(f" {task.completed}/{task.total} ") - LEAST_BAR
        shown = ""
        for figure in filter(None, task.fields["figures"]):
            if len(shown) + 2 + len(figure) > room:
                break
            shown += f"  {figure}"
        return Text(shown.removeprefix(" "), no_wrap=True)


def _shows_bars() -> bool:
    """Whether bars are shown: in terminals and in notebooks, with ipywidgets, by which rich draws there."""
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    return not console.quiet and (console.is_terminal or in_notebook)


def progress_bar() -> Progress:
    """A bar, where bars are shown.

    Every task needs the field `figures`, a sequence of texts.
    """
    bar = BarColumn(bar_width=None, table_column=Column(max_width=MOST_BAR))
    return Progress(
        TextColumn("{task.description}", markup=False), bar, MofNCompleteColumn(), _Figures(),
        console=console, transient=True, disable=not _shows_bars(),
    )  # fmt: skip


@contextmanager
def live_bar() -> Iterator[Progress]:
    """A bar on the screen; within the bar of other work, which it joins, tasks must be removed at the end."""
    global _live
    if _live is not None:
        yield _live
        return
    _live = progress_bar()
    try:
        if not _live.disable:  # a disabled bar would print an empty line at its end
            _live.start()
        yield _live
    finally:
        ended, _live = _live, None
        if not ended.disable:
            ended.stop()


def show_progress(items: Iterable[T], description: str, total: int, unit: str = "pictures") -> Iterator[T]:
    """Yield the items while a bar counts them, with items per second and the time left; in a file a line per minute."""
    with live_bar() as bar:
        task = bar.add_task(visible(description), total=total, figures=())
        begun = spoken = time.monotonic()
        try:
            for done, item in enumerate(items, start=1):
                yield item
                now = time.monotonic()
                figures = _pace(done, total, now - begun, unit)
                bar.update(task, completed=done, figures=figures)
                if bar.disable and now - spoken > SPOKEN_EVERY:
                    spoken = now
                    console.print(", ".join((f"{description}: {done} of {total} {unit}", *figures)))
        finally:
            bar.remove_task(task)


def _pace(done: int, total: int, seconds: float, unit: str) -> tuple[str, str]:
    """The time left and the items per second, in words."""
    speed = done / max(seconds, 1e-9)
    left = f"{timedelta(seconds=round((total - done) / speed))} left" if total >= done else ""
    return left, f"{speed:.1f} {unit}/s" if seconds > 0.1 else ""


@contextmanager
def stages(what: str, number: int) -> Iterator[Callable[[str], None]]:
    """Yield a function that begins the next of so many stages of long work and names it, in a bar or on a line."""
    with live_bar() as bar:
        task, begun = bar.add_task(what, total=number, figures=()), 0

        def begin(stage: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, figures=(stage,))
            begun += 1
            if bar.disable:
                console.print(f"{what}: {stage}")

        try:
            yield begin
        finally:
            bar.remove_task(task)


class _Elapsed(ProgressColumn):
    """A bar that fills while time passes; the task's total are seconds."""

    def render(self, task: Task) -> ProgressBar:
        """The share of the seconds that have passed."""
        total = task.total or 1.0
        return ProgressBar(total=total, completed=min(task.elapsed or 0.0, total), width=MOST_BAR)


@contextmanager
def waiting(description: str, seconds: float) -> Iterator[None]:
    """Show one bar that fills in so many seconds, instead of what the work prints; in a file one line.

    Warnings are printed, above the bar.
    """
    global _above
    shown = _shows_bars()
    if not shown:
        console.print(f"{description}: about {seconds:.0f} seconds")
    columns = TextColumn("{task.description}", markup=False), _Elapsed(), TextColumn("about {task.total:.0f} seconds")
    others = Output()  # `console` is silent meanwhile
    bar = Progress(*columns, console=others, transient=True, disable=not shown)
    with silence():
        bar.add_task(description, total=seconds)
        if shown:
            bar.start()
            _above = others
        try:
            yield
        finally:
            if shown:
                _above = None
                bar.stop()
