"""Where files are: on a disk, in a zip archive, or at any address that fsspec opens (s3://, gs://, hdfs://, ...)."""

import zipfile
from pathlib import Path
from typing import cast

from opendetr.errors import UserError, first_line

FilePath = Path  # or a UPath, which behaves as one


def file_path(text: str) -> FilePath:
    """The path that a text means; the text of the path means the same again.

    Raises:
        UserError: nothing is installed that opens such addresses.
    """
    if "://" not in text:
        return Path(text)
    from upath import UPath

    try:
        path = UPath(text)
        path.fs  # noqa: B018  it fails here, where the package for such addresses is missing
        return cast(Path, path)
    except (ImportError, ValueError, OSError) as error:  # such as s3:// without the package s3fs
        raise UserError(f"{text} cannot be opened ({first_line(error)})") from None


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
