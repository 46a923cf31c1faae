"""Names of others are shown and never obeyed: on the console, in bars and tables, on pages, in names of files."""

import io
import json
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from opendetr import progress
from opendetr.cli import application, entry
from opendetr.drawing.labelled_boxes import _written_name
from opendetr.errors import UserError
from opendetr.inference.label_files import folder_name
from opendetr.inference.sources import distinct_names, distinct_stems, file_stem
from opendetr.labels import LabelMap
from opendetr.pages.page import page, paragraph
from opendetr.wording import HIDDEN, one_line, visible, without_hidden

NAME = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp.exe [bold]b[/bold]"  # colours, a window's title, turned letters
SHOWN = r"\x1b[31mred\x1b]0;title\x07\x9b2J\u202egnp.exe [bold]b[/bold]"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@given(st.text())
def test_nothing_hidden_is_left_and_all_else_stays(text):
    assert not HIDDEN.search(one_line(text))
    assert one_line(one_line(text)) == one_line(text)
    assert visible(text).count("\n") == text.count("\n")
    assert not STEERING.search(visible(text))
    assert len(without_hidden(text)) == len(text)
    plain = HIDDEN.sub("", text)
    assert one_line(plain) == visible(plain) == without_hidden(plain) == plain


def test_letters_of_every_script_and_joined_signs_are_no_hidden_characters():
    for name in ("лев", "细胞", "خلية", "תא", "👩‍🔬", "a\u200db", "é"):
        assert one_line(name) == name


def test_the_console_shows_names_in_sentences_tables_and_bars(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", progress.Output(file=written, force_terminal=True, width=200))
    progress.console.print(f"{NAME}: 3 pictures\nnext")
    table = Table(NAME, title=NAME)
    table.add_row(NAME)
    progress.console.print(table)
    progress.warn(NAME)
    list(progress.show_progress([1, 2], NAME, 2))
    own = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written.getvalue())  # rich's own colours and movements
    assert not STEERING.search(own.replace("\r", ""))
    # In a sentence, in the table's title, head and row, in a warning, and in the bar.
    assert own.count(SHOWN) >= 6
    assert "pictures\nnext" in own


def test_errors_are_one_line_whatever_they_name(monkeypatch, capsys):
    def fail(**_):
        raise UserError(f"the class {NAME}\nopendetr: all is well")

    monkeypatch.setattr(entry, "app", fail)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said == f"opendetr: the class {SHOWN}" + r"\nopendetr: all is well" + "\n"


def test_a_wrong_option_is_shown_as_well(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["opendetr", "info", f"--{NAME}"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2
    assert not STEERING.search(capsys.readouterr().err)


def test_json_keeps_the_true_name_and_steers_nothing(capsys):
    name = NAME + "\x7f"
    application._answer(lambda: application.Answer({"name": name}), quiet=False, as_json=True)
    written = capsys.readouterr().out
    assert json.loads(written)["name"] == name
    assert not STEERING.search(written)


def test_pages_show_them():
    written = page(NAME, paragraph(NAME))
    assert written.count(SHOWN) == 3  # title, heading, paragraph
    assert not STEERING.search(written)


def test_labels_are_described_and_drawn_in_one_line():
    assert LabelMap((1,), ("a\nb\x1b",)).describe() == r"1 'a\nb\x1b'"
    assert _written_name("a\nb\x1b", 1)[0] == r"a b\x1b"


def test_names_of_files_hold_none_and_stay_different(tmp_path):
    paths = [tmp_path / "a\x1b.png", tmp_path / "b" / "a\x1b.png", tmp_path / "a\u202e.png"]
    assert distinct_stems(paths) == ["a-", "a--2", "a--3"]
    assert distinct_names(paths) == ["a-.png", "a--2.png", "a--3.png"]
    assert file_stem("a\x1b.mp4") == "a-"
    for name in (NAME, "x" * 1000, "é" * 1000):
        folder = tmp_path / folder_name(name)
        assert not HIDDEN.search(folder.name)
        folder.mkdir()
