"""Where bars are shown."""

import importlib.machinery
import io
import sys

import pytest
from rich.console import Console

from opendetr import progress


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


def test_items_come_through_and_are_counted(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=True, width=80))
    assert list(progress.show_progress(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert "reading" in written.getvalue()
