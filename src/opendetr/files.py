"""Atomic writing: an interrupted program never leaves a partial file or folder.

What is `durable` is also on the disk before it takes its place, so that it outlives a loss of power. That costs some
milliseconds a file: it is for what takes hours to make, not for the thousands of files of a prediction.
"""

import errno
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from opendetr.errors import UserError

# Windows does not rename an open file, and virus scanners open every new file.
RETRY_AFTER = (0.05, 0.1, 0.2, 0.4, 0.8) if sys.platform == "win32" else ()  # seconds

LFS_NOTE = b"version https://git-lfs.github.com/spec/"  # how it begins


def cache_folder() -> Path:
    """Where downloads and decoded pictures are kept: `OPENDETR_CACHE`, else `~/.cache/opendetr`."""
    return Path(os.environ.get("OPENDETR_CACHE") or Path.home() / ".cache" / "opendetr")


@contextmanager
def _replacing_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside `path` that takes its place; after a failure it is removed, `path` is untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        _rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed programs left in a folder to which no other program writes now."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or the names in a folder; nothing where the file system cannot."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write `content` to `path` atomically (a temporary file beside it, then a rename)."""
    with _replacing_file(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"), durable=durable)


@contextmanager
def open_for_library(path: Path) -> Iterator[BinaryIO]:
    """A new file for a library that hides why it cannot be written: the disk's OSError replaces the library's error."""
    errors: list[OSError] = []

    class Noting(io.FileIO):
        def write(self, content: Any) -> int:
            try:
                return super().write(content)
            except OSError as error:
                errors.append(error)
                raise

    try:
        with io.BufferedWriter(Noting(path, "wb")) as file:
            yield file
    except Exception:
        if errors:
            raise OSError(errors[0].errno, errors[0].strerror, str(path)) from None
        raise


def without_infinity(value: Any) -> Any:
    """The value with None, JSON's null, for every number that is not finite: JSON has no others."""
    if isinstance(value, Mapping):
        return {key: without_infinity(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinity(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write `value` as JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n", durable=durable)


def append_line(path: Path, line: str) -> None:
    """Add a line of text as UTF-8 to `path` in one write: a killed program leaves at most the last line incomplete.

    Raises:
        OSError: the disk is full; no part of the line is written then.
    """
    content = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(content) != len(content):
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text as UTF-8 to `path` atomically, one at a time: they need not fit in memory."""
    with _replacing_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def _rename(path: Path, target: Path) -> None:
    """Move a file or a folder within its disk; an existing file is replaced."""
    for seconds in RETRY_AFTER:
        try:
            path.replace(target)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    path.replace(target)


def link_or_copy(source: str, target: str) -> str:
    """A second name of a file whose bytes are never changed; a copy where the disk knows no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def require_writable(path: Path | None) -> None:
    """Check before long work that its result can be written; None needs nothing.

    Raises:
        UserError: the path is a folder, or lies below a file.
    """
    if path is not None and (path.is_dir() or any(parent.is_file() for parent in path.parents)):
        raise UserError(f"{path} cannot be written: a file name in a folder is needed")


def require_folder(path: Path, option: str = "--output") -> None:
    """Check before long work that `--output`, or another option, can be a folder.

    Raises:
        UserError: it is a file.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{option} {path} is a file; expected a folder, or a name that is not taken")


def refuse_pointer(path: Path) -> None:
    """Check that a file is itself, not the note that Git LFS leaves for one that it has not fetched; any may be none.

    Raises:
        UserError: it is such a note.
    """
    with suppress(OSError), path.open("rb") as file:
        refuse_note(file.read(len(LFS_NOTE)), str(path))


def refuse_note(start: bytes, name: str) -> None:
    """The same of a file whose first bytes, 16 or more, are at hand."""
    if len(start) >= 16 and start.startswith(LFS_NOTE[: len(start)]):
        raise UserError(
            f"{name} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository, or download "
            f"the file"
        )


def read_json(path: Path, expected: str) -> Any:
    """The content of a JSON file; `expected` describes it in errors.

    Raises:
        UserError: the file is missing, unreadable or not JSON.
    """
    refuse_pointer(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; expected {expected}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no text, no JSON, or thousands of digits
        raise UserError(f"{path} cannot be read as JSON ({error}); expected {expected}") from None


def read_note(path: Path) -> dict[str, Any]:
    """The JSON object in a file that only saves work; empty where it is missing or damaged."""
    try:
        found = read_json(path, "an object")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def read_json_lines(path: Path) -> tuple[list[Any], int]:
    """The values of a file of JSON lines, and the number of its lines that are none; nothing where there is no file.

    A program that was killed leaves an incomplete last line, a machine that lost its power perhaps zeros.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    *lines, last = text.split("\n")
    values, damaged = [], int(bool(last))  # after the last line break: an incomplete line, or nothing
    for line in lines:
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError):
            damaged += 1
    return values, damaged


@contextmanager
def replacing_folder(folder: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of `folder`, on failure `folder` is untouched.

    Its files can be read by whom new files can: safetensors makes files that only their owner can read.
    Folders cannot be exchanged in one portable step: for a moment the old one has its `.old` name, where
    `recover_folder` finds it if the program is killed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder)
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        mode = new.stat().st_mode & 0o666  # as the umask left it
        for path in new.rglob("*"):
            if path.is_file() and not path.is_symlink():  # what a link leads to is not ours to change
                path.chmod(mode)
            if durable:
                sync(path)
        if durable:
            sync(new)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            _rename(folder, old)
        _rename(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        recover_folder(folder)
        raise
    if durable:
        sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Undo a replacement that was killed between its two renames. For writers; readers use `current_folder`."""
    current = current_folder(folder)
    if current != folder:
        _rename(current, folder)


def tidy_folder(folder: Path) -> None:
    """Recover a folder, and remove what killed replacements of it and of its files have left."""
    recover_folder(folder)
    for ending in ("new", "old"):
        shutil.rmtree(folder.with_name(f".{folder.name}.{ending}"), ignore_errors=True)
    remove_leftovers(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that its readers never find a part of it; `tidy_folder` ends what was interrupted."""
    removed = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(removed, ignore_errors=True)
    _rename(folder, removed)
    shutil.rmtree(removed)


def current_folder(folder: Path) -> Path:
    """Where the folder's content is right now, even between the two renames of a replacement under way."""
    old = folder.with_name(f".{folder.name}.old")
    return old if not folder.exists() and old.exists() else folder
