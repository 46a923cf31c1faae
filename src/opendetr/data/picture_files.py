"""Where the pictures of a data set are: by their names as written, also where another system wrote the names."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from opendetr.data.split_names import is_split_name
from opendetr.locations import FilePath


class PictureFinder:
    """Finds picture files by name in folders, which are listed once, when they are needed.

    Args:
        folders: where the files may be, the likeliest first; those that do not exist are passed over.
    """

    def __init__(self, folders: Sequence[FilePath]) -> None:
        self.listings = [_Listing(folder) for folder in folders]

    def find(self, name: str) -> tuple[str, bool] | None:
        """The path of the file as text, and whether its name is written in another way; None where there is none.

        Another way: with backslashes, ./ or folders that are doubled or left out, in another Unicode form, or in
        another letter case; then exactly one file must fit.
        """
        if (path := self.find_exactly(name)) is not None:
            return path, False
        wanted = plain_name(name)
        for listing in self.listings:
            if (path := listing.alike(wanted)) is not None:
                return path, True
        return None

    def find_exactly(self, name: str) -> str | None:
        """The path of the file of this very name, which may also lead out of the folders or be absolute."""
        return next((path for listing in self.listings if (path := listing.exact(name)) is not None), None)


def plain_name(name: str) -> str:
    """A relative file name in one way of writing it."""
    parts = PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/"))).parts
    return "/".join(part for part in parts if part not in (".", "..", "/")).casefold()


class _Listing:
    """The files below a folder, listed when they are needed."""

    def __init__(self, folder: FilePath) -> None:
        self.folder = folder

    @cached_property
    def files(self) -> dict[str, str]:
        """Name relative to the folder -> path."""
        return dict(list_files(self.folder))

    @cached_property
    def by_plain_name(self) -> dict[str, list[str]]:
        """Plain name -> paths."""
        found: dict[str, list[str]] = {}
        for name, path in self.files.items():
            found.setdefault(plain_name(name), []).append(path)
        return found

    @cached_property
    def by_last_part(self) -> dict[str, list[str]]:
        """The plain name without folders -> plain names."""
        found: dict[str, list[str]] = {}
        for name in self.by_plain_name:
            found.setdefault(name.rpartition("/")[2], []).append(name)
        return found

    def exact(self, name: str) -> str | None:
        """The file of this very name; folders of this machine are not listed for it."""
        if not isinstance(self.folder, Path):
            return self.files.get(name)
        path = os.path.join(self.folder, name)
        return path if "\0" not in path and os.path.isfile(path) else None

    def alike(self, wanted: str) -> str | None:
        """The only file whose plain name is the wanted one, or ends with it, or is its end."""
        found = self.by_plain_name.get(wanted, [])
        if not found:
            last = wanted.rpartition("/")[2]
            near = [name for name in self.by_last_part.get(last, []) if _means(wanted, name)]
            found = [path for name in near for path in self.by_plain_name[name]]
        return found[0] if len(found) == 1 else None


def _means(wanted: str, name: str) -> bool:
    """Whether one is the end of the other; a file in the folder of another split is another picture."""
    if f"/{wanted}".endswith(f"/{name}"):
        return not any(is_split_name(part) for part in wanted.removesuffix(name).split("/"))
    above = name.removesuffix(wanted)
    return f"/{name}".endswith(f"/{wanted}") and not any(is_split_name(part) for part in above.split("/"))


def list_files(folder: FilePath) -> Iterator[tuple[str, str]]:
    """The name relative to a folder and the path of every file below it; hidden ones and `._` files are left out.

    Links to folders are followed, each folder once.
    """
    if not isinstance(folder, Path):
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            if not any(part.startswith((".", "__MACOSX")) for part in name.split("/")) and path.is_file():
                yield name, str(path)
        return
    seen = set()
    for at, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(at, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        for name in files:
            if not name.startswith("."):
                yield prefix + name, os.path.join(at, name)
