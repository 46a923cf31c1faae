import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from opendetr import files
from opendetr.errors import UserError
from opendetr.files import read_json, recover_folder, replacing_folder, write_bytes, write_json, write_lines, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Killed(BaseException):
    """The end of the process: nothing in the program catches it."""


@pytest.fixture
def kill_at(monkeypatch):
    """Lets the program die instead of its n-th change of the file system from now on."""

    def arm(n: int) -> list[str]:
        done = []

        def dying(action):
            def act(*arguments, **options):
                if len(done) == n:
                    raise Killed
                done.append(action.__name__)
                return action(*arguments, **options)

            return act

        for name in ("replace", "mkdir"):
            monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
        monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        return done

    return arm


def test_text_is_written_with_its_folders_and_nothing_else(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "grün")
    write_text(tmp_path / "a" / "b" / "c.txt", "blau")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"blau"
    assert names(tmp_path / "a" / "b") == {"c.txt"}


def test_an_interrupted_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(self, content):
        with open(self, "wb") as file:
            file.write(content[:2])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="full"):
        write_text(path, "new text")
    assert path.read_text() == "old"


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, "ü"], "b": {"c": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "a test") == value


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"AP": math.nan})
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist; expected a cake"),
        (b"{", "cannot be read as JSON.*cake"),
        (b"\xff\xfe{", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, expected):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        read_json(path, "a cake")
    assert str(path) in str(caught.value)


def test_a_folder_where_json_should_be(tmp_path):
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_json(tmp_path, "a cake")


def fill(folder: Path, name: str) -> None:
    with replacing_folder(folder) as new:
        assert names(new) == set()
        (new / name).write_text(name)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "runs" / "last"
    fill(folder, "one")
    fill(folder, "two")
    assert names(folder) == {"two"}
    assert names(folder.parent) == {"last"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [True, False])
def test_a_failure_leaves_the_old_folder(tmp_path, error, before):
    folder = tmp_path / "last"
    if before:
        fill(folder, "one")

    def fail():
        with replacing_folder(folder) as new:
            (new / "two").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ({"last"} if before else set())
    assert not before or names(folder) == {"one"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_are_readable_as_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing_folder(tmp_path / "model") as new:
            save_file({"weight": torch.zeros(1)}, new / "model.safetensors")  # readable by its owner only
            (new / "inner").mkdir()
            write_text(new / "inner" / "note.txt", "x")
        write_bytes(tmp_path / "bytes", b"x")
        write_lines(tmp_path / "lines", ["x"])
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(
        ("model.safetensors", "note.txt", "bytes", "lines"), mode
    )
    assert (tmp_path / "model" / "inner").stat().st_mode & 0o111  # a folder can still be entered


def test_wherever_the_program_dies_the_old_or_the_new_folder_is_there_whole(tmp_path, kill_at, monkeypatch):
    seen, killed, n = [], True, 0
    while killed:
        folder = tmp_path / str(n) / "last"
        fill(folder, "one")
        steps = kill_at(n)
        try:
            fill(folder, "two")
            killed = False
        except Killed:
            pass
        monkeypatch.undo()
        recover_folder(folder)
        seen.append(names(folder))
        fill(folder, "three")  # and the next run is not disturbed by what was left
        assert names(folder) == {"three"}
        assert names(folder.parent) == {"last"}
        n += 1
    assert "replace" in steps
    assert seen[0] == {"one"}
    assert seen[-1] == {"two"}
    assert all(content in ({"one"}, {"two"}) for content in seen)


def test_recovering_touches_nothing_that_is_there(tmp_path):
    fill(tmp_path / "last", "one")
    (tmp_path / ".last.old").mkdir()
    recover_folder(tmp_path / "last")
    assert names(tmp_path / "last") == {"one"}
    recover_folder(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_found_no_room_leaves_nothing(tmp_path, monkeypatch):
    def half(path, content):
        path.open("wb").write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        write_bytes(tmp_path / "a.bin", b"content")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_lines_that_end_in_an_error_leave_the_old_file_and_nothing_beside_it(tmp_path, error):
    def lines(*, whole):
        yield "one"
        if not whole:
            raise error
        yield "two"

    path = tmp_path / "a.txt"
    write_lines(path, lines(whole=True))
    with pytest.raises(error):
        write_lines(path, lines(whole=False))
    assert path.read_bytes() == b"one\ntwo\n"
    assert names(tmp_path) == {"a.txt"}


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(path, content):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch, renamed):
    """As on Windows, where a program may have one of its files open."""
    rename, sources = Path.replace, []

    def refusing(path, target):
        sources.append(path)
        if len(sources) == renamed + 1:
            raise PermissionError(13, "Access is denied")
        return rename(path, target)

    fill(tmp_path / "last", "one")
    monkeypatch.setattr(Path, "replace", refusing)
    with pytest.raises(PermissionError):
        fill(tmp_path / "last", "two")
    assert names(tmp_path) == {"last"}
    assert names(tmp_path / "last") == {"one"}


@pytest.mark.parametrize(("refused", "written"), [(2, True), (3, False)])
def test_what_somebody_else_has_open_for_a_moment_is_renamed_a_moment_later(tmp_path, monkeypatch, refused, written):
    """As on Windows, where virus scanners open what was written just now."""
    rename, tries = Path.replace, []

    def refusing(path, target):
        tries.append(path)
        if len(tries) <= refused:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", refusing)
    monkeypatch.setattr(files, "RETRY_AFTER", (0, 0))
    if written:
        write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == "new"
    else:
        with pytest.raises(PermissionError):
            write_text(tmp_path / "a.txt", "new")
    assert len(tries) == 3
    assert names(tmp_path) == ({"a.txt"} if written else set())
