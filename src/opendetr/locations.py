"""Where files are: on a disk, in a zip archive, or at any address that fsspec opens (s3://, gs://, hdfs://, ...)."""

import io
import os
import threading
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from opendetr.errors import UserError, first_line


@runtime_checkable
class _Elsewhere(Protocol):
    """A path that is not of this machine."""

    def read_bytes(self) -> bytes: ...
    def joinpath(self, *names: str) -> Any: ...


if TYPE_CHECKING:
    FilePath = Path
else:
    FilePath = Path | _Elsewhere  # a UPath, which behaves as a Path and is none


def file_path(text: str) -> FilePath:
    """The path that a text means; the text of the path means the same again.

    Raises:
        UserError: nothing is installed that opens such addresses.
    """
    if "://" not in text:
        return Path(text)
    inside, chain, archive = text.partition("::")
    if not chain or not inside.startswith("zip://"):
        return _address(text)
    state = os.stat(archive) if os.path.isfile(archive) else None
    of_file = None if state is None else (state.st_mtime_ns, state.st_size)
    root = _archive(archive, of_file, os.getpid(), threading.get_ident())
    name = inside.removeprefix("zip://")
    return root / name if name else root


def _address(text: str) -> FilePath:
    from upath import UPath

    try:
        path = UPath(text)
        path.fs  # noqa: B018  it fails here, where the package for such addresses is missing
        return cast(Path, path)
    except (ImportError, ValueError, OSError, zipfile.BadZipFile) as error:  # such as s3:// without the package s3fs
        raise UserError(f"{text} cannot be opened ({first_line(error)})") from None


@lru_cache(maxsize=64)
def _archive(archive: str, state: object, process: int, thread: int) -> FilePath:
    """The root of a zip archive, whose list of files is read once; paths below it share its open file.

    Every thread and every process has its own: the position in an open file is shared by those that were forked. A file
    that was replaced has another `state`.
    """
    return _address(f"zip://::{archive}")


def for_pillow(path: str | FilePath) -> Path | io.BytesIO:
    """What Pillow opens: a path of this machine, or the content of a file that is elsewhere.

    Raises:
        FileNotFoundError: there is no such file; and whatever the archive or the network raises.
    """
    found = file_path(path) if isinstance(path, str) else path
    if isinstance(found, Path):
        return found
    try:
        return io.BytesIO(found.read_bytes())
    except KeyError:  # so zip archives say it
        raise FileNotFoundError(str(found)) from None


def file_state(path: FilePath) -> tuple[object, ...]:
    """Values that change when the content of the file does."""
    if isinstance(path, Path):
        state = path.stat()
        return state.st_mtime, state.st_size
    return tuple(sorted(path.fs.info(path.path).items()))  # with the checksum, or the time, that is stored there


def folder_path(text: str | Path) -> FilePath:
    """As `file_path`, for a folder; a zip archive is the folder that it holds, without folders that hold one alone."""
    path = file_path(str(text))
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise UserError(f"{path} is not a zip archive; download or pack it again")
    inside = file_path(f"zip://::{path}")
    while len(entries := [entry for entry in inside.iterdir() if entry.name != "__MACOSX"]) == 1:
        if not entries[0].is_dir():
            break
        inside = entries[0]
    return inside
