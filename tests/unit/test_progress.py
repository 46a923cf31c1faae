"""Where bars are shown, what fits into a line, and what stays quiet."""

import importlib.machinery
import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from opendetr import progress
from opendetr.progress import Output, live_bar, show_progress, silence, stages, waiting, warn


@pytest.mark.parametrize(
    ("kind", "widgets", "shown"),
    [({"force_terminal": True}, False, True), ({"force_terminal": False, "force_jupyter": False}, True, False),
     ({"force_jupyter": True}, True, True), ({"force_jupyter": True}, False, False)],
)  # fmt: skip
def test_bars_are_for_terminals_and_for_notebooks_with_widgets(kind, widgets, shown, monkeypatch):
    monkeypatch.setattr(progress, "console", Console(file=io.StringIO(), **kind))
    spec = importlib.machinery.ModuleSpec("ipywidgets", None) if widgets else None
    monkeypatch.setattr(progress, "find_spec", {"ipywidgets": spec}.get)
    assert progress.progress_bar().disable is not shown
    assert "IPython" not in sys.modules


@pytest.fixture
def screen(monkeypatch):
    """Replaces the console by a terminal of a width, or by a file; gives what is written there."""

    def make(width: int = 80, *, terminal: bool = True) -> io.StringIO:
        written = io.StringIO()
        monkeypatch.setattr(progress, "console", Output(file=written, force_terminal=terminal, width=width))
        return written

    return make


def lines(written: io.StringIO) -> list[str]:
    """What was written, line by line, without control sequences."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_items_come_through_and_are_counted(screen):
    written = screen()
    assert list(show_progress(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert "reading" in lines(written)[0]


FIGURES = ("0:12:30 left", "loss 21.34", "AP50 0.31", "27.4 pictures/s", "matched IoU 0.51")


@pytest.mark.parametrize(("width", "shown"), [(120, 5), (80, 4), (60, 2), (40, 1)])
def test_a_narrow_line_keeps_name_bar_count_and_the_first_figures(screen, width, shown):
    written = screen(width)
    with live_bar() as bar:
        bar.add_task("epoch 12", total=240, completed=60, figures=FIGURES)
    last = lines(written)[-1]
    assert last.startswith("epoch 12 ━")
    assert " 60/240" in last
    assert len(last) <= width
    assert [figure in last for figure in FIGURES] == [number < shown for number in range(5)]


def test_a_file_gets_plain_lines_only(screen, monkeypatch):
    written = screen(terminal=False)
    monkeypatch.setattr(progress, "SPOKEN_EVERY", -1.0)
    list(show_progress("ab", "detecting", 2))
    with stages("exporting", 1) as begin:
        begin("tracing the model")
    with waiting("overfitting", 8):
        progress.console.print("nobody wants to read this")
    text = written.getvalue()
    assert "\x1b" not in text
    assert [line.split(",")[0] for line in text.splitlines()] == [
        "detecting: 1 of 2 pictures", "detecting: 2 of 2 pictures", "exporting: tracing the model",
        "overfitting: about 8 seconds",
    ]  # fmt: skip


def test_work_within_work_is_a_second_line_that_goes_away(screen):
    written = screen()
    with live_bar() as bar:
        bar.add_task("epoch 1", total=2, figures=())
        assert list(show_progress("ab", "trying flips", 2)) == ["a", "b"]
        assert [task.description for task in bar.tasks] == ["epoch 1"]
    assert any(line.startswith("trying flips") for line in lines(written))


def test_a_sentence_is_wrapped_between_words_in_a_terminal_and_one_line_in_a_file(screen):
    sentence = "a sentence of more than twenty columns"
    written = screen(20)
    progress.console.print(sentence)
    assert lines(written) == ["a sentence of more", "than twenty columns"]
    progress.print_command("opendetr", "val", Path("runs/my cells"), "--data", "DATA")
    assert lines(written)[2:] == ["  opendetr val 'runs/my cells' --data DATA"]
    written = screen(20, terminal=False)
    progress.console.print(sentence)
    assert written.getvalue() == sentence + "\n"


def test_only_warnings_are_left_of_silence_and_go_to_standard_error(capsys):
    with silence():
        progress.console.print("no news")
        assert list(show_progress("ab", "detecting", 2)) == ["a", "b"]
        warn("the disk is full")
    warn("it still is")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("Warning: it still is\n", "Warning: the disk is full\n")


def test_a_warning_brings_its_command_along(capsys):
    with silence():
        warn("it learned nothing. Continue it:", ["opendetr", "train", "--resume", "my run", "--minutes", 3])
    printed = capsys.readouterr()
    expected = "Warning: it learned nothing. Continue it:\n  opendetr train --resume 'my run' --minutes 3\n"
    assert (printed.out, printed.err) == ("", expected)


def test_a_warning_is_printed_above_the_bar_of_what_is_waited_for(screen, monkeypatch, capsys):
    screen()
    others = io.StringIO()
    monkeypatch.setattr(progress, "Output", lambda: Output(file=others, force_terminal=True, width=80))
    with waiting("overfitting", 8):
        warn("the disk is full")
    assert "Warning: the disk is full" in lines(others)
    assert capsys.readouterr().err == ""


def test_a_notebook_without_widgets_gets_a_line_instead_of_a_bar(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Output(file=written, force_jupyter=True))
    monkeypatch.setattr(progress, "find_spec", {}.get)
    assert not progress._shows_bars()
    monkeypatch.setattr(progress, "find_spec", {"ipywidgets": 1}.get)
    assert progress._shows_bars()
    with silence():
        assert not progress._shows_bars()
